"""Statements of docs/semantics.md on Kornia's defaults beside the audit's (test_audit.py): by replay, errors are in 1/255."""

from collections.abc import Callable
from typing import Any

import kornia.augmentation as K
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

SIZE = 32
EXACT = 0.05
"""float32 against float32 with another order of operations."""


@pytest.fixture
def floats(images: Tensor) -> Tensor:
    return images.float() / 255


def _mean_error(module: nn.Module, images: Tensor, expected: Callable[[Tensor, dict[str, Any], int], Tensor]) -> float:
    """Mean error of a Kornia module against a function of (image, its parameters, its index), in 1/255."""
    result = module(images)
    params = module._params
    assert isinstance(params, dict)
    return float((result - torch.stack([expected(image, params, i) for i, image in enumerate(images)])).abs().mean() * 255)


def test_solarize_draws_and_adds_by_default(floats: Tensor) -> None:
    assert _mean_error(K.RandomSolarize(p=1.0), floats, lambda x, p, i: F.solarize(x, 0.5)) > 1


def test_resize_agrees_without_antialias_and_not_by_default(floats: Tensor) -> None:
    plain = K.Resize(SIZE // 2, align_corners=False, antialias=False)
    assert _mean_error(plain, floats, lambda x, p, i: F.resize(x, [SIZE // 2], antialias=False)) < EXACT
    assert _mean_error(K.Resize(SIZE // 2), floats, lambda x, p, i: F.resize(x, [SIZE // 2])) > 1


@pytest.mark.parametrize(
    ("resample", "mode"), [("bilinear", InterpolationMode.BILINEAR), ("nearest", InterpolationMode.NEAREST)]
)
def test_rotation_agrees_in_the_same_interpolation_only(floats: Tensor, resample: str, mode: InterpolationMode) -> None:
    module = K.RandomRotation(15.0, resample=resample, p=1.0)
    assert _mean_error(module, floats, lambda x, p, i: F.rotate(x, float(p["degrees"][i]), mode)) < EXACT
    default = _mean_error(K.RandomRotation(15.0, p=1.0), floats, lambda x, p, i: F.rotate(x, float(p["degrees"][i])))
    assert default > 1  # bilinear in Kornia, nearest in torchvision


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_perspective_is_half_a_pixel_off(floats: Tensor, shift: float) -> None:
    corners = [[0 + shift, 0 + shift], [31 + shift, 0 + shift], [31 + shift, 31 + shift], [0 + shift, 31 + shift]]

    def expected(image: Tensor, params: dict[str, Any], i: int) -> Tensor:
        ends = (params["end_points"][i].double() + shift).tolist()
        return F.perspective(image, corners, ends, InterpolationMode.BILINEAR)

    error = _mean_error(K.RandomPerspective(0.5, p=1.0, align_corners=True), floats, expected)
    assert error < EXACT if shift else error > 1
