"""The passes of Triton's kernels do what the tensor kernels do with the same draws: on CUDA, else in Triton's interpreter."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from augment import build, fused, native, ops, passes, policies
from augment.catalog import resolve
from augment.ops import Op
from augment.sampling import Params
from tests.conftest import smooth_images

pytest.importorskip("triton")

import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError

from augment import triton_kernels, triton_passes

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@triton.jit
def _counted_to(number, out):  # type: ignore[no-untyped-def]
    total = 0
    for _ in range(tl.load(number)):
        total += 1
    tl.store(out, total)


def _can_count() -> bool:
    try:
        _counted_to[(1,)](*torch.ones(2, 1, dtype=torch.int32, device=DEVICE))
    except InterpreterError:
        return False
    return True


pytestmark = pytest.mark.skipif(not _can_count(), reason="the interpreter of this Triton cannot loop with this NumPy")

TOLERANCE = 4e-5
"""Float32 sums in another order, at worst before a division by standard deviations."""
AFTER_A_JUMP = 2e-3
"""Share of values that may differ in chains: a last-bit difference before a threshold (posterize, solarize, equalize) is a
whole step behind it."""
NARROWED = {torch.float32: 0.0, torch.float16: 2**-11, torch.bfloat16: 2**-8 if torch.cuda.is_available() else 2**-7}
"""Share of a value that is lost to 11 and 8 bits: half a step by rounding, a whole one where the interpreter cuts off bfloat16.
Of values up to 1 that is less than 2/255."""

SINGLE: list[Op] = [kind() for kind in passes.NAMES] + [
    ops.RandomErasing(p=1.0, value=0.3), ops.RandomResizedCrop(size=6), ops.RandomResizedCrop(size=30, antialias=False),
    ops.CenterCrop(size=30), ops.RandomCrop(size=12, padding=0), ops.Resize(size=10), ops.Resize(size=30, antialias=False),
    ops.RandAugment(num_ops=1, magnitude=30), ops.Perspective(), ops.GaussianBlur(), ops.Posterize(bits=0, p=1.0),
]  # fmt: skip
RECIPES = (
    "none", "flip", "crop_flip", "crop_flip_cutout", "d2l", "autoaugment", "randaugment", "trivialaugment", "augmix", "mixup",
    "cutmix",
)  # fmt: skip


def pictures(count: int, height: int, width: int) -> Tensor:
    """uint8: smooth, grey, flat and noise."""
    images = smooth_images(count, max(height, width))[:, :, :height, :width].contiguous()
    images[-1] = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(0))
    if count > 2:
        images[0], images[1] = images[0, :1], 77
    return images


def drawn(planned: fused.Plan, images: Tensor, seed: int = 0) -> tuple[Params, ...]:
    return planned.sample(len(images), images.shape[2], images.shape[3], torch.Generator().manual_seed(seed))


def on_device(params: Sequence[Params]) -> list[Params]:
    return [{name: value.to(DEVICE) for name, value in each.items()} for each in params]


def check(
    recipe: Sequence[Op], images: Tensor, *, dtype: torch.dtype = torch.float32, excused: float = 0.0, seed: int = 0
) -> None:
    """Against the tensor kernels on a CPU."""
    planned = fused.plan(recipe)
    params = drawn(planned, images, seed)
    given = images.to(DEVICE)
    result = triton_passes.applied(planned, dtype)(given, on_device(params))
    assert torch.equal(given.cpu(), images)
    expected = planned.apply(images, params)
    if expected.dtype == torch.uint8:
        expected = expected.float() / 255
    assert result.shape == expected.shape
    assert result.dtype == dtype
    wrong = (result.cpu().float() - expected).abs() > TOLERANCE + NARROWED[dtype] * expected.abs()
    assert float(wrong.float().mean()) <= excused, f"{int(wrong.sum())} of {wrong.numel()} values differ"


def jumps(recipe: Sequence[Op]) -> float:
    chains = (ops.RandAugment, ops.AutoAugment, ops.TrivialAugmentWide, ops.AugMix)
    return AFTER_A_JUMP if any(isinstance(op, chains) for op in recipe) else 0.0


@pytest.fixture(autouse=True)
def _tensor_kernels_are_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "takes", lambda images, params: False)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no program could hold an image."""
    monkeypatch.setattr(triton_kernels, "WHOLE", 0)
    monkeypatch.setattr(triton_kernels, "TILE", 128)


