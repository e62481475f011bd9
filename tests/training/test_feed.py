"""Batches: who draws what, who gets which image, and that a placement changes the place only."""

import dataclasses
import itertools

import pytest
import torch

from augment.catalog import build
from training.config import Placement, TrainConfig
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
