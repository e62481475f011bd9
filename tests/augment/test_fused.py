"""The fused backend does to each image what torchvision's functionals do with the parameters drawn for it."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from augment import RECIPES, fused, ops, policies, stages
from augment.catalog import resolve
from augment.compose import Pipeline, to_float
from augment.ops import Op
from augment.sampling import SAMPLERS, Params

BILINEAR = InterpolationMode.BILINEAR
# The audit's "exact" is 1/255; float32 sums in another order stay far below. Perspective: torchvision rounds coefficients.
TOLERANCE = {"Perspective": 5e-4}
DEFAULT_TOLERANCE = 4e-5

Row = dict[str, Any]
"""One image's parameters: numbers and lists."""


def _window(row: Row) -> list[int]:
    return [int(row[key]) for key in ("top", "left", "height", "width")]


def _rotated(op: ops.Rotate, image: Tensor, row: Row) -> Tensor:
    return F.rotate(image, row["angle"], interpolation=BILINEAR, fill=None)


def _affine(op: ops.Affine, image: Tensor, row: Row) -> Tensor:
    shift = [int(row["translate_x"]), int(row["translate_y"])]
    return F.affine(image, row["angle"], shift, row["scale"], [row["shear"], 0.0], interpolation=BILINEAR, fill=None)


def _perspective(op: ops.Perspective, image: Tensor, row: Row) -> Tensor:
    height, width = image.shape[-2:]
    start = [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]
    return F.perspective(image, start, row["corners"], BILINEAR, fill=None)


def _jittered(op: ops.ColorJitter, image: Tensor, row: Row) -> Tensor:
    adjust = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue]
    for kind in row["order"]:
        image = adjust[kind](image, row["factors"][kind])
    return image


def _erased(op: Any, image: Tensor, row: Row) -> Tensor:
    return F.erase(image, *_window(row), torch.tensor(getattr(op, "value", 0.0)))


def _policy(space: policies.Space, transform: Any) -> Callable[[Op, Tensor, Row], Tensor]:
    """torchvision's own application and magnitudes of the drawn ops."""

    def apply(op: Op, image: Tensor, row: Row) -> Tensor:
        for chosen, bin, negative in zip(row["op"], row["bin"], row["negative"], strict=True):
            name = space.names[chosen]
            magnitudes, signed = transform._AUGMENTATION_SPACE.get(name, (lambda *_: None, False))
            values = magnitudes(space.bins, *image.shape[-2:])
            magnitude = 0.0 if values is None else float(values[bin]) * (-1 if signed and negative else 1)
            image = transform._apply_image_or_video_transform(image, name, magnitude, BILINEAR, {torch.Tensor: None})
        return image

    return apply


def _augmixed(op: ops.AugMix, image: Tensor, row: Row) -> Tensor:
    chain = _policy(policies.AUGMIX, v2.AugMix())
    result = row["weights"][0] * image
    for index, weight in enumerate(row["weights"][1:]):
        result = result + weight * chain(op, image, {key: row[key][index] for key in ("op", "bin", "negative")})
    return result


def _if_applied(functional: Callable[[Any, Tensor], Tensor]) -> Callable[[Op, Tensor, Row], Tensor]:
    return lambda op, image, row: functional(op, image) if row["applied"] else image


