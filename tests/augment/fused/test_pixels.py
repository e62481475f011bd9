"""Pixels of each implementation: an op's are its oracle's, a chain's those of the tensor operations, whatever the layout."""

import itertools

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from augment import fused, ops, policies, resolve
from augment.backends.fused import read
from augment.distributions import Params
from augment.fused import cpu, kinds, tensors
from augment.op import Op
from augment.ops.mixing import MixingOp
from augment.pipeline import to_dtype, to_float
from augment.replay import rows_of
from tests.augment.fused.cases import (
    AFTER_A_JUMP,
    ALL,
    IMPLEMENTATIONS,
    KERNELS,
    SETTINGS,
    SLOW_KERNELS,
    SUBJECTS,
    SUPPORTED,
    TOLERANCE,
    assert_same,
    by_tensors,
    draw,
    has_thresholds,
    pictures,
)

pytestmark = pytest.mark.usefixtures("one_thread")

PERSPECTIVE = 5e-4
"""torchvision rounds the coefficients of its map."""
SMALL = ((1, 7, 3), (9, 1, 3), (1, 1, 2), (2, 3, 2))


def check_oracle(implementation: str, op: Op, images: torch.Tensor, seed: int = 0) -> None:
    plan, before = fused.plan([op]), images.clone()
    params = draw(plan, images, seed)
    result = IMPLEMENTATIONS[implementation](plan, images, params, None)
    assert torch.equal(images, before)
    rows = rows_of(read(op, params[0], len(images), (images.shape[2], images.shape[3])))
    source = to_float(images)
    if isinstance(op, MixingOp):
        labels = torch.arange(len(images))
        expected, targets = op.mix_oracle(source, labels, rows, len(images))
        torch.testing.assert_close(plan.targets(labels, params, len(images)), targets)
    else:
        expected = torch.stack([op.oracle(x, row) if row["applied"] else x for x, row in zip(source, rows, strict=True)])
    tolerance = PERSPECTIVE if isinstance(op, ops.Perspective) else TOLERANCE
    assert_same(to_float(result), expected, tolerance, AFTER_A_JUMP if has_thresholds([op]) else 0.0)


@pytest.mark.parametrize("op", SETTINGS, ids=str)
@pytest.mark.parametrize("implementation", ALL)
def test_an_op_is_its_oracle(implementation: str, op: Op) -> None:
    check_oracle(implementation, op, pictures(3, 24, 25))
    if implementation != "triton":  # interpreted, it is slow; chains have floats
        check_oracle(implementation, op, pictures(3, 24, 25, torch.float32), seed=1)


@pytest.mark.parametrize("op", SETTINGS, ids=str)
@pytest.mark.parametrize("implementation", ["tensors", "c"])
def test_an_op_is_its_oracle_on_large_and_odd_images(implementation: str, op: Op) -> None:
    check_oracle(implementation, op, pictures(6, 90, 71))
    for height, width, batch in SMALL:
        try:
            op.output_size(height, width)
        except ValueError:
            continue
        if not isinstance(op, ops.Perspective):  # torchvision's solver refuses corners on one line
            check_oracle(implementation, op, pictures(batch, height, width))


@pytest.mark.parametrize("subject", [name for name in SUBJECTS if name.islower()])
@pytest.mark.parametrize("implementation", SLOW_KERNELS)
def test_chains_are_their_tensor_operations(implementation: str, subject: str) -> None:
    recipe = SUBJECTS[subject]
    plan, images = fused.plan(recipe), pictures(3, 20, 23, torch.uint8 if len(subject) % 2 else torch.float32)
    params = draw(plan, images)
    scale = max(1 / min(op.std) for op in (*recipe, ops.Normalize(std=(1.0,) * 3)) if isinstance(op, ops.Normalize))
    result = IMPLEMENTATIONS[implementation](plan, images, params, None)
    expected = by_tensors(plan, images, params)
    if expected.dtype == torch.uint8 != result.dtype:  # Triton's results are floats unless said otherwise
        expected = expected / 255
    assert_same(result, expected, scale * TOLERANCE, AFTER_A_JUMP if has_thresholds(recipe) else 0.0)


