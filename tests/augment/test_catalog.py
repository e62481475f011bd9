"""Every cell of the catalog does the canonical op: torchvision's functionals with pinned parameters are the oracle."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from augment import BACKENDS, RECIPES, ROWS, UnsupportedOp, build, lane, ops
from augment.catalog import resolve

BILINEAR = InterpolationMode.BILINEAR
EAGER = [name for name, b in BACKENDS.items() if not b.compiled and b.library != "triton_augment"]  # has tests of its own

# Parameters are written out here a second time on purpose: the catalog's pinned settings are what is tested.
ORACLES: dict[str, Callable[[Tensor], Tensor]] = {
    "HorizontalFlip": lambda x: x.flip(-1),
    "VerticalFlip": lambda x: x.flip(-2),
    "RandomCrop": lambda x: x,
    "RandomResizedCrop": lambda x: x,
    "Rotate": lambda x: F.rotate(x, 30.0, interpolation=BILINEAR, fill=None),
    "Affine": lambda x: F.affine(x, 20.0, [0, 0], 1.2, [8.0, 0.0], interpolation=BILINEAR, fill=None),
    "Resize": lambda x: F.resize(x, [16, 16], antialias=True),
    "CenterCrop": lambda x: x[..., 2:30, 2:30],
    "Brightness": lambda x: (x * 1.3).clamp(0, 1),
    "Contrast": lambda x: F.adjust_contrast(x, 0.6),
    "Saturation": lambda x: F.adjust_saturation(x, 0.4),
    "Hue": lambda x: F.adjust_hue(x, 0.2),
    "Grayscale": lambda x: (0.2989 * x[:1] + 0.587 * x[1:2] + 0.114 * x[2:]).expand(3, -1, -1),
    "Solarize": lambda x: torch.where(x >= 0.5, 1 - x, x),
    "Posterize": lambda x: (x * 255).to(torch.uint8).bitwise_and(0b11110000) / 255,
    "Equalize": lambda x: F.equalize((x * 255).round().to(torch.uint8)) / 255,
    "AutoContrast": lambda x: (x - x.amin((1, 2), True)) / (x.amax((1, 2), True) - x.amin((1, 2), True)),
    "Invert": lambda x: 1 - x,
    "Sharpness": lambda x: F.adjust_sharpness(x, 2.0),
    "GaussianBlur": lambda x: F.gaussian_blur(x, [5, 5], [1.0, 1.0]),
    "Normalize": lambda x: (x - torch.tensor(ops.CIFAR10_MEAN)[:, None, None]) / torch.tensor(ops.CIFAR10_STD)[:, None, None],
    # torchvision's defaults
    "DefaultRotate": lambda x: F.rotate(x, 30.0, interpolation=InterpolationMode.NEAREST),
    "DefaultResize": lambda x: F.resize(x, [16, 16], antialias=True),
    "DefaultRandomResizedCrop": lambda x: x,
    "DefaultBrightness": lambda x: (x * 1.3).clamp(0, 1),
    "DefaultContrast": lambda x: F.adjust_contrast(x, 0.6),
    "DefaultSaturation": lambda x: F.adjust_saturation(x, 0.4),
}

# Largest error in 1/255. PIL rounds to 8 bits after each op; its hue is an 8-bit wheel on which a step moves a saturated
# channel by 6/255, and converting there and back truncates twice. Posterize on floats scales by 2**bits instead of masking
# bits: less than one step apart.
TOLERANCE = {"tensor": 0.05, "pil": 1.2}
LOOSER = {("pil", "Hue"): 12.0, ("tensor", "Posterize"): 1.0}
# Known differences, each with its cause; none of them is asserted equal.
DIFFERENT = {
    ("kornia", "Resize"): "Gaussian prefilter",
    ("kornia_shared", "Resize"): "Gaussian prefilter",
    ("pil", "Rotate"): "PIL does not blend the border with black",
    ("pil", "Affine"): "PIL does not blend the border with black",
    **{
        (backend, name): "Kornia's own default"
        for backend in ("kornia", "kornia_shared")
        for name in ("DefaultRotate", "DefaultResize", "DefaultBrightness", "DefaultContrast", "DefaultSaturation")
    },
}


def worst_error(subject: ops.Op, backend: str, images: Tensor, oracle: Callable[[Tensor], Tensor]) -> float:
    source = images.float() / 255
    expected = torch.stack([oracle(image) for image in source])
    return float((build(subject, backend)(source) - expected).abs().max() * 255)


@pytest.mark.parametrize("backend", EAGER)
@pytest.mark.parametrize("name", list(ORACLES))
def test_pinned_ops_agree_with_torchvisions_functionals(name: str, backend: str, images: Tensor) -> None:
    pinned = ROWS[name].pinned_at
    assert pinned is not None
    if BACKENDS[backend].library not in ROWS[name].build:
        with pytest.raises(UnsupportedOp, match=f"{name} is not supported by backend {backend}"):
            build(pinned(32), backend)
        return
    error = worst_error(pinned(32), backend, images, ORACLES[name])
    if (backend, name) in DIFFERENT:
        assert error > 1.0, "no longer different: take it off the list"
        return
    kind = "pil" if backend == "pil" else "tensor"
    scale = 1 / 0.24 if name == "Normalize" else 1.0  # divided by the standard deviation
    assert error <= LOOSER.get((kind, name), TOLERANCE[kind]) * scale


def test_every_row_with_a_pinned_setting_has_an_oracle() -> None:
    assert {name for name, row in ROWS.items() if row.pinned_at is not None} == set(ORACLES)
    assert {cls.__name__ for cls in ops.subclasses()} == set(ROWS)


def test_our_own_backend_has_no_defaults_of_its_own() -> None:
    lacking = {name for name, row in ROWS.items() if "fused" not in row.build}
    assert lacking == {name for name in ROWS if name.startswith("Default")}


def test_pil_geometry_differs_only_at_the_border(images: Tensor) -> None:
    inside = (slice(None), slice(None), slice(11, 21), slice(11, 21))
    source = images.float() / 255
    op = ops.Rotate(degrees=(30.0, 30.0))
    expected = torch.stack([ORACLES["Rotate"](image) for image in source])
    assert (build(op, "pil")(source) - expected)[inside].abs().max() * 255 <= TOLERANCE["pil"]


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
    assert pipeline.draws == BACKENDS[backend].draws == ("per_image" if distinct > 1 else "per_batch")


def test_lane_of_recipes() -> None:
    assert lane(RECIPES["none"](32), "kornia") == "fixed"
    assert lane(RECIPES["crop_flip"](32), "kornia") == "per_image"
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
    assert targets.shape == ((8, 10) if pipeline.mixes else (8,))


@pytest.mark.parametrize("backend", EAGER)
@pytest.mark.parametrize("op", [ops.MixUp(), ops.CutMix()], ids=lambda op: op.name)
def test_labels_are_mixed_as_the_images_are(op: ops.Op, backend: str) -> None:
    # Image i is flat grey of value v_i and of class i, so the mean of a mixed image must be the targets' mean of v.
    values = torch.arange(20, 260, 30) / 255  # whole 8-bit values: the pil backend starts from those
    images = values[:, None, None, None].expand(-1, 3, 32, 32).contiguous()
    for _ in range(20):
        mixed, targets = build(op, backend, num_classes=8)(images, torch.arange(8))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), targets @ values, atol=1e-5, rtol=0)
        torch.testing.assert_close(targets.sum(1), torch.ones(8))


def test_labels_pass_through_where_nothing_mixes(images: Tensor) -> None:
    labels = torch.arange(8)
    _, targets = build("flip", "torchvision")(images, labels)
    assert torch.equal(targets, labels)


def test_missing_labels_are_asked_for(images: Tensor) -> None:
    with pytest.raises(ValueError, match="labels"):
        build("mixup", "torchvision")(images)


@pytest.mark.parametrize("backend", EAGER)
@pytest.mark.parametrize("labels", [torch.arange(7), torch.arange(1), torch.zeros(8), torch.zeros(8, 10, dtype=torch.int64)])
def test_labels_that_do_not_fit_are_refused(labels: Tensor, backend: str, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"labels must be int64 \[8\]"):
        build("mixup", backend)(images, labels)


@pytest.mark.parametrize("wrong", [-1, 10])
def test_labels_that_are_no_class_do_not_become_targets_of_zeros(wrong: int, images: Tensor) -> None:
    labels = torch.arange(8)
    labels[3] = wrong
    with pytest.raises(ValueError, match=rf"labels must be 0 to 9 .*got {min(wrong, 0)} to"):
        build("cutmix", "fused")(images, labels)


def test_what_is_no_image_is_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"must be a tensor .* got ndarray"):
        build("flip", "fused")(images.numpy())  # type: ignore[call-overload]
    for dtype in (torch.int32, torch.bool, torch.complex64):
        with pytest.raises(ValueError, match="dtype must be a float type"):
            build("flip", "fused", dtype=dtype)
    with pytest.raises(ValueError, match="num_classes"):
        build("mixup", "fused", num_classes=0)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown recipe or op 'flop'.*crop_flip.*HorizontalFlip"):
        build("flop", "torchvision")
    with pytest.raises(ValueError, match=r"unknown backend 'dali'.*kornia_shared"):
        build("flip", "dali")


def test_unsupported_is_known_at_build_time() -> None:
    with pytest.raises(UnsupportedOp, match="AugMix is not supported by backend kornia"):
        build("augmix", "kornia")
    with pytest.raises(UnsupportedOp, match="float"):
        build("HorizontalFlip", "kornia", dtype=torch.uint8)
    with pytest.raises(UnsupportedOp, match="float"):
        build("flip", "torchvision", dtype=torch.uint8)
    with pytest.raises(UnsupportedOp, match="alpha"):
        build(ops.MixUp(alpha=0.2), "kornia")


def test_resolve_scales_with_the_image() -> None:
    assert resolve("crop_flip", 32)[0] == ops.RandomCrop(size=32, padding=4)
    assert resolve("RandomCrop", 128) == (ops.RandomCrop(size=128, padding=16),)
    assert resolve(ops.Invert()) == (ops.Invert(),)
