"""Batches that are decoded from their files when they are fetched."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from augment.catalog import build
from training.config import Placement, TrainConfig
from training.data import Dataset, load
from training.distributed import Ranks
from training.feed import Batch, Feed


def _epoch(config: TrainConfig, dataset: Dataset) -> list[Batch]:
    feed = Feed(config, dataset, Ranks())
    return [feed.place(batch) for batch in feed.epoch(1)]


@pytest.fixture
def photos(make_folder: Callable[..., Path], tmp_path: Path) -> Dataset:
    """20 photographs of 20 x 16 pixels, of 24 in the folder, decoded to 16 x 16."""
    return load(str(make_folder(each=12, size=(20, 16))), root=tmp_path, image_size=16, max_train=20)


def test_a_folders_images_know_their_files(photos: Dataset) -> None:
    for split in (photos.train, photos.test):
        assert split.files is not None
        assert len(split.files) == len(split)
        for index, file in enumerate(split.files):
            assert photos.classes[int(split.labels[index])] == file.parent.name
            with Image.open(file) as image:  # its central square, of the photograph's own pixels
                pixel = image.getpixel((2 + 5, 3))
            assert tuple(split.images[index, :, 3, 5].tolist()) == pixel


@pytest.mark.parametrize(("augment_on", "num_workers"), [("device", 0), ("workers", 0), ("device", 2), ("workers", 2)])
def test_decoding_in_workers_changes_the_place_only(
    augment_on: Placement, num_workers: int, tiny: TrainConfig, photos: Dataset
) -> None:
    ahead = dataclasses.replace(tiny, augment_on=augment_on, num_workers=num_workers, batch_size=6)
    once, each = _epoch(ahead, photos), _epoch(dataclasses.replace(ahead, decode="workers"), photos)
    assert len(once) == len(each) == 4
    for one, other in zip(once, each, strict=True):
        assert one[0].equal(other[0])
        assert one[1].equal(other[1])


def test_files_are_read_anew_in_each_epoch(tiny: TrainConfig, photos: Dataset) -> None:
    """What changes on the disk is seen: nothing was kept from decoding ahead."""
    for file in photos.train.files or ():
        Image.new("RGB", (16, 16), (7, 7, 7)).save(file)
    seven = build("none", "torchvision", image_size=16)(torch.full((1, 3, 16, 16), 7, dtype=torch.uint8))
    for images, _ in _epoch(dataclasses.replace(tiny, augment_on="none", decode="workers", batch_size=10), photos):
        assert (images == seven).all()


def test_decoding_in_workers_needs_files(tiny: TrainConfig, shapes: Dataset) -> None:
    with pytest.raises(ValueError, match="decode=workers needs images in files: take --data FOLDER"):
        Feed(dataclasses.replace(tiny, decode="workers"), shapes, Ranks())
