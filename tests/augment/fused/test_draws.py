"""A kernel's draws are those of the tensor operations: same generator, same parameters; in C, and by Triton."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from augment import OPS, RECIPES, fused, ops, policies, resolve
from augment.distributions import TRIES, Params, Source
from augment.fused import build, cpu, formulas, plans, sample
from augment.op import Op
from tests.augment.fused.cases import DEVICE, NEEDS_TRITON, SUPPORTED, Operations
from tests.conftest import present

CLOSE = 1e-6
"""Tolerance of ``lam`` and ``weights``; all else is equal.
A share e**a / (e**a + e**b) moves by at most a quarter of what a and b move.
These logarithms of Gamma numbers reach log(1 / 300) / 0.3 = -19 in 300 images of alpha 0.3; the last bit is 1.9e-6 there."""
NEAR = 1e-5
"""Distance from an edge of rounding, in pixels, at which a side may fall to either: exp and sqrt differ in a last bit."""

SUBJECTS: dict[str, Sequence[Op]] = {
    **{name: [OPS[name]()] for name in SUPPORTED},
    "photographs": [ops.RandomResizedCrop(size=24), ops.HorizontalFlip()],
    "fallback": [ops.RandomResizedCrop(size=8, scale=(0.9, 1.0), ratio=(2.0, 3.0))],
    "seldom erased": [ops.RandomErasing(p=0.3, scale=(0.5, 1.0), ratio=(0.1, 0.3))],
    "square too large": [ops.Cutout(side=0.95)],
    "beta": [ops.MixUp(alpha=0.3), ops.CutMix(alpha=0.4), ops.AugMix(alpha=0.5, width=2, severity=7)],
    "three of a policy": [ops.RandAugment(num_ops=3, magnitude=30), ops.AugMix(width=1)],
    "between PyTorch's own": [ops.Rotate(), ops.GaussianNoise(), ops.AutoAugment(), ops.CutMix(alpha=2.0), ops.Hue()],
    "sizes change": [ops.RandomCrop(size=20, padding=3), ops.Perspective(), ops.Resize(size=31), ops.Affine(), ops.Cutout()],
    **{name: resolve(name, 32) for name in ("crop_flip_cutout", "d2l", "imagenet")},
}  # fmt: skip
SIZES = ((40, 33, 1), (33, 48, 5), (36, 64, 300))
EDGES = (0.0, 2.0**-24, 0.5, 1 - 2.0**-24)


def by_triton(program: sample.Program, uniforms: Tensor, tables: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Draw by Triton from what was drawn on a CPU, and copy it back there."""
    from augment.fused import triton_draws

    results = [output.to(DEVICE) for output in outputs]
    triton_draws.draw(program, uniforms.to(DEVICE), [table.to(DEVICE) for table in tables], results)
    for output, result in zip(outputs, results, strict=True):
        output.copy_(result)


KERNELS: list[Any] = [
    pytest.param(cpu.SAMPLER, id="c"),
    pytest.param(sample.Sampler(sample.draw_matrix, by_triton), id="triton", marks=NEEDS_TRITON),
]


def at_an_edge(op: Op, height: int, width: int, numbers: Tensor) -> Tensor | None:
    """Return for which images rounding may have gone the other way, by formulas in float64 from float32 [rows, B]."""
    numbers = numbers.double()
    if isinstance(op, ops.CutMix):
        lam = numbers[0] if op.alpha == 1.0 else gamma_share(op.alpha, numbers)
        half = (1 - lam).sqrt() / 2
        reach = torch.stack([half * height, half * width])
        distance = (reach - reach.round()).abs()
        return ((distance > 0) & (distance < NEAR)).any(0)  # what is whole here is so everywhere: the root of 1
    if not isinstance(op, ops.RandomResizedCrop | ops.RandomErasing):
        return None
    share, aspect = numbers[:TRIES], numbers[TRIES : 2 * TRIES]
    area = (op.scale[0] + share * (op.scale[1] - op.scale[0])) * height * width
    ratio = op.ratio[0] * (op.ratio[1] / op.ratio[0]) ** aspect
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()])
    return ((sides - sides.floor() - 0.5).abs() < NEAR).any(0).any(0)


