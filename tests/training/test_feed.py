"""Batches: who draws what, who gets which image, and that a placement changes the place only."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from augment import RECIPES, build, ops
from tests.conftest import present
from training.config import Placement, TrainConfig
from training.data import Dataset, load
from training.distributed import Ranks, stream_seed
from training.feed import Batch, Feed, iterate


def _epoch(config: TrainConfig, dataset: Dataset, epoch: int = 1, ranks: Ranks | None = None) -> list[Batch]:
    feed = Feed(config, dataset, ranks or Ranks())
    return [feed.place(batch) for batch in feed.epoch(epoch)]


def _equal(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(x.equal(y) for pair in zip(a, b, strict=True) for x, y in zip(*pair, strict=True))


def _one_image(dataset: Dataset) -> Dataset:
    """Make all training images equal, so that only draws tell batches apart."""
    images = dataset.train.images[:1].expand(len(dataset.train), -1, -1, -1)
    return replace(dataset, train=replace(dataset.train, images=images))


# ---- draws ----------------------------------------------------------------------------------------------------------------


def test_streams_differ_in_each_of_their_numbers() -> None:
    keys = itertools.product(range(3), ("weights", "order", "augment"), range(3), range(3), (None, 0, 1))
    seeds = {stream_seed(s, p, epoch=e, rank=r, worker=w) for s, p, e, r, w in keys}  # type: ignore[arg-type]
    assert len(seeds) == 3**5
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert stream_seed(1, "augment", epoch=2, rank=3, worker=4) == stream_seed(1, "augment", epoch=2, rank=3, worker=4)


@pytest.mark.parametrize(("augment_on", "num_workers"), [("device", 0), ("workers", 0), ("workers", 2)])
def test_an_epoch_repeats_bit_for_bit_and_another_differs(
    augment_on: Placement, num_workers: int, tiny: TrainConfig, shapes: Dataset
) -> None:
    config = replace(tiny, augment_on=augment_on, num_workers=num_workers)
    feed = Feed(config, shapes, Ranks())
    first, second = ([feed.place(batch) for batch in feed.epoch(epoch)] for epoch in (1, 2))
    assert _equal(first, _epoch(config, shapes))
    # Started at epoch 2, with other workers: the streams do not depend on earlier draws.
    assert _equal(second, _epoch(config, shapes, 2))
    assert not _equal(first, second)
    assert not _equal(first, _epoch(replace(config, seed=1), shapes))


@pytest.mark.parametrize(("augment_on", "num_workers", "world"), [("device", 0, 2), ("workers", 0, 2), ("workers", 2, 1)])
def test_no_two_of_all_draw_alike(
    augment_on: Placement, num_workers: int, world: int, tiny: TrainConfig, shapes: Dataset
) -> None:
    """Four batches of equal images: two of each rank, or two of each worker in turn."""
    config = replace(tiny, augment_on=augment_on, num_workers=num_workers, batch_size=40 * world)
    ranks = [_epoch(config, _one_image(shapes), ranks=Ranks(rank=rank, world=world)) for rank in range(world)]
    batches = [images for rank in ranks for images, _ in rank]
    assert [len(images) for images in batches] == [40] * 4
    assert all(not a.equal(b) for a, b in itertools.combinations(batches, 2))


# ---- which image goes where -----------------------------------------------------------------------------------------------


def test_every_image_is_seen_once_with_its_label_and_ranks_share_evenly(tiny: TrainConfig, shapes: Dataset) -> None:
    plain = build("none", "torchvision", image_size=16)(shapes.train.images)
    label_of = {row.numpy().tobytes(): int(label) for row, label in zip(plain, shapes.train.labels, strict=True)}
    for num_workers in (0, 2):
        batches = _epoch(replace(tiny, augment_on="none", num_workers=num_workers), shapes)
        rows = [row.numpy().tobytes() for images, _ in batches for row in images]
        assert (len(rows), set(rows)) == (160, set(label_of))
        assert [label_of[row] for row in rows] == torch.cat([labels for _, labels in batches]).tolist()
    config = replace(tiny, augment_on="none")
    shares = [torch.cat([i for i, _ in _epoch(config, shapes, ranks=Ranks(rank=rank, world=3))]) for rank in range(3)]
    assert [len(share) for share in shares] == [54] * 3  # 160 is no multiple of 3: two images are seen twice
    assert {row.numpy().tobytes() for share in shares for row in share} == set(label_of)


@pytest.mark.parametrize(
    ("change", "images", "sizes"),
    [
        ({}, 160, [48, 48, 48, 16]),
        ({"compile": True}, 160, [48, 48, 48]),  # it would be compiled again for a smaller batch
        ({}, 97, [48, 48]),  # batch norm cannot learn from one image of one pixel
        ({"batch_size": 1}, 97, [1] * 97),
    ],
)
def test_the_last_batch_is_kept_unless_it_is_one_image_or_something_is_compiled(
    change: dict[str, Any], images: int, sizes: list[int], tiny: TrainConfig, shapes: Dataset
) -> None:
    train = replace(shapes.train, images=shapes.train.images[:images], labels=shapes.train.labels[:images])
    feed = Feed(replace(tiny, **change), replace(shapes, train=train), Ranks())
    assert ([len(labels) for _, labels in feed.epoch(1)], feed.drop_last) == (sizes, "compile" in change)


def test_too_little_shared_memory_is_one_line(tiny: TrainConfig, shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker's default of 64 MB, of which 1 MiB is left: workers would wait for ever."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    config = replace(tiny, augment_on="workers", num_workers=8)
    with pytest.raises(ValueError, match=r"^/dev/shm has 1 MiB free, 8 loader workers need 4: .* --num-workers 0$"):
        Feed(config, shapes, Ranks())
    Feed(replace(config, num_workers=0), shapes, Ranks())


def test_a_worker_that_dies_as_it_sends_a_batch_is_named() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise EOFError  # of the pipe whose other end has gone

    batches = iterate(broken())
    assert next(batches) == 1
    with pytest.raises(RuntimeError, match="worker exited unexpectedly"):
        next(batches)


@pytest.mark.parametrize(
    ("change", "ranks", "message"),
    [
        ({"compile": True, "batch_size": 256}, Ranks(), "batch_size 256 is more than the 160 training images: take less"),
        ({}, Ranks(world=5), "batch_size 48 cannot be shared by 5 processes: take a multiple"),
        ({"decode": "workers"}, Ranks(), "decode=workers needs images in files: take --data FOLDER"),
        # Reported before workers start.
        ({"recipe": "augmix", "augment_on": "workers", "num_workers": 2}, Ranks(), "AugMix is not supported by backend kornia"),
    ],
)
def test_batches_that_cannot_be_made_are_one_line(
    change: dict[str, Any], ranks: Ranks, message: str, tiny: TrainConfig, shapes: Dataset
) -> None:
    with pytest.raises(ValueError, match=message):
        Feed(replace(tiny, **change), shapes, ranks)


@pytest.mark.parametrize("change", [{}, {"resident": True}, {"augment_on": "workers", "num_workers": 2}])
def test_an_image_is_mirrored_in_every_other_epoch(
    change: dict[str, Any], tiny: TrainConfig, shapes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "airbench", lambda size: (ops.AlternatingFlip(), ops.Normalize()))
    plain = build("none", "torchvision", image_size=16)(shapes.train.images)
    rows = {row.numpy().tobytes(): (i, False) for i, row in enumerate(plain)}
    rows |= {row.numpy().tobytes(): (i, True) for i, row in enumerate(plain.flip(3).contiguous())}
    epochs = []
    for epoch in (1, 2, 3):
        batches = _epoch(replace(tiny, recipe="airbench", **change), shapes, epoch)
        seen = [rows[row.numpy().tobytes()] for images, _ in batches for row in images]
        assert sorted(i for i, _ in seen) == list(range(160))
        assert [int(shapes.train.labels[i]) for i, _ in seen] == torch.cat([labels for _, labels in batches]).tolist()
        epochs.append(dict(seen))
    assert all(epochs[0][i] == (not epochs[1][i]) == epochs[2][i] for i in range(160))
    assert 48 <= sum(epochs[0].values()) <= 112  # five standard deviations about a half


# ---- placements -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"augment_on": "none"}, {}, {"channels_last": True, "recipe": "mixup"}])
def test_resident_images_give_the_same_batches_as_a_loader(change: dict[str, Any], tiny: TrainConfig, shapes: Dataset) -> None:
    fetched = replace(tiny, **change)
    for epoch, ranks in ((1, Ranks()), (2, Ranks(rank=1, world=3))):
        batches = _epoch(replace(fetched, resident=True), shapes, epoch, ranks)
        assert _equal(batches, _epoch(fetched, shapes, epoch, ranks))
        for images, _ in batches:
            assert images.is_contiguous(memory_format=torch.channels_last) == ("channels_last" in change)
    picks = list(Feed(replace(fetched, resident=True), shapes, Ranks()).epoch(1))
    assert [len(pick) for pick in picks] == [48, 48, 48, 16]
    assert len({pick.untyped_storage().data_ptr() for pick in picks}) == 1, "their order travels once an epoch"  # type: ignore[union-attr]


@pytest.mark.parametrize("change", [{}, {"precision": "bfloat16", "channels_last": True}])
def test_a_frozen_batch_is_prepared_once_and_always_fed(change: dict[str, Any], tiny: TrainConfig, shapes: Dataset) -> None:
    """The oracle: the first batch that is picked and normalised where nothing is augmented."""
    (bare, *_) = _epoch(replace(tiny, augment_on="none", resident=True, **change), shapes)
    feed = Feed(replace(tiny, augment_on="frozen", **change), shapes, Ranks())
    batches = [feed.place(batch) for batch in itertools.islice(feed.endless(), 6)]
    assert _equal(batches[:1], [bare])
    assert batches[0][0].stride() == bare[0].stride()
    assert all(images is batches[0][0] and labels is batches[0][1] for images, labels in batches)
    assert feed.lane == "fixed"
    shares = [next(Feed(feed.config, shapes, Ranks(rank=rank, world=2)).epoch(1)) for rank in (0, 1)]
    assert [len(labels) for _, labels in shares] == [24, 24]
    assert not shares[0][0].equal(shares[1][0])


@pytest.mark.parametrize("augment_on", ["device", "workers", "none", "frozen"])
def test_all_batches_have_the_models_layout_and_type(augment_on: Placement, tiny: TrainConfig, shapes: Dataset) -> None:
    """Black ones, which warm up, too; mixing recipes give soft targets in either place."""
    config = replace(tiny, augment_on=augment_on, recipe="mixup", precision="bfloat16", channels_last=True)
    feed = Feed(config, shapes, Ranks())
    black, batch = feed.prepare(*feed.example()), feed.place(next(feed.epoch(1)))
    for a, b in zip(black, batch, strict=True):
        assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())
    assert batch[0].dtype == torch.bfloat16
    assert batch[0].is_contiguous(memory_format=torch.channels_last)
    if config.augments:
        torch.testing.assert_close(batch[1].float().sum(1), torch.ones(48), atol=1e-2, rtol=0)  # weights in bfloat16


@pytest.mark.parametrize("change", [{}, {"resident": True}, {"augment_stream": True}, {"augment_on": "frozen"}])
def test_phases_are_marked_in_order(change: dict[str, Any], tiny: TrainConfig, shapes: Dataset) -> None:
    feed = Feed(replace(tiny, **change), shapes, Ranks())
    phases: list[str] = []
    feed.place(next(feed.epoch(1)), phases.append)
    assert phases == ["copy", "augment"]


# ---- decoding where batches are fetched -----------------------------------------------------------------------------------


@pytest.fixture
def photos(make_folder: Callable[..., Path], tmp_path: Path) -> Dataset:
    """20 photographs of 20 x 16 pixels, of 24 in the folder, decoded to 16 x 16."""
    return load(str(make_folder(count=12, size=(20, 16))), root=tmp_path, image_size=16, max_train=20)


@pytest.mark.parametrize(("augment_on", "num_workers"), [("device", 0), ("workers", 0), ("device", 2), ("workers", 2)])
def test_decoding_in_workers_moves_nothing(augment_on: Placement, num_workers: int, tiny: TrainConfig, photos: Dataset) -> None:
    ahead = replace(tiny, augment_on=augment_on, num_workers=num_workers, batch_size=6)
    batches = _epoch(ahead, photos)
    assert len(batches) == 4
    assert _equal(batches, _epoch(replace(ahead, decode="workers"), photos))


def test_files_are_read_anew_in_each_epoch(tiny: TrainConfig, photos: Dataset) -> None:
    """Nothing is kept from decoding ahead: a change on the disk is seen."""
    for file in photos.train.files or ():
        Image.new("RGB", (16, 16), (7, 7, 7)).save(file)
    seven = build("none", "torchvision", image_size=16)(torch.full((1, 3, 16, 16), 7, dtype=torch.uint8))
    for images, _ in _epoch(replace(tiny, augment_on="none", decode="workers", batch_size=10), photos):
        assert (images == seven).all()


# ---- streams on CUDA ------------------------------------------------------------------------------------------------------


class _Stream:
    """Stands in for a CUDA stream: logs its calls."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, stream: "_Stream") -> None:
        self.log.append(f"{self.name} waits for {stream.name}")

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        self.log.append(f"on {self.name}")
        yield
        self.log.append(f"off {self.name}")