ORACLES: dict[type[Op], Callable[[Any, Tensor, Row], Tensor]] = {
    ops.HorizontalFlip: _if_applied(lambda op, x: F.horizontal_flip(x)),
    ops.VerticalFlip: _if_applied(lambda op, x: F.vertical_flip(x)),
    ops.RandomCrop: lambda op, x, row: F.crop(F.pad(x, [op.padding]), int(row["top"]), int(row["left"]), op.size, op.size),
    ops.RandomResizedCrop: lambda op, x, row: F.resized_crop(x, *_window(row), [op.size] * 2, antialias=op.antialias),
    ops.Rotate: _rotated,
    ops.Affine: _affine,
    ops.Perspective: lambda op, x, row: _perspective(op, x, row) if row["applied"] else x,
    ops.Resize: lambda op, x, row: F.resize(x, [op.size], antialias=op.antialias),
    ops.CenterCrop: lambda op, x, row: F.center_crop(x, [op.size]),
    ops.Brightness: lambda op, x, row: F.adjust_brightness(x, row["factor"]),
    ops.Contrast: lambda op, x, row: F.adjust_contrast(x, row["factor"]),
    ops.Saturation: lambda op, x, row: F.adjust_saturation(x, row["factor"]),
    ops.Hue: lambda op, x, row: F.adjust_hue(x, row["factor"]),
    ops.ColorJitter: _jittered,
    ops.Grayscale: _if_applied(lambda op, x: F.rgb_to_grayscale(x, 3)),
    ops.Solarize: _if_applied(lambda op, x: F.solarize(x, op.threshold)),
    ops.Posterize: _if_applied(lambda op, x: F.posterize(x, op.bits)),
    ops.Equalize: _if_applied(lambda op, x: F.equalize(x)),
    ops.AutoContrast: _if_applied(lambda op, x: F.autocontrast(x)),
    ops.Invert: _if_applied(lambda op, x: F.invert(x)),
    ops.Sharpness: _if_applied(lambda op, x: F.adjust_sharpness(x, op.factor)),
    ops.GaussianBlur: lambda op, x, row: F.gaussian_blur(x, [op.kernel_size] * 2, [row["sigma"]] * 2),
    ops.GaussianNoise: lambda op, x, row: (x + torch.tensor(row["noise"])).clamp(0, 1),
    ops.RandomErasing: _erased,
    ops.Cutout: _erased,
    ops.Normalize: lambda op, x, row: F.normalize(x, list(op.mean), list(op.std)),
    ops.AutoAugment: _policy(policies.AUTOAUGMENT, v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)),
    ops.RandAugment: _policy(policies.RANDAUGMENT, v2.RandAugment()),
    ops.TrivialAugmentWide: _policy(policies.TRIVIALAUGMENT, v2.TrivialAugmentWide()),
    ops.AugMix: _augmixed,
}
MIXING: dict[type[Op], Callable[[Tensor, Tensor, Row], Tensor]] = {
    ops.MixUp: lambda x, partner, row: x * row["lam"] + partner * (1 - row["lam"]),
    ops.CutMix: lambda x, partner, row: _pasted(x, partner, *_window(row)),
}
EVERY_OP: list[Op] = [kind() for kind in SAMPLERS if kind not in MIXING]
EVERY_OP += [
    ops.RandomErasing(p=1.0, value=0.3), ops.RandomResizedCrop(size=20, antialias=False), ops.CenterCrop(size=44),
    ops.Resize(size=20), ops.Resize(size=50, antialias=False), ops.RandAugment(num_ops=1, magnitude=30),
    ops.RandomResizedCrop(size=64), ops.RandomCrop(size=16, padding=0), ops.GaussianBlur(kernel_size=9, sigma=(0.1, 4.0)),
]  # fmt: skip
AFTER_A_JUMP = 2e-3
"""Share of values that may differ in chains: a last-bit difference before a threshold (posterize, solarize, equalize) is a
whole step behind it. In single ops there is no such excuse."""