def gamma_share(alpha: float, numbers: Tensor) -> Tensor:
    """Return Beta(alpha, alpha) by the formula of the tensor operations, in float64."""
    (record,) = sample.encode((ops.MixUp(alpha=alpha),), 8, 8).records
    return formulas.weight(record, numbers)


def assert_same(result: Params, expected: Params, excused: Tensor | None = None) -> None:
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        drawn = result[name]
        assert (drawn.dtype, drawn.shape) == (value.dtype, value.shape), name
        kept = torch.ones(len(value), dtype=torch.bool) if excused is None else ~excused
        if name in {"lam", "weights"}:
            torch.testing.assert_close(drawn[kept], value[kept], rtol=CLOSE, atol=CLOSE)
        else:
            assert torch.equal(drawn[kept], value[kept]), name


def check(recipe: Sequence[Op], kernel: sample.Sampler, batch: int, height: int, width: int, unit: float | None = None) -> None:
    """Compare with the tensor operations; ``unit``: the value of all uniform numbers."""
    seeded = lambda: torch.Generator().manual_seed(3)  # noqa: E731
    drawn = [sample.sample(recipe, batch, height, width, seeded(), "cpu", k) for k in (sample.TENSORS, kernel)]
    numbers = torch.rand((sample.encode(tuple(recipe), height, width).rows, batch), generator=seeded())
    numbers = numbers if unit is None else torch.full_like(numbers, unit)
    for op, expected, result in zip(recipe, *drawn, strict=True):
        count = sample.encode((op,), height, width).rows
        rows, numbers = numbers[:count], numbers[count:]
        assert_same(result, expected, at_an_edge(op, height, width, rows))
        height, width = op.output_size(height, width)


@pytest.mark.parametrize("subject", list(SUBJECTS))
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_draws_what_the_formulas_draw(kernel: sample.Sampler, subject: str) -> None:
    for height, width, batch in SIZES:
        check(SUBJECTS[subject], kernel, batch, height, width)


def test_few_sides_are_at_an_edge() -> None:
    """Else the comparison above would excuse everything."""
    near = present(at_an_edge(ops.RandomResizedCrop(), 36, 64, torch.rand(22, 20_000)))
    assert 0 < int(near.sum()) < 40  # 20 sides, 2e-5 of each: 8 expected


@pytest.mark.parametrize("unit", EDGES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_ends_of_the_unit_interval(kernel: sample.Sampler, unit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Source, "draw", lambda source, rows: torch.full((rows, source.batch), unit))
    for recipe in SUBJECTS.values():
        check(recipe, kernel, 3, 33, 48, unit)
    for recipe in ([ops.RandomCrop(size=30, padding=2)], [ops.RandomResizedCrop(size=4)], [ops.RandomErasing(p=1.0)]):
        (drawn,) = sample.sample(recipe, 2, 32, 40, kernel=kernel)
        for start, side, most in (("top", "height", 32), ("left", "width", 40)):
            length = drawn.get(side, torch.tensor(26))  # of 30 pixels, less two of padding on either side
            least = 0 if isinstance(recipe[0], ops.RandomErasing) else 1  # of nothing erased
            assert bool(((length >= least) & (drawn[start] >= 0) & (drawn[start] + length <= most)).all())


@pytest.mark.parametrize("name", SUPPORTED)
def test_a_formula_reads_the_rows_of_its_record_alone(name: str) -> None:
    program = sample.encode((OPS[name](),), 40, 50)
    tables = [table for policy in program.tables for table in policies.tables(*policy, torch.device("cpu"))]
    rows = torch.rand(program.rows, 200)
    for record in program.records:
        own = torch.full_like(rows, math.nan)
        own[record.row : record.row + record.rows] = rows[record.row : record.row + record.rows]
        results = [formulas.FORMULAS[record.kind](record, r[record.row :], tables) for r in (rows, own)]
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert max((record.row + record.rows for record in program.records), default=0) == program.rows


# ---- how a plan draws -------------------------------------------------------------------------------------------------


def test_a_plan_draws_by_the_library_and_without_a_compiler_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, calls = fused.plan(resolve("d2l", 32)), []

    def watched(*arguments: Any) -> None:
        calls.append(arguments)
        cpu.draw(*arguments)

    monkeypatch.setattr(cpu, "SAMPLER", sample.Sampler(sample.draw_matrix, watched))
    results = [plan.sample(7, 32, 40, torch.Generator().manual_seed(1))]
    monkeypatch.setattr(build, "library", lambda: None)
    results.append(plan.sample(7, 32, 40, torch.Generator().manual_seed(1)))
    assert len(calls) == 1
    for result, expected in zip(*results, strict=True):
        assert_same(result, expected)


def test_without_randomness_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rand", "randn", "empty"):
        monkeypatch.setattr(torch, name, None)
    monkeypatch.setattr(cpu, "draw", None)
    assert fused.plan(resolve("none", 32)).sample(5, 32, 32) == ({},)
    assert fused.plan(resolve("imagenet_eval", 224)).sample(5, 300, 400) == ({}, {}, {})


def test_no_image_and_stand_ins() -> None:
    empty = fused.plan(resolve("autoaugment", 32)).sample(0, 32, 32)[2]
    assert empty["arguments"].shape == (0, 2, policies.ARGUMENTS)
    with torch._subclasses.FakeTensorMode():
        fake = fused.plan(resolve("crop_flip", 32)).sample(3, 32, 32)[0]["top"]
    assert isinstance(fake, torch._subclasses.FakeTensor)
    assert (fake.dtype, fake.shape) == (torch.int64, (3,))


def test_sizes_that_cannot_be_are_refused_each_time() -> None:
    plan = fused.plan([ops.CenterCrop(size=16), ops.RandomCrop(size=32, padding=4)])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"RandomCrop.*16x16.*padding"):
            plan.sample(3, 64, 48)


