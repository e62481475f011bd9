"""Ops are plain values that refuse impossible parameters, and their oracles are their definitions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from augment import OPS, ops
from augment.op import Op


@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.__name__)
def test_ops_are_frozen_values_with_a_definition(op: type[Op]) -> None:
    assert (op(), hash(op())) == (op(), hash(op()))
    assert op.__doc__
    assert not op.__doc__.startswith(op.__name__ + "(")  # dataclass's generated docstring is no definition


@pytest.mark.parametrize(
    ("op", "parameters", "names"),
    [
        (ops.HorizontalFlip, {"p": 1.5}, "p must lie"),
        (ops.RandomCrop, {"size": 0}, "size"),
        (ops.RandomCrop, {"padding": -1}, "padding"),
        (ops.Affine, {"translate": (1.5, 0.0)}, "translate must be two shares"),
        (ops.Rotate, {"degrees": (0.0, float("inf"))}, "degrees must be a tuple of 2 finite numbers, got"),
        (ops.RandomErasing, {"value": (0.1, 0.2, 0.3)}, "value must be a finite number, got"),
        (ops.HorizontalFlip, {"p": "0.5"}, "p must be a finite number, got '0.5'"),
        (ops.Posterize, {"bits": 2.5}, "bits must be a whole number, got 2.5"),
        (ops.RandomResizedCrop, {"scale": [0.1, 1.0]}, "scale must be a tuple of 2 finite numbers"),
        (ops.Affine, {"shear": (-90.0, 0.0)}, "shear"),
        (ops.Perspective, {"distortion": 1.5}, "distortion"),
        (ops.Brightness, {"low": 2.0, "high": 1.0}, "low, high must be a pair"),
        (ops.Brightness, {"low": float("nan")}, "low"),
        (ops.Hue, {"low": -0.6, "high": 0.1}, "low"),
        (ops.ColorJitter, {"hue": (-0.6, 0.1)}, "hue"),
        (ops.Solarize, {"threshold": 1.5}, "threshold"),
        (ops.Posterize, {"bits": 9}, "bits"),
        (ops.Sharpness, {"factor": -1.0}, "factor"),
        (ops.GaussianBlur, {"kernel_size": 4}, "kernel_size"),
        (ops.GaussianNoise, {"sigma": -0.1}, "sigma"),
        (ops.RandomErasing, {"value": 2.0}, "value"),
        (ops.Cutout, {"side": 1.0}, "side"),
        (ops.RandomResizedCrop, {"scale": (0.5, 1.2)}, "scale"),
        (ops.Normalize, {"std": (0.0, 1.0, 1.0)}, "std"),
        (ops.RandAugment, {"magnitude": 31}, "magnitude"),
        (ops.AugMix, {"width": 0}, "width"),
        (ops.MixUp, {"alpha": 0.0}, "alpha"),
        (ops.CutMix, {"alpha": -1.0}, "alpha"),
        (ops.DefaultResize, {"size": 0}, "size"),
        (ops.DefaultRandomResizedCrop, {"ratio": (0.0, 1.0)}, "ratio"),
    ],
)
def test_impossible_parameters_are_refused_by_name(op: type[Op], parameters: dict[str, object], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        op(**parameters)


@pytest.mark.parametrize(
    ("op", "setting"),
    [
        (ops.RandomCrop, ops.RandomCrop(size=128, padding=16)),
        (ops.RandomResizedCrop, ops.RandomResizedCrop(size=128)),
        (ops.Resize, ops.Resize(size=64)),
        (ops.CenterCrop, ops.CenterCrop(size=112)),
        (ops.DefaultResize, ops.DefaultResize(size=64)),
        (ops.Invert, ops.Invert()),
    ],
)
def test_settings_scale_with_the_image(op: type[Op], setting: Op) -> None:
    assert op.at(128) == setting


@pytest.mark.parametrize(
    ("op", "size", "result"),
    [
        (ops.Resize(size=16), (32, 48), (16, 24)),
        (ops.Resize(size=16), (48, 32), (24, 16)),
        (ops.CenterCrop(size=40), (32, 32), (40, 40)),
        (ops.RandomCrop(size=32, padding=4), (24, 30), (32, 32)),
        (ops.Rotate(), (31, 33), (31, 33)),
    ],
)
def test_size_of_the_result(op: Op, size: tuple[int, int], result: tuple[int, int]) -> None:
    assert op.output_size(*size) == result


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (ops.RandomCrop(size=32, padding=4), r"RandomCrop\(size=32, padding=4\).*16x16"),
        (ops.GaussianBlur(kernel_size=35), "16x16"),
    ],
)
def test_images_too_small_for_an_op_are_refused(op: Op, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        op.output_size(16, 16)


CLOSED_FORMS: dict[str, tuple[Op, dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "HorizontalFlip": (ops.HorizontalFlip(), {}, lambda x: x.flip(-1)),
    "VerticalFlip": (ops.VerticalFlip(), {}, lambda x: x.flip(-2)),
    "RandomCrop": (
        ops.RandomCrop(size=30, padding=2), {"top": 0, "left": 3},
        lambda x: torch.nn.functional.pad(x, [2] * 4)[:, 0:30, 3:33],
    ),
    "ReflectCrop": (
        ops.ReflectCrop(size=30, padding=2), {"top": 0, "left": 3},
        lambda x: torch.nn.functional.pad(x, [2] * 4, mode="reflect")[:, 0:30, 3:33],
    ),
    "RandomResizedCrop": (
        ops.RandomResizedCrop(size=8), {"top": 4, "left": 2, "height": 16, "width": 16},
        lambda x: F.resize(x[:, 4:20, 2:18], [8, 8], antialias=True),
    ),
    "CenterCrop": (ops.CenterCrop(size=28), {}, lambda x: x[..., 2:30, 2:30]),
    "Rotate": (ops.Rotate(), {"angle": 90.0}, lambda x: x.rot90(1, (1, 2))),
    "Affine": (
        ops.Affine(), {"angle": 0.0, "translate_x": 3, "translate_y": 0, "scale": 1.0, "shear": 0.0},
        lambda x: torch.nn.functional.pad(x, [3, 0])[..., :32],
    ),
    "Perspective": (ops.Perspective(), {"corners": [[0, 0], [31, 0], [31, 31], [0, 31]]}, lambda x: x),
    "Brightness": (ops.Brightness(), {"factor": 1.3}, lambda x: (x * 1.3).clamp(0, 1)),
    "Contrast": (ops.Contrast(), {"factor": 0.0}, lambda x: F.rgb_to_grayscale(x).mean().expand_as(x)),
    "Saturation": (ops.Saturation(), {"factor": 0.0}, lambda x: F.rgb_to_grayscale(x).expand_as(x)),
    "Hue": (ops.Hue(), {"factor": 1 / 3}, lambda x: x.roll(1, 0)),
    "ColorJitter": (
        ops.ColorJitter(saturation=(1.0, 1.0)),
        {"order": [2, 3, 1, 0], "brightness": 0.5, "contrast": 1.0, "saturation": 7.0, "hue": -1 / 3},
        lambda x: x.roll(-1, 0) / 2,
    ),
    "Grayscale": (
        ops.Grayscale(), {}, lambda x: (0.2989 * x[:1] + 0.587 * x[1:2] + 0.114 * x[2:]).expand(3, -1, -1)
    ),
    "Solarize": (ops.Solarize(), {}, lambda x: torch.where(x >= 0.5, 1 - x, x)),
    "Posterize": (ops.Posterize(), {}, lambda x: (x * 255).round().to(torch.uint8).bitwise_and(0b11110000) / 255),
    "AutoContrast": (
        ops.AutoContrast(), {}, lambda x: (x - x.amin((1, 2), True)) / (x.amax((1, 2), True) - x.amin((1, 2), True))
    ),
    "Invert": (ops.Invert(), {}, lambda x: 1 - x),
    "Sharpness": (ops.Sharpness(factor=1.0), {}, lambda x: x),
    "RandomErasing": (
        ops.RandomErasing(value=0.5), {"top": 1, "left": 0, "height": 31, "width": 32},
        lambda x: torch.cat([x[:, :1], torch.full((3, 31, 32), 0.5)], 1),
    ),
    "Normalize": (ops.Normalize(mean=(0.5,) * 3, std=(0.25,) * 3), {}, lambda x: 4 * x - 2),
    "RandAugment": (
        ops.RandAugment(), {"ops": [("TranslateX", 2.9), ("Invert", 0.0)]},
        lambda x: 1 - torch.nn.functional.pad(x, [2, 0])[..., :32],
    ),
    "AugMix": (
        ops.AugMix(), {"weights": [0.5, 0.25, 0.25], "chains": [[("Invert", 0.0)], [("Identity", 0.0)]]},
        lambda x: 0.75 * x + 0.25 * (1 - x),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_oracles_are_the_definitions(name: str, images: Tensor) -> None:
    op, drawn, form = CLOSED_FORMS[name]
    image = images[0] / 255
    # A grey step is 4e-3. Warps interpolate at points that float32 misses by 1e-5; posterize on floats is less than a step off.
    tolerance = 1 / 255 if name == "Posterize" else 2e-4
    torch.testing.assert_close(op.oracle(image, drawn), form(image), atol=tolerance, rtol=0)


def test_mixing_oracles_are_the_definitions(images: Tensor) -> None:
    batch, labels = images[:2] / 255, torch.tensor([3, 1])
    mixed, targets = ops.MixUp().mix_oracle(batch, labels, [{"lam": 0.25, "partner": 1}, {"lam": 1.0, "partner": 0}], 4)
    torch.testing.assert_close(mixed, torch.stack([0.25 * batch[0] + 0.75 * batch[1], batch[1]]))
    assert targets.tolist() == [[0.0, 0.75, 0.0, 0.25], [0.0, 1.0, 0.0, 0.0]]
    half = {"top": 0, "left": 16, "height": 32, "width": 16, "partner": 1}
    mixed, targets = ops.CutMix().mix_oracle(batch, labels, [half, half | {"width": 0, "partner": 0}], 4)
    torch.testing.assert_close(mixed, torch.stack([torch.cat([batch[0, ..., :16], batch[1, ..., 16:]], -1), batch[1]]))
    assert targets.tolist() == [[0.0, 0.5, 0.0, 0.5], [0.0, 1.0, 0.0, 0.0]]