def _pasted(image: Tensor, partner: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    result = image.clone()
    result[:, top : top + height, left : left + width] = partner[:, top : top + height, left : left + width]
    return result


def rows(params: Params, count: int) -> list[Row]:
    values = {key: value.tolist() for key, value in params.items()}
    return [{key: value[i] for key, value in values.items()} for i in range(count)]


def photographs(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """uint8 with structure in the first half, noise in the second; one grey and one flat image."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1).mul(255).to(torch.uint8)
    images[count // 2 :] = torch.randint(0, 256, (count - count // 2, 3, height, width), generator=generator)
    images[0] = images[0, :1]
    images[1] = 77
    return images


def assert_same(result: Tensor, expected: Tensor, tolerance: float, excused: float = 0.0) -> None:
    assert result.shape == expected.shape
    wrong = (result.double() - expected.double()).abs() > tolerance
    assert float(wrong.double().mean()) <= excused, f"{int(wrong.sum())} of {wrong.numel()} values differ"


def check(op: Op, images: Tensor, seed: int = 0, excused: float = 0.0) -> None:
    planned = fused.plan([op])
    params = planned.sample(len(images), images.shape[2], images.shape[3], torch.Generator().manual_seed(seed))
    before = images.clone()
    result = planned.apply(images, params)
    assert torch.equal(images, before)
    # Bytes that stay bytes are torchvision's bytes; all else is what it makes of floats.
    source = images.float() / 255 if images.dtype == torch.uint8 != result.dtype else images
    expected = [ORACLES[type(op)](op, x, row) for x, row in zip(source, rows(params[0], len(images)), strict=True)]
    assert_same(to_float(result), to_float(torch.stack(expected)), TOLERANCE.get(op.name, DEFAULT_TOLERANCE), excused)
    assert torch.equal(planned.apply(images, params), planned.apply(images, params))


def jumps(op: Op) -> float:
    return AFTER_A_JUMP if isinstance(op, ops.RandAugment | ops.AutoAugment | ops.AugMix) else 0.0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("op", EVERY_OP, ids=str)
def test_every_op_is_torchvisions(op: Op, dtype: torch.dtype) -> None:
    images = photographs(24, 40, 36)
    check(op, images if dtype == torch.uint8 else images.float() / 255, excused=jumps(op))


@pytest.mark.parametrize("op", [op for op in EVERY_OP if not isinstance(op, ops.GaussianBlur)], ids=str)
def test_odd_sizes(op: Op) -> None:
    for height, width in ((33, 65), (1, 1)):
        if isinstance(op, ops.RandomCrop) and min(height, width) + 2 * op.padding < op.size:
            continue
        # Which of two tied neighbours a half lands on decides where one pixel is all there is to the histogram.
        check(op, photographs(2, height, width), excused=jumps(op))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (7, 1), (2, 2)])
def test_perspective_of_a_line_moves_nothing(height: int, width: int) -> None:
    """torchvision's solver refuses corners on one line; its sampling by the map that moves nothing is the oracle."""
    images = photographs(16, height, width).float() / 255
    planned = fused.plan([ops.Perspective(p=1.0, distortion=1.0 if min(height, width) == 1 else 0.5)])
    result = planned.apply(images, planned.sample(16, height, width, torch.Generator().manual_seed(0)))
    stays = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    expected = F.perspective(images, None, None, BILINEAR, fill=None, coefficients=stays)
    assert_same(result, expected, DEFAULT_TOLERANCE)


def test_every_op_of_the_backend_is_tested() -> None:
    assert set(SAMPLERS) == set(ORACLES) | set(MIXING)
    assert set(SAMPLERS) == set(stages.STAGES) | set(stages.EXACT) | {ops.RandomResizedCrop}
    missing = {kind.__name__ for kind in ops.subclasses()} - {kind.__name__ for kind in SAMPLERS}
    assert all(name.startswith("Default") for name in missing)  # those leave their definition to a library
    assert set(stages.POLICY_KERNELS) == set(policies.KERNELS)


@pytest.mark.parametrize("op", [ops.RandAugment(), ops.AutoAugment()], ids=lambda op: op.name)
def test_each_place_of_a_policy_is_exact(op: Op) -> None:
    """Op by op from the fused result so far: no excuse for jumps, and all ops of the table occur."""
    images = photographs(200, 32, 32)
    planned = fused.plan([op])
    params = planned.sample(200, 32, 32, torch.Generator().manual_seed(4))[0]
    oracle = ORACLES[type(op)]
    so_far = images.float() / 255
    for place in range(2):
        here = {key: value[:, place : place + 1] for key, value in params.items() if key != "pair"}
        result = planned.apply(so_far, [here])
        expected = [oracle(op, x, row) for x, row in zip(so_far, rows(here, 200), strict=True)]
        assert_same(result, torch.stack(expected), DEFAULT_TOLERANCE)
        so_far = result


@pytest.mark.parametrize("op", [ops.MixUp(), ops.CutMix()], ids=lambda op: op.name)
def test_mixing(op: Op) -> None:
    images = photographs(16, 24, 32)
    planned = fused.plan([op])
    params = planned.sample(16, 24, 32, torch.Generator().manual_seed(0))
    source = images.float() / 255
    expected = [
        MIXING[type(op)](x, source[i - 1], row) for i, (x, row) in enumerate(zip(source, rows(params[0], 16), strict=True))
    ]
    result = planned.apply(images, params)
    assert_same(result.float() / (255 if result.dtype == torch.uint8 else 1), torch.stack(expected), DEFAULT_TOLERANCE)
    targets = planned.targets(torch.arange(16), params, 16)
    lam = params[0]["lam"]
    torch.testing.assert_close(targets.diagonal(), lam)
    torch.testing.assert_close(targets[torch.arange(16), torch.arange(16) - 1], 1 - lam)


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_recipes_are_their_ops_one_after_the_other(recipe: str) -> None:
    """Stages join ops; each op alone with the same parameters is the oracle."""
    size = 48 if recipe.startswith("imagenet") else 32
    images, labels = photographs(6, size, size), torch.arange(6)
    recipe_ops = resolve(recipe, size)
    planned = fused.plan(recipe_ops)
    params = planned.sample(6, size, size, torch.Generator().manual_seed(0))
    expected = images
    for op, drawn in zip(recipe_ops, params, strict=True):
        expected = fused.plan([op]).apply(expected, [drawn])
    tolerance = 5 * DEFAULT_TOLERANCE  # divided by standard deviations
    if recipe == "imagenet":  # on its own its crop rounds to bytes
        tolerance = 1 / 255 / min(ops.IMAGENET_STD)
    assert_same(planned.apply(images, params), expected, tolerance)
    assert planned.mixes is (recipe in {"mixup", "cutmix"})
    assert planned.targets(labels, params, 10).shape == ((6, 10) if planned.mixes else (6,))


def test_what_is_joined() -> None:
    def sizes(*recipe: Op) -> list[int]:
        return [len(stage.ops) for stage in fused.plan(recipe).stages]

    flip, mirror, crop, resized = ops.HorizontalFlip(), ops.VerticalFlip(), ops.RandomCrop(), ops.RandomResizedCrop()
    assert sizes(crop, flip, mirror, ops.Normalize()) == [3, 1]
    assert sizes(flip, crop, flip, crop, mirror) == [3, 2]  # a second crop sees black where the first one cut
    assert sizes(resized, flip, flip, crop, ops.Normalize()) == [3, 1, 1]
    assert sizes(flip, ops.ColorJitter(), resized) == [1, 1, 1]


def test_flips_behind_a_resized_crop_cancel_in_pairs() -> None:
    recipe = [ops.RandomResizedCrop(size=16), ops.HorizontalFlip(p=1.0), ops.HorizontalFlip(p=1.0), ops.VerticalFlip(p=1.0)]
    images = photographs(4, 32, 32)
    planned = fused.plan(recipe)
    params = planned.sample(4, 32, 32, torch.Generator().manual_seed(0))
    cropped = fused.plan(recipe[:1]).apply(images, params[:1])
    assert_same(planned.apply(images, params), cropped.flip(2), DEFAULT_TOLERANCE)


def test_grouping_and_selecting_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """What accelerators run against what CPUs run, on all kernels that branch."""
    recipe = [ops.ColorJitter(), ops.TrivialAugmentWide(), ops.Perspective(), ops.Equalize(), ops.RandomResizedCrop(size=64)]
    images = photographs(64, 32, 32).float() / 255
    for op in recipe:
        planned = fused.plan([op])
        params = planned.sample(64, 32, 32, torch.Generator().manual_seed(0))
        grouped = planned.apply(images, params)
        with monkeypatch.context() as patched:
            patched.setattr(torch.compiler, "is_compiling", lambda: True)  # what tells a CPU to do as accelerators do
            selected = planned.apply(images, params)
        assert_same(selected, grouped, DEFAULT_TOLERANCE)


def pipeline(subject: str | Op, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32) -> Pipeline:
    recipe = resolve(subject, 32)
    runner = fused.compose(recipe, num_classes=10, generator=generator)
    return Pipeline(ops=recipe, backend="fused", draws="per_image", mixes=fused.plan(recipe).mixes, run=runner, dtype=dtype)


def test_the_same_seed_gives_the_same_batch_and_leaves_the_global_one_alone() -> None:
    images = photographs(8, 32, 32)
    before = torch.random.get_rng_state()
    results = [pipeline("randaugment", torch.Generator().manual_seed(seed))(images) for seed in (1, 1, 2)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("subject", [*RECIPES, "Invert", "GaussianNoise", "Resize"])
def test_input_is_kept_and_memory_is_own(subject: str) -> None:
    labels = torch.arange(4)
    for images in (photographs(4, 32, 32), photographs(4, 32, 32).float() / 255):
        for given in (images, images.to(memory_format=torch.channels_last), images[:, :, :, ::2].repeat_interleave(2, 3)):
            before = given.clone()
            result, _ = pipeline(subject, torch.Generator().manual_seed(0), torch.bfloat16)(given, labels)
            assert torch.equal(given, before)
            assert result.is_contiguous()
            assert result.dtype == torch.bfloat16
            assert bool(result.isfinite().all())
            assert result.untyped_storage().data_ptr() != given.untyped_storage().data_ptr()


def test_layout_of_the_input_does_not_matter() -> None:
    images = photographs(8, 32, 32)
    for recipe in ("crop_flip", "d2l", "trivialaugment"):
        first, second = (
            pipeline(recipe, torch.Generator().manual_seed(3))(given)
            for given in (images, images.to(memory_format=torch.channels_last))
        )
        assert torch.equal(first, second)


@pytest.mark.parametrize("op", [op for op in EVERY_OP if type(op) not in {ops.Resize, ops.CenterCrop, ops.Normalize}], ids=str)
def test_identical_images_come_out_different(op: Op) -> None:
    images = (photographs(3, 32, 32)[2:] // 2 + 40).expand(64, -1, -1, -1)  # not all of the range: room for AutoContrast
    result = fused.plan([op]).apply(images, fused.plan([op]).sample(64, 32, 32, torch.Generator().manual_seed(0)))
    distinct = len(result.flatten(1).unique(dim=0))
    only_a_coin = SAMPLERS[type(op)] is SAMPLERS[ops.Invert]
    assert distinct == 2 if only_a_coin else distinct > 12


def test_uint8_stays_uint8_where_pixels_only_move() -> None:
    images = photographs(4, 32, 32)
    recipe = [ops.RandomCrop(), ops.HorizontalFlip(), ops.Cutout(), ops.CutMix()]
    planned = fused.plan(recipe)
    assert planned.apply(images, planned.sample(4, 32, 32)).dtype == torch.uint8


def test_a_generator_elsewhere_is_refused() -> None:
    images = photographs(2, 32, 32).to("meta")
    with pytest.raises(ValueError, match="generator is on cpu"):
        fused.compose([ops.Invert()], num_classes=10, generator=torch.Generator())(images, None)


def test_one_image_and_an_empty_choice() -> None:
    image = photographs(3, 32, 32)[2:]
    for p in (0.0, 1.0):
        result = pipeline(ops.Equalize(p=p))(image)
        expected = F.equalize(image[0]) if p else image[0]
        assert_same(result[0], expected.float() / 255, DEFAULT_TOLERANCE)
    assert math.isfinite(float(pipeline("mixup")(image, torch.tensor([3]))[0].sum()))
