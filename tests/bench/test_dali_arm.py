"""DALI's arm of ``augmark pipeline`` against Pillow and torchvision."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from augment import BACKENDS, ops
from bench.jobs.arms import ARMS, Work
from bench.jobs.photoset import Making, load_photographs


def test_a_batch_of_dalis_graph_is_what_torchvision_makes_of_pillows_pixels(tmp_path: Path) -> None:
    if reason := BACKENDS["dali"].why_not(torch.device("cpu")):
        pytest.skip(reason)
    for i in range(4):
        x, y = torch.meshgrid(torch.arange(96), torch.arange(80), indexing="xy")
        pixels = torch.stack([2 * x, 3 * y, 40 * i + x]).to(torch.uint8)
        F.to_pil_image(pixels).save(tmp_path / f"{i}.jpg", quality=95)
    photographs = load_photographs(tmp_path, 4, Making(repeat=1, size=None, quality=90), tmp_path / "cache")
    steps = (ops.RandomResizedCrop(size=48, scale=(1.0, 1.0), ratio=(1.2, 1.2)), ops.HorizontalFlip(p=1.0), ops.Normalize())
    arm, indices = ARMS["dali-dali-device"], torch.arange(4)
    items: object = indices.tolist()
    chain = arm.chain(Work(photographs=photographs, cache=tmp_path / "cache", ops=steps))
    for stage in (*chain.fetch.values(), *chain.own.values()):
        items = stage(items, indices)
    assert isinstance(items, tuple)
    for file, result in zip(photographs.files, items[0], strict=True):
        decoded = F.to_dtype(F.pil_to_tensor(Image.open(file)), torch.float32, scale=True)
        expected = F.horizontal_flip(F.resize(decoded, [48, 48], antialias=True))
        error = (result - F.normalize(expected, list(steps[2].mean), list(steps[2].std))).abs() * 255 * 0.25
        assert float(error.mean()) < 1.0  # two JPEG decoders, and DALI's filter repeats the border
    with pytest.raises(ValueError, match="choose the recipe imagenet"):
        arm.chain(Work(photographs=photographs, cache=tmp_path / "cache", ops=(ops.Rotate(),)))
