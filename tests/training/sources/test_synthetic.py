"""The drawn set is repeatable, faces one way in training, and rewards augmentation."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.config import TrainConfig
from training.data import Dataset, load
from training.loop import train
from training.sources.synthetic import SHAPES, draw_shapes


def test_the_same_seed_draws_the_same_set() -> None:
    first, again, second = draw_shapes(seed=3), draw_shapes(seed=3), draw_shapes(seed=4)
    assert first.train.images.equal(again.train.images)
    assert first.test.images.equal(again.test.images)
    assert first.fingerprint == again.fingerprint
    assert not first.train.images.equal(second.train.images)
    assert first.fingerprint != second.fingerprint
    assert first.train.images.shape == (2000, 3, 32, 32)
    assert first.train.labels.bincount().tolist() == first.test.labels.bincount().tolist() == [200] * len(SHAPES)


def _off_centre(dataset: Dataset, name: str, label: int) -> torch.Tensor:
    """Return how far each shape's weight lies right of the image's middle, as a share of the side."""
    split = getattr(dataset, name)
    images = split.images[split.labels == label].double().mean(1)
    border = torch.cat([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1).median(1).values
    weight = ((images - border[:, None, None]).abs() - 60).clamp(min=0)  # beyond the noise
    x = torch.linspace(-0.5, 0.5, images.shape[-1], dtype=torch.float64)
    return (weight.sum(1) * x).sum(1) / weight.sum((1, 2)).clamp(min=1)


def test_training_shapes_face_one_way_and_test_shapes_either() -> None:
    dataset = draw_shapes(image_size=32)
    wedge = list(SHAPES).index("wedge")  # its weight lies left of its middle when it faces right
    train, test = _off_centre(dataset, "train", wedge), _off_centre(dataset, "test", wedge)
    assert train.mean() < -0.04  # about a sixth of the radius, 0.28 of the side
    assert abs(test.mean()) < 0.04  # mirrored half of the time; 200 images with sd 0.12 have a standard error below 0.01
    assert test.std() > 1.5 * train.std()  # shifted further


@pytest.mark.slow
def test_augmentation_raises_test_accuracy() -> None:
    dataset = load("synthetic", root=Path("nowhere"), image_size=16, max_train=600, max_test=500)
    config = TrainConfig(
        backend="kornia", model="resnet8", width=8, epochs=9, batch_size=32, learning_rate=5e-3, image_size=16, device="cpu",
    )  # fmt: skip
    last = {name: train(replace(config, recipe=name), dataset).last for name in ("none", "flip", "crop_flip")}
    assert last["none"].train_accuracy > 0.95, "it has learnt its images: its test accuracy is not for want of training"
    # With 500 images an accuracy has a binomial sd of 0.022; the differences seen are about 0.15 and 0.25.
    assert last["flip"].test_accuracy > last["none"].test_accuracy + 0.05
    assert last["crop_flip"].test_accuracy > last["none"].test_accuracy + 0.12