@pytest.mark.parametrize("recipe", ["imagenet", "imagenet_eval"])
def test_photographs(recipe: str) -> None:
    plan, images = fused.plan(resolve(recipe, 96)), pictures(3, 96, 131)
    params = draw(plan, images)
    assert_same(plan.apply(images, params), by_tensors(plan, images, params), TOLERANCE / 0.22)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (7, 1), (2, 2)])
@pytest.mark.parametrize("implementation", ALL)
def test_perspective_of_a_line_moves_nothing(implementation: str, height: int, width: int) -> None:
    """Torchvision's solver refuses corners on one line; its sampling by the map that moves nothing is the oracle."""
    images = pictures(16, height, width, torch.float32)
    plan = fused.plan([ops.Perspective(p=1.0, distortion=1.0 if min(height, width) == 1 else 0.5)])
    result = IMPLEMENTATIONS[implementation](plan, images, draw(plan, images), None)
    identity = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    expected = F.perspective(images, None, None, InterpolationMode.BILINEAR, fill=None, coefficients=identity)
    assert_same(result, expected)


@pytest.mark.parametrize("implementation", ALL)
def test_a_horizon_in_the_image_is_black(implementation: str) -> None:
    images, plan = torch.ones(20, 3, 8, 8), fused.plan([ops.Perspective(p=1.0, distortion=1.0)])
    assert bool(IMPLEMENTATIONS[implementation](plan, images, draw(plan, images), None).isfinite().all())


