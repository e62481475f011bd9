"""Every cell does the op by its definition, in the lane that its backend declares; what is lacking is known at build time."""

import gc
import os
import re

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from augment import (
    BACKENDS,
    OPS,
    RECIPES,
    UnsupportedOp,
    backends,
    build,
    check_supported,
    find_backend,
    known_differences,
    lane,
    ops,
    resolve,
)
from augment.audit.laws import pinned_draw
from augment.op import Op
from augment.ops.geometry import PIL_BORDER
from tests.conftest import present

OPTIONAL = ("triton_augment", "dali", "dali_torchvision", "cvcuda", "albumentations")
"""Libraries that have tests of their own."""
EAGER = [name for name, b in BACKENDS.items() if not b.compiled and b.library not in OPTIONAL]

PINNED = [name for name, op in OPS.items() if op.pinned(32) is not None]

# Largest error in 1/255. PIL rounds to 8 bits after each op; its hue is an 8-bit wheel on which a step moves a saturated
# channel by 6/255, and converting there and back truncates twice. Posterize on floats scales by 2**bits instead of masking
# bits: less than one step apart.
TOLERANCE = {"tensor": 0.05, "pil": 1.2}
LOOSER = {("pil", "Hue"): 12.0, ("tensor", "Posterize"): 1.0}
# Known differences, each with its cause; none of them is asserted equal.
DIFFERENT = {
    ("kornia", "Resize"): "Gaussian prefilter",
    ("kornia_shared", "Resize"): "Gaussian prefilter",
    ("pil", "Rotate"): PIL_BORDER,
    ("pil", "Affine"): PIL_BORDER,
    **{
        (backend, name): "Kornia's own default"
        for backend in ("kornia", "kornia_shared")
        for name in ("DefaultRotate", "DefaultResize", "DefaultBrightness", "DefaultContrast", "DefaultSaturation")
    },
}


@pytest.mark.parametrize("backend", EAGER)
@pytest.mark.parametrize("name", PINNED)
def test_pinned_ops_agree_with_their_oracle(name: str, backend: str, images: Tensor) -> None:
    pinned = present(OPS[name].pinned(32))
    if find_backend(backend).cell(pinned) is None:
        with pytest.raises(UnsupportedOp, match=f"{name} is not supported by backend {backend}"):
            build(pinned, backend)
        return
    source, drawn = images / 255, pinned_draw(pinned, (32, 32))
    assert drawn is not None
    expected = torch.stack([pinned.oracle(image, drawn) for image in source])
    error = (build(pinned, backend)(source) - expected).abs() * 255
    if (backend, name) in DIFFERENT:
        assert error.max() > 1.0, "no longer different: take it off the list"
        if DIFFERENT[backend, name] == PIL_BORDER:
            assert error[..., 11:21, 11:21].max() <= TOLERANCE["pil"]
        return
    kind = "pil" if backend == "pil" else "tensor"
    scale = 1 / 0.24 if name == "Normalize" else 1.0  # divided by the standard deviation
    assert error.max() <= LOOSER.get((kind, name), TOLERANCE[kind]) * scale


@pytest.mark.parametrize("backend", ["kornia", "torchvision_loop", "pil"])
def test_random_crop_cuts_a_window_of_the_padded_image(backend: str, images: Tensor) -> None:
    image = images[:1].expand(200, -1, -1, -1)
    crops = build(ops.RandomCrop(size=32, padding=2), backend, dtype=torch.float32)(image)
    padded = F.pad(images[0].float() / 255, [2, 2, 2, 2])
    windows = torch.stack([padded[:, y : y + 32, x : x + 32] for y in range(5) for x in range(5)])
    distance = (crops[:, None] - windows[None]).abs().flatten(2).amax(-1)
    assert distance.amin(1).max() < 1e-6
    # 25 windows, 200 draws: the chance that one given window stays empty is (24/25)**200 = 0.03 %
    assert len(distance.argmin(1).unique()) == 25


@pytest.mark.parametrize(
    ("backend", "distinct"),
    [("kornia", 4), ("torchvision_loop", 4), ("pil", 4), ("torchvision", 1), ("kornia_shared", 1)],
)
def test_lane_is_as_declared(backend: str, distinct: int, images: Tensor) -> None:
    pipeline = build([ops.HorizontalFlip(), ops.VerticalFlip()], backend)
    batch = pipeline(images[:1].expand(64, -1, -1, -1))
    assert len(batch.flatten(1).unique(dim=0)) == distinct
    assert pipeline.lane == BACKENDS[backend].lane == ("per_image" if distinct > 1 else "per_batch")