# ---- launches ---------------------------------------------------------------------------------------------------------


@NEEDS_TRITON
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_two_launches_a_recipe(recipe: str) -> None:
    """One matrix of uniform numbers, and one launch."""
    from augment.fused import triton_draws

    launches: list[Any] = []

    def counted(*arguments: Any) -> None:
        launches.append(arguments)
        with _disable_current_modes():  # the interpreter's own copies are no launches
            triton_draws.draw(*arguments)

    kernel = sample.Sampler(sample.draw_matrix, counted)

    plan = fused.plan(resolve(recipe, 32))
    sample.sample(plan.ops, 4, 40, 48, device=DEVICE, kernel=triton_draws.SAMPLER)  # tables are made and kept
    with Operations() as operations:
        sample.sample(plan.ops, 4, 40, 48, device=DEVICE, kernel=kernel)
    is_random = recipe not in {"none", "imagenet_eval"}
    assert ([name for name in operations.names if name != "empty"], len(launches)) == (["rand"] * is_random, is_random)


@NEEDS_TRITON
def test_where_the_kernel_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA if Triton works there; otherwise tensor operations, without a warning at each batch."""
    from augment.fused import triton_draws

    monkeypatch.setattr(build, "library", lambda: None)
    assert plans.sampling_kernel(torch.device("cpu")) is sample.TENSORS
    assert plans.sampling_kernel(torch.device("mps")) is sample.TENSORS
    for reason, expected in (("", triton_draws.SAMPLER), ("no compiler", sample.TENSORS)):
        plans._triton_draw.cache_clear()
        monkeypatch.setattr(plans, "without_triton", lambda device, reason=reason: reason)
        assert plans.sampling_kernel(torch.device("cuda")) is expected
    plans._triton_draw.cache_clear()


@pytest.mark.gpu
@pytest.mark.parametrize("subject", list(SUBJECTS))
def test_the_kernel_on_a_gpu(subject: str) -> None:
    """The same numbers by formulas and by the kernel; a side's rounding may go the other way in one of a thousand images."""
    from augment.fused import triton_draws

    recipe, seeded = SUBJECTS[subject], lambda: torch.Generator("cuda").manual_seed(0)
    assert plans.sampling_kernel(torch.device("cuda")) is triton_draws.SAMPLER
    kernel = sample.Sampler(sample.draw_matrix, triton_draws.draw)
    results = sample.sample(recipe, 2000, 36, 64, seeded(), "cuda", kernel)
    for result, expected in zip(results, sample.sample(recipe, 2000, 36, 64, seeded(), "cuda"), strict=True):
        assert result.keys() == expected.keys()
        for name, value in expected.items():
            assert (result[name].dtype, result[name].shape) == (value.dtype, value.shape)
            wrong = (result[name].double() - value.double()).abs() > 1e-6
            assert float(wrong.double().mean()) <= 1e-3, name