@pytest.mark.parametrize("augment_stream", [False, True])
def test_training_waits_on_the_device_for_the_side_stream(
    augment_stream: bool, tiny: TrainConfig, shapes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Feed(tiny, shapes, Ranks())
    log: list[str] = []
    side, training = _Stream("side", log), _Stream("training", log)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream.current())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: training)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: log.append(f"kept for {stream.name}"))
    monkeypatch.setattr(feed, "_side_stream", side)
    monkeypatch.setattr(feed, "_augments_aside", augment_stream)
    pipeline = present(feed._pipeline)

    def augment(*batch: torch.Tensor) -> Any:
        log.append("augmenting")
        return pipeline(*batch)

    monkeypatch.setattr(feed, "_pipeline", augment)
    feed.place(next(feed.epoch(1)), log.append)
    copied = ["off side", "training waits for side", "kept for training", "kept for training", "copy"]
    steps = ["augmenting", *copied] if augment_stream else [*copied, "augmenting"]
    assert log == ["on side", *steps, "augment"]


@pytest.mark.gpu
@pytest.mark.parametrize("resident", [False, True])
def test_side_streams_change_no_batch(resident: bool, tiny: TrainConfig, shapes: Dataset) -> None:
    alone = replace(tiny, device="cuda:0", resident=resident, prefetch=False)
    ranks = Ranks(device=torch.device("cuda", 0))
    expected = _epoch(alone, shapes, ranks=ranks)
    for prefetch, augment_stream in ((True, False), (False, True), (True, True)):
        feed = Feed(replace(alone, prefetch=prefetch, augment_stream=augment_stream), shapes, ranks)
        batches = []
        for fetched in feed.epoch(1):
            images, targets = feed.place(fetched)
            busy = torch.full((2048, 2048), 1 / 2048, device="cuda")  # drawn numbers would shift the augmentation's stream
            for _ in range(20):  # the stream that trains is behind: a batch whose memory was given away would be overwritten
                busy = busy @ busy
            batches.append((images.clone(), targets.clone()))
            del images, targets
        assert _equal(batches, expected)