def test_lane_of_recipes() -> None:
    assert (lane(RECIPES["none"](32), "kornia"), lane(RECIPES["crop_flip"](32), "kornia")) == ("fixed", "per_image")
    assert lane(RECIPES["randaugment"](32), "kornia") == "mixed"  # one policy for the batch, crops and flips per image
    assert lane(RECIPES["mixup"](32), "torchvision") == "per_batch"


@pytest.mark.parametrize("backend", EAGER)
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_recipes_give_normalised_float_of_the_right_shape(recipe: str, backend: str, images: Tensor) -> None:
    if recipe == "augmix" and BACKENDS[backend].library == "kornia":
        pytest.skip("Kornia has no AugMix")
    labels = torch.arange(8)
    pipeline = build(recipe, backend, dtype=torch.bfloat16)
    before = images.clone()
    result, targets = pipeline(images, labels)
    size = 224 if recipe.startswith("imagenet") else {"crop_jitter": 28}.get(recipe, 32)
    assert result.shape == (8, 3, size, size)
    assert result.dtype == torch.bfloat16
    assert result.is_contiguous()
    assert bool(result.isfinite().all())
    assert -3 < result.min() < 0 < result.max() < 3  # normalised: the values straddle zero
    assert torch.equal(images, before)
    assert targets.shape == (8, 10) if pipeline.mixes else torch.equal(targets, labels)


@pytest.mark.parametrize("backend", EAGER)
@pytest.mark.parametrize("op", [ops.MixUp(), ops.CutMix()], ids=lambda op: op.name)
def test_labels_are_mixed_as_the_images_are(op: Op, backend: str) -> None:
    # Image i is flat grey of value v_i and of class i, so the mean of a mixed image must be the targets' mean of v.
    values = torch.arange(20, 260, 30) / 255  # whole 8-bit values: the pil backend starts from those
    images = values[:, None, None, None].expand(-1, 3, 32, 32).contiguous()
    for _ in range(20):
        mixed, targets = build(op, backend, num_classes=8)(images, torch.arange(8))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), targets @ values, atol=1e-5, rtol=0)
        torch.testing.assert_close(targets.sum(1), torch.ones(8))


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown recipe or op 'flop'.*crop_flip.*HorizontalFlip"):
        build("flop", "torchvision")
    with pytest.raises(ValueError, match=r"unknown backend 'nosuch'.*kornia_shared"):
        build("flip", "nosuch")


@pytest.mark.parametrize(
    ("subject", "backend", "dtype", "message"),
    [
        ("augmix", "kornia", torch.float32, "AugMix is not supported by backend kornia"),
        ("HorizontalFlip", "kornia", torch.uint8, "it needs float images"),
        ("HorizontalFlip", "triton_augment", torch.uint8, "it needs float images"),
        ("flip", "torchvision", torch.uint8, "Normalize is not supported by backend torchvision: it needs float images"),
        (ops.MixUp(alpha=0.2), "kornia_shared", torch.float32, r"kornia_shared: .*alpha must be 1, got 0.2"),
        (ops.ColorJitter(), "dali_torchvision", torch.float32, "DALI's class takes PIL images only"),
        ("flip", "cvcuda", torch.float32, "HorizontalFlip is not supported by backend cvcuda: it runs on CUDA only"),
        # what a library would refuse when called
        (ops.Posterize(bits=0), "pil", torch.float32, "backend pil: .*PIL keeps at least 1 bit, got 0"),
        (ops.Rotate(degrees=(-720.0, 0.0)), "kornia", torch.float32, "backend kornia: .*degrees out of bounds"),
        (ops.RandAugment(magnitude=30), "kornia_shared", torch.float32, "backend kornia_shared: .*Expect `m` in"),
    ],
)
def test_unsupported_is_known_when_built(subject: str | Op, backend: str, dtype: torch.dtype, message: str) -> None:
    with pytest.raises(UnsupportedOp, match=message):
        build(subject, backend, dtype=dtype)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("backend", EAGER)
