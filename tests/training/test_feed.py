"""Batches: who draws what, who gets which image, and that a placement changes the place only."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from augment import build
from training.config import Placement, TrainConfig, validate
from training.data import Dataset
from training.distributed import Ranks, stream_seed
from training.feed import Batch, Feed


def _epoch(config: TrainConfig, dataset: Dataset, epoch: int = 1, ranks: Ranks | None = None) -> list[Batch]:
    feed = Feed(config, dataset, ranks or Ranks())
    return [feed.place(batch) for batch in feed.epoch(epoch)]


def _same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(x.equal(y) for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True))


def _repeated(dataset: Dataset) -> Dataset:
    """All training images equal, so that only what is drawn tells batches apart."""
    images = dataset.train.images[:1].expand(len(dataset.train), -1, -1, -1)
    return dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, images=images))


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
    config = dataclasses.replace(tiny, augment_on=augment_on, num_workers=num_workers)
    feed = Feed(config, shapes, Ranks())
    epochs = [[feed.place(batch) for batch in feed.epoch(epoch)] for epoch in (1, 2)]
    assert _same(epochs[0], _epoch(config, shapes))
    # Started at epoch 2, with other workers: the streams do not depend on what was drawn before.
    assert _same(epochs[1], _epoch(config, shapes, 2))
    assert not _same(epochs[0], epochs[1])
    assert not _same(epochs[0], _epoch(dataclasses.replace(config, seed=1), shapes))


@pytest.mark.parametrize("augment_on", ["device", "workers"])
def test_two_ranks_draw_differently(augment_on: Placement, tiny: TrainConfig, shapes: Dataset) -> None:
    config, same = dataclasses.replace(tiny, augment_on=augment_on), _repeated(shapes)
    ranks = [_epoch(config, same, ranks=Ranks(rank=rank, world=2)) for rank in (0, 1)]
    for (first, _), (second, _) in zip(*ranks, strict=True):
        assert first.shape == second.shape
        assert not first.equal(second)


def test_two_workers_draw_differently(tiny: TrainConfig, shapes: Dataset) -> None:
    config = dataclasses.replace(tiny, augment_on="workers", num_workers=2, batch_size=40)
    batches = [images for images, _ in _epoch(config, _repeated(shapes))]
    assert len(batches) == 4  # two of each worker, in turn
    assert all(not a.equal(b) for a, b in itertools.combinations(batches, 2))
    # Had both workers one stream, the first batch of each would be the same.


def test_resident_images_give_the_same_batches_as_a_loader(tiny: TrainConfig, shapes: Dataset) -> None:
    changes: tuple[dict[str, Any], ...] = ({"augment_on": "none"}, {}, {"channels_last": True, "recipe": "mixup"})
    for change in changes:
        fetched = dataclasses.replace(tiny, **change)
        resident = dataclasses.replace(fetched, resident=True)
        for epoch, ranks in ((1, Ranks()), (2, Ranks(rank=1, world=3))):
            batches = _epoch(resident, shapes, epoch, ranks)
            assert _same(batches, _epoch(fetched, shapes, epoch, ranks))
            for images, _ in batches:
                assert images.is_contiguous(memory_format=torch.channels_last) == ("channels_last" in change)


def test_the_order_of_resident_images_travels_once_an_epoch(tiny: TrainConfig, shapes: Dataset) -> None:
    picks = list(Feed(dataclasses.replace(tiny, resident=True), shapes, Ranks()).epoch(1))
    assert [len(pick) for pick in picks] == [48, 48, 48, 16]
    assert len({pick.untyped_storage().data_ptr() for pick in picks}) == 1  # type: ignore[union-attr]
    assert torch.cat(picks).sort().values.equal(torch.arange(160))  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{}, {"precision": "bfloat16", "channels_last": True}])
def test_a_frozen_batch_is_prepared_once_and_fed_at_every_step(
    change: dict[str, Any], tiny: TrainConfig, shapes: Dataset
) -> None:
    """The oracle: the first batch that is picked and normalised where nothing is augmented."""
    bare = dataclasses.replace(tiny, augment_on="none", resident=True, **change)
    feed = Feed(dataclasses.replace(tiny, augment_on="frozen", **change), shapes, Ranks())
    batches = [feed.place(batch) for batch in itertools.islice(feed.endless(), 6)]
    assert _same(batches[:1], _epoch(bare, shapes)[:1])
    assert batches[0][0].stride() == _epoch(bare, shapes)[0][0].stride()
    assert all(images is batches[0][0] and labels is batches[0][1] for images, labels in batches)
    assert feed.lane == "fixed"
    # Ranks have a share each, as of any batch.
    shares = [Feed(feed.config, shapes, Ranks(rank=rank, world=2)) for rank in (0, 1)]
    assert [len(next(share.epoch(1))[1]) for share in shares] == [24, 24]
    assert not next(shares[0].epoch(1))[0].equal(next(shares[1].epoch(1))[0])


@pytest.mark.parametrize("augment_on", ["device", "workers", "none", "frozen"])
def test_black_images_are_prepared_as_all_are(augment_on: Placement, tiny: TrainConfig, shapes: Dataset) -> None:
    config = dataclasses.replace(tiny, augment_on=augment_on, recipe="mixup", precision="bfloat16", channels_last=True)
    feed = Feed(config, shapes, Ranks())
    (images, targets), (other, like) = feed.black(), feed.place(next(feed.epoch(1)))
    assert (images.shape, images.dtype, images.stride()) == (other.shape, other.dtype, other.stride())
    assert (targets.shape, targets.dtype) == (like.shape, like.dtype)


def test_who_places_a_batch_is_told_of_its_parts_in_order(tiny: TrainConfig, shapes: Dataset) -> None:
    changes: tuple[dict[str, Any], ...] = ({}, {"resident": True}, {"augment_stream": True}, {"augment_on": "frozen"})
    for config in (dataclasses.replace(tiny, **change) for change in changes):
        feed = Feed(config, shapes, Ranks())
        parts: list[str] = []
        feed.place(next(feed.epoch(1)), parts.append)
        assert parts == ["copy", "augment"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resident": True, "num_workers": 2}, "resident images need no loader: take --augment-on device or none, "),
        ({"resident": True, "augment_on": "workers"}, "resident images need no loader: take --augment-on device or none, "),
        ({"augment_stream": True, "augment_on": "none"}, "augment_stream needs --augment-on device, not none"),
    ],
)
def test_placements_that_exclude_each_other_are_told(change: dict[str, Any], message: str, tiny: TrainConfig) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        validate(dataclasses.replace(tiny, **change))


class _Stream:
    """Stands in for a CUDA stream: notes what it is told."""

    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self.told = name, told

    def wait_stream(self, other: "_Stream") -> None:
        self.told.append(f"{self.name} waits for {other.name}")

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        self.told.append(f"on {self.name}")
        yield
        self.told.append(f"off {self.name}")


@pytest.mark.parametrize("augment_stream", [False, True])
def test_training_waits_on_the_device_for_the_stream_beside_it(
    augment_stream: bool, tiny: TrainConfig, shapes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Feed(tiny, shapes, Ranks())
    told: list[str] = []
    beside, training = _Stream("beside", told), _Stream("training", told)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream.current())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: training)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: told.append(f"kept for {stream.name}"))
    monkeypatch.setattr(feed, "_side_stream", beside)
    monkeypatch.setattr(feed, "_augments_aside", augment_stream)
    pipeline = feed._pipeline
    assert pipeline is not None

    def augment(*batch: torch.Tensor) -> Any:
        told.append("augment")
        return pipeline(*batch)

    monkeypatch.setattr(feed, "_pipeline", augment)
    feed.place(next(feed.epoch(1)), told.append)
    copied = ["off beside", "training waits for beside", "kept for training", "kept for training", "copy"]
    if augment_stream:
        assert told == ["on beside", "augment", *copied, "augment"]
    else:
        assert told == ["on beside", *copied, "augment", "augment"]


@pytest.mark.gpu
@pytest.mark.parametrize("resident", [False, True])
def test_streams_beside_change_no_batch(resident: bool, tiny: TrainConfig, shapes: Dataset) -> None:
    alone = dataclasses.replace(tiny, device="cuda:0", resident=resident, prefetch=False)
    ranks = Ranks(device=torch.device("cuda", 0))
    expected = _epoch(alone, shapes, ranks=ranks)
    for prefetch, augment_stream in ((True, False), (False, True), (True, True)):
        feed = Feed(dataclasses.replace(alone, prefetch=prefetch, augment_stream=augment_stream), shapes, ranks)
        batches = []
        for fetched in feed.epoch(1):
            images, targets = feed.place(fetched)
            busy = torch.randn(2048, 2048, device="cuda")
            for _ in range(20):  # the stream that trains is behind: a batch whose memory was given away would be overwritten
                busy = busy @ busy
            batches.append((images.clone(), targets.clone()))
            del images, targets
        assert _same(batches, expected)


def test_every_image_is_seen_once_and_ranks_share_evenly(tiny: TrainConfig, shapes: Dataset) -> None:
    config = dataclasses.replace(tiny, augment_on="none", batch_size=48)
    whole = torch.cat([images for images, _ in _epoch(config, shapes)])
    plain = build("none", "torchvision", image_size=16)(shapes.train.images)
    rows = {row.numpy().tobytes() for row in plain}
    assert len(whole) == 160
    assert {row.numpy().tobytes() for row in whole} == rows
    shares = [torch.cat([i for i, _ in _epoch(config, shapes, ranks=Ranks(rank=rank, world=3))]) for rank in range(3)]
    assert [len(share) for share in shares] == [54] * 3  # 160 is no multiple of 3: two images are seen twice
    assert {row.numpy().tobytes() for share in shares for row in share} == rows


def test_labels_stay_with_their_images(tiny: TrainConfig, shapes: Dataset) -> None:
    plain = build("none", "torchvision", image_size=16)(shapes.train.images)
    label_of = {row.numpy().tobytes(): int(label) for row, label in zip(plain, shapes.train.labels, strict=True)}
    for num_workers in (0, 2):
        for images, labels in _epoch(dataclasses.replace(tiny, augment_on="none", num_workers=num_workers), shapes):
            assert [label_of[row.numpy().tobytes()] for row in images] == labels.tolist()


def test_the_last_batch_is_kept_unless_something_is_compiled(tiny: TrainConfig, shapes: Dataset) -> None:
    assert [len(labels) for _, labels in _epoch(tiny, shapes)] == [48, 48, 48, 16]
    feed = Feed(dataclasses.replace(tiny, compile=True), shapes, Ranks())
    assert feed.drop_last
    assert [len(labels) for _, labels in feed.epoch(1)] == [48, 48, 48]
    with pytest.raises(ValueError, match="batch_size 256 is more than the 160 training images: take less"):
        Feed(dataclasses.replace(tiny, compile=True, batch_size=256), shapes, Ranks())


def test_mixing_recipes_give_soft_targets_in_either_place(tiny: TrainConfig, shapes: Dataset) -> None:
    for augment_on in ("device", "workers"):
        config = dataclasses.replace(tiny, recipe="mixup", augment_on=augment_on)
        for _, targets in _epoch(config, shapes):
            assert targets.shape[1] == 10
            torch.testing.assert_close(targets.sum(1), torch.ones(len(targets)))


def test_layout_and_type_are_the_models(tiny: TrainConfig, shapes: Dataset) -> None:
    for augment_on in ("device", "workers"):
        config = dataclasses.replace(tiny, precision="bfloat16", channels_last=True, augment_on=augment_on)
        images, _ = _epoch(config, shapes)[0]
        assert images.dtype == torch.bfloat16
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_a_batch_that_ranks_cannot_share_is_told(tiny: TrainConfig, shapes: Dataset) -> None:
    with pytest.raises(ValueError, match="batch_size 48 cannot be shared by 5 processes: take a multiple"):
        Feed(tiny, shapes, Ranks(rank=0, world=5))