@pytest.mark.parametrize("op", SINGLE, ids=lambda op: op.name)
def test_every_op(op: Op) -> None:
    images = pictures(4, 24, 27)
    check([op], images, excused=jumps([op]))
    check([op], images.float() / 255, excused=jumps([op]), seed=1)


def test_every_op_that_a_pass_reads_is_tested() -> None:
    assert set(passes.NAMES) <= {type(op) for op in SINGLE}
    assert set(passes.SAMPLED) | set(passes.WAYS_OF) <= set(passes.NAMES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes(recipe: str) -> None:
    chain = resolve(recipe, 32)
    check(chain, pictures(8, 32, 32), excused=jumps(chain))


def test_photographs_to_another_size() -> None:
    recipe = [ops.RandomResizedCrop(size=24), ops.HorizontalFlip(), ops.VerticalFlip(), ops.HorizontalFlip(), ops.Normalize()]
    for height, width in ((64, 50), (19, 23)):
        check(recipe, pictures(4, height, width))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_types_of_result(dtype: torch.dtype) -> None:
    check(resolve("d2l", 20), pictures(4, 20, 24), dtype=dtype)


def test_uint8_result_is_rounded_as_torch_rounds() -> None:
    recipe = [ops.HorizontalFlip(), ops.Brightness(low=0.5, high=0.5)]  # halves of odd numbers lie midway
    images = pictures(4, 20, 24)
    planned = fused.plan(recipe)
    params = drawn(planned, images)
    result = triton_passes.applied(planned, torch.uint8)(images.to(DEVICE), on_device(params))
    expected = planned.apply(images, params).mul(255).round().to(torch.uint8)
    assert torch.equal(result.cpu(), expected)
    moved = fused.plan([ops.RandomCrop(size=20), ops.VerticalFlip()])
    params = drawn(moved, images)
    result = triton_passes.applied(moved, torch.uint8)(images.to(DEVICE), on_device(params))
    assert torch.equal(result.cpu(), moved.apply(images, params))


@pytest.mark.parametrize("recipe", ["d2l", "trivialaugment"])
def test_layout_of_the_input_does_not_matter(recipe: str) -> None:
    images = pictures(4, 16, 16)
    chain = resolve(recipe, 16)
    for given in (
        images.to(memory_format=torch.channels_last),
        images.repeat_interleave(2, 3)[..., ::2],
        images[:1].expand(4, -1, -1, -1),
        images.to(torch.float64) / 255,
    ):
        check(chain, given, excused=jumps(chain))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (9, 1), (2, 2), (3, 65)])
def test_odd_sizes(height: int, width: int) -> None:
    chain = [ops.VerticalFlip(), ops.Affine(), ops.ColorJitter(), ops.TrivialAugmentWide(), ops.Equalize(), ops.Normalize()]
    check(chain, pictures(1, height, width))
    check([ops.RandomResizedCrop(size=5), ops.Sharpness(p=1.0)], pictures(3, height, width))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    "op",
    [ops.ColorJitter(), ops.Contrast(), ops.Equalize(p=0.8), ops.AutoContrast(p=0.8), ops.Sharpness()],
    ids=lambda op: op.name,
)
def test_images_larger_than_a_tile(op: Op) -> None:
    chain = [ops.HorizontalFlip(), ops.Cutout(), op, ops.Grayscale(), ops.Normalize()]
    check(chain, pictures(5, 13, 31))