# ---- policies and jitters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", KERNELS)
@pytest.mark.parametrize("policy", ["AutoAugment", "TrivialAugmentWide"])
def test_every_op_of_a_policy_is_its_tensor_operations(policy: str, implementation: str) -> None:
    """Each at every magnitude and sign in C, at one in Triton, on its own and so without excuse for jumps."""
    space = policies.SPACES[policy]
    bins = range(space.bins) if implementation == "c" else [space.bins // 2]
    chosen = torch.tensor(list(itertools.product(range(len(space.names)), bins, (0, 1))))
    kernels, table, *_ = policies.tables(policy, 14, 18, torch.device("cpu"))
    kernel, arguments = kernels[chosen[:, :1]], table[(chosen[:, :1] * space.bins + chosen[:, 1:2]) * 2 + chosen[:, 2:]]
    op = ops.AutoAugment() if "invert" in {policies.KERNEL_OF[name] for name in space.names} else ops.TrivialAugmentWide()
    params: list[Params] = [{"kernel": kernel, "arguments": arguments}]
    if isinstance(op, ops.AutoAugment):
        identity = torch.full_like(kernel, policies.KERNELS.index("identity"))
        params = [{"kernel": torch.cat([kernel, identity], 1), "arguments": arguments.repeat(1, 2, 1)}]
    plan = fused.plan([op])
    images = pictures(len(chosen), 14, 18).roll(len(chosen) // 2, 0)
    assert_same(IMPLEMENTATIONS[implementation](plan, images, params, None), by_tensors(plan, images, params))


@pytest.mark.parametrize("implementation", ALL)
def test_each_place_of_a_policy_is_exact(implementation: str) -> None:
    """Place by place from the result so far: no excuse for jumps."""
    images = pictures(20 if implementation == "triton" else 60, 16, 18, torch.float32)
    op, step = ops.RandAugment(num_ops=2), fused.plan([ops.RandAugment(num_ops=1)])
    params = draw(fused.plan([op]), images)[0]
    for place in range(2):
        drawn = {key: value[:, place : place + 1] for key, value in params.items()}
        result = IMPLEMENTATIONS[implementation](step, images, [drawn], None)
        rows = rows_of(read(ops.RandAugment(num_ops=1), drawn, len(images), (16, 18)))
        assert_same(result, torch.stack([op.oracle(image, row) for image, row in zip(images, rows, strict=True)]))
        images = result


@pytest.mark.parametrize("pinned", [{"hue": (0.0, 0.0)}, {"contrast": (1.0, 1.0)}, {"brightness": (1.0, 1.0)}])
@pytest.mark.parametrize("implementation", ALL)
def test_a_jitter_leaves_out_what_its_ranges_rule_out(implementation: str, pinned: dict[str, tuple[float, float]]) -> None:
    """The whole jitter with the same factors is the oracle: what is left out changes nothing but last bits."""
    images, op = pictures(6, 20, 22, torch.float32), ops.ColorJitter(**pinned)
    plan, run = fused.plan([op]), IMPLEMENTATIONS[implementation]
    params = draw(plan, images)
    assert set(kinds.COLOR_JITTER.points(op)) == set(kinds.JITTER) - set(pinned)
    assert_same(run(plan, images, params, None), run(fused.plan([ops.ColorJitter()]), images, params, None))
    neutral = ops.ColorJitter(**{name: (factor, factor) for name, factor in kinds.JITTER.items()})
    plan = fused.plan([neutral])
    assert torch.equal(run(plan, images, draw(plan, images), None), images)


# ---- types, layouts, parameters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.uint8])
def test_results_are_rounded_as_pytorch_rounds(dtype: torch.dtype) -> None:
    """Values of many sizes: subnormal ones, ties, and halves too large for the type."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(1, 3, 64, 64, generator=generator) * torch.logspace(-9, 5, 64)
    ties = torch.arange(3 * 64 * 64).view(1, 3, 64, 64) / 510 + 1  # 8 and 11 bits are not enough for all of these
    for images in (values, -values, ties, ties / 2**16, (ties - 1) / 25):
        plan = fused.plan([ops.HorizontalFlip(p=0.0)])
        result = plan.apply(images, draw(plan, images), dtype)
        assert result.dtype == dtype
        assert torch.equal(result, to_dtype(images, dtype))


@pytest.mark.parametrize("implementation", ALL)
def test_bytes_that_become_bytes(implementation: str) -> None:
    """Halves of odd numbers are rounded as torch rounds; bytes that only move stay bytes."""
    run, images = IMPLEMENTATIONS[implementation], pictures(4, 20, 24)
    halves: list[Op] = [ops.HorizontalFlip(), ops.Brightness(low=0.5, high=0.5)]
    moves: list[Op] = [ops.RandomCrop(size=20), ops.Cutout(), ops.CutMix()]
    for recipe, dtype in ((halves, torch.float32), (moves, torch.uint8)):
        plan = fused.plan(recipe)
        params = draw(plan, images)
        result, floats = run(plan, images, params, torch.uint8), by_tensors(plan, images, params, torch.float32)
        assert result.dtype == torch.uint8
        assert torch.equal(result, to_dtype(floats, torch.uint8))
        assert plan.apply(images, params).dtype == dtype


@pytest.mark.parametrize("recipe", ["d2l", "trivialaugment", "mixup"])
@pytest.mark.parametrize("implementation", ALL)
def test_types_and_layouts_of_images_are_read_as_they_lie(implementation: str, recipe: str) -> None:
    images, plan, run = pictures(3, 12, 12), fused.plan(resolve(recipe, 12)), IMPLEMENTATIONS[implementation]
    params = draw(plan, images)
    for source in (images, images.half() / 255):
        expected = run(plan, source, params, None)
        for layout in (source.to(memory_format=torch.channels_last), source.repeat_interleave(2, 3)[..., ::2]):
            before = layout.clone()
            result = run(plan, layout, params, None)
            assert torch.equal(layout, before)
            assert result.is_contiguous()
            assert torch.equal(result, expected)
    assert torch.equal(run(plan, images.half() / 255, params, None), run(plan, (images.half() / 255).float(), params, None))


def test_layouts_of_parameters() -> None:
    plan, images = fused.plan(resolve("d2l", 32)), pictures(6, 32, 32)
    params = draw(plan, images)
    strided = [{key: torch.stack([value, value], -1)[..., 0] for key, value in drawn.items()} for drawn in params]
    wide = [{k: v.double() if v.is_floating_point() else v for k, v in drawn.items()} for drawn in params]
    for drawn in (strided, wide):
        assert torch.equal(plan.apply(images, drawn), plan.apply(images, params))


@pytest.mark.parametrize("implementation", KERNELS)
def test_parameters_of_other_images_are_not_read(implementation: str) -> None:
    images, plan = pictures(4, 12, 12), fused.plan([ops.RandAugment(num_ops=2)])
    params = draw(plan, images)[0]
    for drawn, reason in (
        ([{}], "no 'kernel'"), ([], "1 ops and parameters of 0"),
        ([{name: value[:2] for name, value in params.items()}], "'kernel' for 2 images"),
        ([{name: value[:, :1] for name, value in params.items()}], "do not fit images"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=reason):
            IMPLEMENTATIONS[implementation](plan, images, drawn, None)


def test_parameters_out_of_range_reach_no_foreign_memory() -> None:
    images, nan, ones = pictures(2, 16, 12, torch.float32), float("nan"), torch.ones(2, 4)
    window = ("top", "left", "height", "width")
    far: list[tuple[Op, Params]] = [
        (ops.RandomErasing(), dict.fromkeys(window, torch.tensor([-5.0, 1e9]))),
        (ops.CutMix(), dict.fromkeys(window, torch.tensor([-1e9, 7.0]))),
        (ops.RandomResizedCrop(), dict.fromkeys(window, torch.tensor([100.0, nan]))),
        (ops.RandomCrop(size=8), {"top": torch.tensor([-(10**12), 50]), "left": torch.tensor([10**12, -50])}),
        (ops.TrivialAugmentWide(), {"kernel": torch.tensor([[99], [1]]), "arguments": torch.full((2, 1, 6), 1e30)}),
        (ops.AugMix(), {"kernel": torch.full((2, 3, 3), -7), "arguments": torch.full((2, 3, 3, 6), nan), "weights": ones}),
        (ops.Perspective(), {"applied": torch.ones(2) > 0, "corners": torch.tensor([[[10**9, -(10**9)]] * 4, [[0, 1]] * 4])}),
        (ops.GaussianBlur(), {"sigma": torch.tensor([nan, 0.0])}),
        (ops.ColorJitter(), {"order": torch.full((2, 4), 9), "factors": torch.ones(2, 4)}),
    ]  # fmt: skip
    for op, drawn in far:
        plan = fused.plan([op, ops.Normalize()])
        assert cpu.accepts(images, [drawn, {}])
        assert plan.apply(images, [drawn, {}]).shape[:2] == (2, 3)


@pytest.mark.parametrize("implementation", ALL)
def test_no_image_and_one_image(implementation: str) -> None:
    plan, images = fused.plan(resolve("cutmix", 16)), pictures(1, 16, 16)
    params, run = draw(plan, images), IMPLEMENTATIONS[implementation]
    empty = [{key: value[:0] for key, value in drawn.items()} for drawn in params]
    assert run(plan, images[:0], empty, None).shape == (0, 3, 16, 16)
    assert_same(run(plan, images, params, None), by_tensors(plan, images, params))


@pytest.mark.parametrize("op", [op for op in SETTINGS[: len(SUPPORTED)] if op.draws and not op.mixes_labels], ids=str)
def test_identical_images_come_out_different(op: Op) -> None:
    images = (pictures(3, 32, 32)[1:2] // 2 + 40).expand(64, -1, -1, -1)  # not all of the range: room for AutoContrast
    plan = fused.plan([op])
    distinct = len(plan.apply(images, draw(plan, images)).flatten(1).unique(dim=0))
    assert distinct == 2 if [type(d).__name__ for d in op.draws] == ["Chance"] else distinct > 12


def test_equalize_is_exact_on_eight_bits_and_posterize_within_a_step() -> None:
    images = pictures(6, 64, 48)
    expected = torch.stack([F.equalize(image) for image in images])
    assert torch.equal(to_dtype(tensors.equalize(images / 255, images), torch.uint8), expected)
    levels = torch.arange(256).expand(1, 3, 1, 256).float() / 255
    for bits in range(9):
        masked = F.posterize(torch.arange(256, dtype=torch.uint8).expand(3, 1, 256), bits).float() / 255
        assert (tensors.posterize(levels, torch.tensor([bits]))[0] - masked).abs().max() < 1 / 255