def test_values_are_on_the_scale_of_one_whatever_the_type(backend: str, value: float) -> None:
    black = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    erased = build(ops.RandomErasing(p=1.0, value=value), backend)(black)
    assert erased.max() == pytest.approx(value, abs=0.5 / 255)
    solarised = build(ops.Solarize(threshold=value, p=1.0), backend)(black + 76)  # 0.298 of the scale
    assert solarised.max() == pytest.approx(1 - 76 / 255 if value == 0.0 else 76 / 255, abs=0.5 / 255)


@pytest.mark.parametrize("name", ["AutoContrast", "CenterCrop"])
def test_named_differences_of_kornia_are_these(name: str, images: Tensor) -> None:
    flat = (images / 255)[:, :, :31, :31].contiguous()
    flat[:, 1] = 0.6
    op = OPS[name].at(32) if name == "CenterCrop" else ops.AutoContrast(p=1.0)
    alternative = op.alternatives[op.differs["kornia"]]
    result = build(op, "kornia")(flat)
    torch.testing.assert_close(result, torch.stack([alternative(op, image, {}) for image in flat]), atol=1e-5, rtol=0)
    assert (result - build(op, "torchvision")(flat)).abs().max() > 0.1
    assert set(op.alternatives) <= set(op.differs.values())


def test_known_differences_are_named_by_op() -> None:
    named = known_differences([ops.Rotate(), ops.Invert(), ops.Affine()], "pil")
    assert named == f"Rotate: {PIL_BORDER}; Affine: {PIL_BORDER}"
    assert known_differences([ops.Rotate()], "torchvision") is None


class _OwnsThreads:
    """Garbage as DALI's pipelines are: part of a cycle, and its destructor works in the process that made it only."""

    def __init__(self, finalised_by: list[int]) -> None:
        self.cycle, self.finalised_by = self, finalised_by

    def __del__(self) -> None:
        self.finalised_by.append(os.getpid())


class _Collecting(torch.utils.data.Dataset[bool]):
    def __init__(self) -> None:
        self.finalised_by: list[int] = []

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> bool:
        gc.collect()
        return os.getpid() in self.finalised_by


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are not forked here")
def test_a_forked_worker_leaves_the_garbage_of_its_parent_alone() -> None:
    data = _Collecting()
    gc.collect()
    gc.disable()
    try:
        _OwnsThreads(data.finalised_by)
        loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context="fork")
        assert list(loader) == [False]
    finally:
        gc.enable()
    gc.collect()
    assert data.finalised_by == [os.getpid()]


MISSING, NEEDS, UNTESTED = "its package is missing", "it needs", "is not the tested"


@pytest.mark.parametrize(
    ("backend", "version", "answer"),
    [
        *((name, None, f"{MISSING}: pip install -e '.[{name.replace('_', '-')}]'") for name in ("triton_augment", "cvcuda")),
        *((name, None, f"{MISSING}: pip install -e '.[{name}]'") for name in ("dali", "albumentations")),
        *((name, version, "") for name, version in (("triton_augment", "0.3.4"), ("cvcuda", "0.19.1"), ("dali", "2.4"))),
        ("triton_augment", "0.2.0", f"{NEEDS} triton-augment 0.3, not 0.2.0: pip install -e '.[triton-augment]'"),
        ("triton_augment", "0.30.1", f"{NEEDS} triton-augment 0.3, not 0.30.1: pip install -e '.[triton-augment]'"),
        ("cvcuda", "0.18.2", f"{NEEDS} CV-CUDA 0.19, not 0.18.2: pip install -e '.[cvcuda]'"),
        ("cvcuda", "0.99.0", f"CV-CUDA 0.99.0 {UNTESTED} 0.19"),
        ("dali", "9.0.0", f"DALI 9.0.0 {UNTESTED} 2.4"),
        ("albumentations", "3.1.0", f"Albumentations 3.1.0 {UNTESTED} 2.0"),
    ],
)
def test_what_is_installed_decides(
    backend: str, version: str | None, answer: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(backends, "installed_version", lambda prefix: version)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    backends.warn_untested.cache_clear()
    reason = BACKENDS[backend].why_not(torch.device("cuda"))
    warned = [str(warning.message) for warning in recwarn]
    assert (reason or "", warned) == ("", [f"{answer}: its cells may fail"]) if UNTESTED in answer else (answer, [])
    if reason is not None:
        with pytest.raises(UnsupportedOp, match=f"HorizontalFlip is not supported by backend {backend}: {re.escape(reason)}"):
            check_supported(resolve("flip"), backend, device="cuda")