POLICIES = {
    "randaugment": (ops.RandAugment(num_ops=1), policies.RANDAUGMENT),
    "trivialaugment": (ops.TrivialAugmentWide(), policies.TRIVIALAUGMENT),
    "autoaugment": (ops.AutoAugment(), policies.AUTOAUGMENT),
}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", list(POLICIES))
def test_each_op_of_a_policy_is_exact(name: str, whole: bool, request: pytest.FixtureRequest) -> None:
    """An image for each op of the table, and no excuse for jumps."""
    if not whole:
        request.getfixturevalue("small_tiles")
    op, space = POLICIES[name]
    count, places = len(space.names), 2 if name == "autoaugment" else 1
    chosen = torch.arange(count)[:, None].repeat(1, places)
    chosen[:, 1:] = space.names.index("Identity")
    bins, negative = torch.randint(1, space.bins, chosen.shape), torch.rand(chosen.shape) < 0.5
    kernel, arguments = space.lookup(chosen, bins, negative, 14, 18)
    images = pictures(count, 14, 18).roll(count // 2, 0)
    params: list[Params] = [{"kernel": kernel, "arguments": arguments}]
    result = triton_passes.applied(fused.plan([op]), torch.float32)(images.to(DEVICE), on_device(params))
    torch.testing.assert_close(result.cpu(), fused.plan([op]).apply(images, params), rtol=0, atol=TOLERANCE)


def test_two_that_measure_and_two_crops_make_passes_of_their_own() -> None:
    chain = [
        ops.RandomCrop(size=20), ops.Contrast(), ops.Hue(), ops.AutoContrast(p=1.0), ops.RandomCrop(size=18, padding=3),
        ops.HorizontalFlip(), ops.Rotate(), ops.VerticalFlip(), ops.MixUp(), ops.RandomErasing(p=1.0), ops.CutMix(),
    ]  # fmt: skip
    assert len(passes.passes(chain)) == 5
    check(chain, pictures(5, 22, 26))


def test_parameters_of_other_images_are_not_read() -> None:
    images, planned = pictures(4, 12, 12), fused.plan([ops.RandAugment(num_ops=2)])
    params = on_device(drawn(planned, images))
    apply = triton_passes.applied(planned, torch.float32)
    for given, reason in (
        ([{}], "no 'kernel'"), ([], "1 ops and parameters of 0"),
        ([{name: value[:2] for name, value in params[0].items()}], "'kernel' for 2 images"),
        ([{name: value[:, :1] for name, value in params[0].items()}], "are not for images|do not fit images"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=reason):
            apply(images.to(DEVICE), given)


def test_a_horizon_in_the_image_is_black() -> None:
    images, planned = torch.ones(300, 3, 8, 8), fused.plan([ops.Perspective(p=1.0, distortion=1.0)])
    params = drawn(planned, images)
    for result in (
        planned.apply(images, params), triton_passes.applied(planned, torch.float32)(images.to(DEVICE), on_device(params))
    ):  # fmt: skip
        assert bool(result.isfinite().all())


def test_no_image_and_one_image() -> None:
    planned = fused.plan(resolve("cutmix", 16))
    images = pictures(1, 16, 16)
    params = on_device(drawn(planned, images))
    none = triton_passes.applied(planned, torch.float32)(
        images[:0].to(DEVICE), [{key: value[:0] for key, value in each.items()} for each in params]
    )
    assert none.shape == (0, 3, 16, 16)
    check(planned.ops, images)


def test_a_grey_value_stays_grey_and_a_full_batch_of_black_stays_black() -> None:
    black = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    planned = fused.plan([ops.ColorJitter(), ops.AutoContrast(p=1.0), ops.Equalize(p=1.0)])
    result = triton_passes.applied(planned, torch.float32)(black.to(DEVICE), on_device(drawn(planned, black)))
    assert float(result.abs().max()) == 0.0


# ---- under a compiler -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["randaugment"])
def test_compiles_whole_and_once_for_all_batch_sizes(recipe: str) -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    planned = fused.plan(resolve(recipe, 12))
    apply = triton_passes.applied(planned, torch.float32)
    step = torch.compile(lambda images, params: apply(images, params) * 2, fullgraph=True, backend=counter)
    for seed, count in enumerate((3, 5, 3, 7)):
        images = pictures(count, 12, 12).to(DEVICE)
        params = on_device(drawn(planned, images, seed))
        for tensor in (images, *(value for each in params for value in each.values())):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        torch.testing.assert_close(step(images, params), apply(images, params) * 2)
    assert counter.frame_count == 1


@pytest.mark.parametrize("recipe", ["d2l", "cutmix", "autoaugment"])
def test_a_whole_pipeline_is_one_graph(recipe: str) -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    augment = build(recipe, "fused", image_size=12, device=DEVICE)
    step = torch.compile(lambda images, labels: augment(images, labels)[0].sum(), fullgraph=True, backend=counter)
    for count in (3, 5, 7):
        assert math.isfinite(step(pictures(count, 12, 12).to(DEVICE), torch.arange(count, device=DEVICE)))
    assert counter.frame_count <= 2  # the second time it learns that sizes change
