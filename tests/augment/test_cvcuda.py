"""CV-CUDA's own ``Compose`` as a backend, over kernels that are torchvision's functionals: no GPU is at hand.

What this shows: which transforms are handed over, in which layout and type, how often they draw, and that the draws are read
back. It shows nothing of CV-CUDA's kernels.
"""

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from augment import BACKENDS, build
from augment.audit import audit
from augment.op import OPS
from augment.recipes import RECIPES
from tests.conftest import present

FUNCTIONALS = (
    *("adjust_brightness", "adjust_contrast", "adjust_gamma", "adjust_hue", "adjust_saturation", "adjust_sharpness", "affine"),
    *("autocontrast", "center_crop", "crop", "elastic", "equalize", "erase", "gaussian_blur", "gaussian_noise"),
    *("horizontal_flip", "invert", "normalize", "pad", "perspective", "posterize", "resize", "resized_crop"),
    *("rgb_to_grayscale", "rotate", "solarize", "to_dtype", "vertical_flip"),
)
LACKING = {"MixUp", "CutMix", "AugMix"}


class Image:
    """A stand-in for ``cvcuda.Tensor`` that holds a tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.shape, self.layout = tensor, tuple(tensor.shape), {3: "CHW", 4: "NCHW"}[tensor.ndim]
        self.dtype = np.dtype(str(tensor.dtype).removeprefix("torch."))


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """Run the installed ``Compose`` over torchvision's functionals on the CPU; yields the batches that it was given."""
    spec = importlib.util.find_spec("cvcuda")
    if spec is None or spec.origin is None:
        pytest.skip("CV-CUDA is not installed")
    batches: list[Tensor] = []

    def take(tensor: Tensor) -> Image:
        batches.append(tensor)
        return Image(tensor)

    def kernel(name: str) -> Any:
        return lambda image, *args, stream, **kwargs: Image(getattr(F, name)(image.tensor, *args, **kwargs))

    package: Any = ModuleType("cvcuda")
    package.Tensor, package.Stream, package.as_stream = Image, object, lambda handle: handle
    tv: Any = ModuleType("cvcuda.tv")
    tv.__path__, tv.__all__ = [str(Path(spec.origin).parent / "tv")], ["Compose", *FUNCTIONALS]
    vars(tv).update({name: kernel(name) for name in FUNCTIONALS})
    package.tv = tv
    tensors: Any = ModuleType("cvcuda.tv._torch")
    tensors._as_cvcuda, tensors._to_torch = take, lambda image: image.tensor
    for module in (package, tv, tensors):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    tv._torch = tensors
    compose = importlib.import_module("cvcuda.tv._compose")
    monkeypatch.setattr(compose, "_device_of", lambda images, was_cv: torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0))
    tv.Compose = compose.Compose
    monkeypatch.setitem(BACKENDS, "cvcuda", replace(BACKENDS["cvcuda"], why_not=lambda device: None))
    yield batches
    sys.modules.pop("cvcuda.tv._compose")


@pytest.mark.slow
def test_every_op_and_recipe_is_torchvisions_with_one_draw_a_batch(batches: list[Tensor]) -> None:
    """Pixels agree because the stand-in kernels are the oracles' functionals; draws, lanes and laws are Compose's own."""
    report = audit(["cvcuda"], tuple(OPS), tuple(RECIPES), n=300, workers=False)
    refused = {verdict.subject for verdict in report.verdicts if verdict.verdict == "unsupported"}
    assert refused == LACKING | {"mixup", "cutmix", "augmix"}
    audited = {v.subject: (v.verdict, v.cause) for v in report.verdicts if v.subject not in refused}
    noise = present(report.find("GaussianNoise", "cvcuda"))
    assert audited.pop("GaussianNoise") == (
        "close",
        "known by its outputs, CV-CUDA draws noise on the device by a seed of its own",
    )
    assert min(test.n for test in noise.tests) >= 300
    rounded = {
        subject for subject, (_, cause) in audited.items() if cause.startswith("8-bit rounding between ops, exact on floats")
    }
    assert rounded <= set(RECIPES)
    assert {subject: what for subject, what in audited.items() if what[0] != "exact" and subject not in rounded} == {}
    assert {v.lane.measured for v in report.verdicts if v.lane is not None} <= {"per_batch", "per_image", "fixed"}


def test_a_recipe_is_one_call_on_planar_bytes(batches: list[Tensor]) -> None:
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    result = build("crop_flip", "cvcuda")(images)
    assert (result.shape, result.dtype) == ((4, 3, 32, 32), torch.float32)
    assert [(batch.shape, batch.dtype) for batch in batches] == [(images.shape, torch.uint8)]


def test_the_seed_is_torchs(batches: list[Tensor]) -> None:
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    first, second = (
        build("randaugment", name, generator=torch.Generator().manual_seed(3)) for name in ("cvcuda", "torchvision")
    )
    for _ in range(5):
        torch.testing.assert_close(first(images), second(images), rtol=0, atol=1e-5)  # bytes become floats by another formula
