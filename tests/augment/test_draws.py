"""A recipe's draws in one step are those of the tensor formulas: same generator, same parameters; in C here, else by Triton."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from augment import RECIPES, draws, fused, native_build, native_draws, ops, policies, sampling, source
from augment.catalog import resolve
from augment.geometry import output_size
from augment.ops import Op
from augment.sampling import Params, Run

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

CLOSE = 2e-7
"""Relative: two float32 roundings of a quotient or a product. Only ``lam`` and ``weights`` need it; all else is equal."""
NEAR = 1e-5
"""How near to an edge of rounding, in pixels, a side may fall to either: exp and sqrt differ in a last bit, 6e-8 of a side."""

SUBJECTS: dict[str, Sequence[Op]] = {
    **{kind.__name__: [kind()] for kind in sampling.SAMPLERS},
    "photographs": [ops.RandomResizedCrop(size=24), ops.HorizontalFlip()],
    "fallback": [ops.RandomResizedCrop(size=8, scale=(0.9, 1.0), ratio=(2.0, 3.0))],
    "seldom erased": [ops.RandomErasing(p=0.3, scale=(0.5, 1.0), ratio=(0.1, 0.3))],
    "square too large": [ops.Cutout(side=0.95)],
    "beta": [ops.MixUp(alpha=0.3), ops.CutMix(alpha=0.4), ops.AugMix(alpha=0.5, width=2, severity=7)],
    "three of a policy": [ops.RandAugment(num_ops=3, magnitude=30), ops.AugMix(width=1)],
    "between PyTorch's own": [ops.Rotate(), ops.GaussianNoise(), ops.AutoAugment(), ops.CutMix(alpha=2.0), ops.Hue()],
    "sizes change": [ops.RandomCrop(size=20, padding=3), ops.Perspective(), ops.Resize(size=31), ops.Affine(), ops.Cutout()],
    **{name: resolve(name, 32) for name in RECIPES},
}
SIZES = ((40, 33, 1), (33, 48, 5), (36, 64, 300))


def at_an_edge(op: Op, height: int, width: int, numbers: Tensor) -> Tensor | None:
    """bool [B]: whether rounding may have gone the other way, by formulas in float64 from float32 [rows, B]."""
    numbers = numbers.double()
    if isinstance(op, ops.CutMix) and draws.is_uniform(op.alpha):
        half = (1 - numbers[0]).sqrt() / 2
        reach = torch.stack([half * height, half * width])
        away = (reach - reach.round()).abs()
        return ((away > 0) & (away < NEAR)).any(0)  # what is whole here is so everywhere: the root of 1
    if not isinstance(op, ops.RandomResizedCrop | ops.RandomErasing):
        return None
    share, aspect = numbers[: draws.TRIES], numbers[draws.TRIES : 2 * draws.TRIES]
    area = (op.scale[0] + share * (op.scale[1] - op.scale[0])) * height * width
    ratio = op.ratio[0] * (op.ratio[1] / op.ratio[0]) ** aspect
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()])
    return ((sides - sides.floor() - 0.5).abs() < NEAR).any(0).any(0)


def assert_same(result: Params, expected: Params, excused: Tensor | None = None) -> None:
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        found = result[name]
        assert (found.dtype, found.shape) == (value.dtype, value.shape), name
        kept = torch.ones(len(value), dtype=torch.bool) if excused is None else ~excused
        if name in {"lam", "weights"}:
            torch.testing.assert_close(found[kept], value[kept], rtol=CLOSE, atol=CLOSE)
        else:
            assert torch.equal(found[kept], value[kept]), name


def check(recipe: Sequence[Op], run: Run, batch: int, height: int, width: int, unit: float | None = None) -> None:
    """``run`` against the tensor formulas; ``unit``: what all uniform numbers are."""
    seeded = lambda: torch.Generator().manual_seed(3)  # noqa: E731
    drawn = [sampling.sample(recipe, batch, height, width, seeded(), "cpu", each) for each in (None, run)]
    numbers = torch.rand((draws.count(recipe), batch), generator=seeded())
    numbers = numbers if unit is None else torch.full_like(numbers, unit)
    for op, expected, result in zip(recipe, *drawn, strict=True):
        its, numbers = numbers.split((draws.rows(op), len(numbers) - draws.rows(op)))
        assert_same(result, expected, at_an_edge(op, height, width, its))
        height, width = output_size(op, height, width)


@pytest.mark.parametrize("subject", list(SUBJECTS))
def test_c_draws_what_the_formulas_draw(subject: str) -> None:
    for height, width, batch in SIZES:
        check(SUBJECTS[subject], native_draws.run, batch, height, width)


def test_few_sides_are_at_an_edge() -> None:
    """Else the comparison above would excuse everything."""
    near = at_an_edge(ops.RandomResizedCrop(), 36, 64, torch.rand(22, 20_000))
    assert near is not None
    assert 0 < int(near.sum()) < 40  # 20 sides, 2e-5 of each: 8 expected


EDGES = (0.0, 2.0**-24, 0.5, 1 - 2.0**-24)


@pytest.mark.parametrize("unit", EDGES)
@pytest.mark.parametrize("subject", list(SUBJECTS))
def test_the_ends_of_the_unit_interval(subject: str, unit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in(monkeypatch, unit)
    for height, width in ((40, 33), (33, 48)):
        check(SUBJECTS[subject], native_draws.run, 3, height, width, unit)
    for recipe in ([ops.RandomCrop(size=30, padding=2)], [ops.RandomResizedCrop(size=4)], [ops.RandomErasing(p=1.0)]):
        (drawn,) = sampling.sample(recipe, 2, 32, 40, run=native_draws.run)
        high, wide = (drawn.get(key, 26) for key in ("height", "width"))  # of 30 pixels, less two of padding on either side
        assert bool(((drawn["top"] >= 0) & (drawn["top"] + high <= 32)).all())
        assert bool(((drawn["left"] >= 0) & (drawn["left"] + wide <= 40)).all())


def put_in(monkeypatch: pytest.MonkeyPatch, unit: float) -> None:
    """Every uniform number is ``unit``."""

    def draw(self: source.Source, rows: int) -> None:
        self.uniforms = torch.full((rows, self.batch), unit) if rows else None

    monkeypatch.setattr(source.Source, "draw", draw)


def test_whole_numbers_stay_below_their_count() -> None:
    """Also where u * count is rounded up: for the largest u, and every count up to a hundred thousand."""
    counts = torch.arange(1, 100_001, dtype=torch.float32)
    numbers = source.Source(batch=len(counts), device=torch.device("cpu"), uniforms=torch.full((1, len(counts)), 1 - 2.0**-24))
    assert torch.equal(numbers.below_each(counts), counts - 1)


@pytest.mark.parametrize("kind", list(sampling.SAMPLERS), ids=lambda kind: kind.__name__)
def test_formulas_and_records_use_every_row_once(kind: type[Op]) -> None:
    op = kind()
    numbers = source.Source(batch=2, device=torch.device("cpu"), height=40, width=50)
    numbers.draw(draws.rows(op))
    drawn = sampling.SAMPLERS[kind](op, numbers)
    assert numbers.taken == draws.rows(op) == draws.encode((op,), 40, 50).rows
    program = draws.encode((op,), 40, 50)
    named = [each.name for each in program.outputs] + [each.name for each in program.given if each.name]
    assert sorted(named) == sorted(drawn)


def test_tables_cover_the_same_ops() -> None:
    assert set(draws.ENCODERS) == set(draws.ROWS) == set(sampling.SAMPLERS)
    assert set(policies.TABLES) == set(policies.SPACES)
    for policy, count in policies.TABLES.items():
        assert len(policies.tables(policy, 20, 30, torch.device("cpu"))) == count


# ---- how a plan draws -------------------------------------------------------------------------------------------------


def test_a_plan_draws_by_the_library_and_without_a_compiler_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    planned, called = fused.plan(resolve("d2l", 32)), []

    def watched(*given: Any) -> None:
        called.append(given)
        run(*given)

    run = native_draws.run
    monkeypatch.setattr(native_draws, "run", watched)
    first = planned.sample(7, 32, 40, torch.Generator().manual_seed(1))
    assert len(called) == 1
    monkeypatch.setattr(native_build, "library", lambda: None)
    second = planned.sample(7, 32, 40, torch.Generator().manual_seed(1))
    assert len(called) == 1
    for one, other in zip(first, second, strict=True):
        assert_same(one, other)


def test_a_generator_decides_and_the_global_one_stays() -> None:
    planned = fused.plan(SUBJECTS["between PyTorch's own"])
    before = torch.random.get_rng_state()
    first, again, other = (planned.sample(20, 32, 40, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for one, same, different in zip(first, again, other, strict=True):
        assert all(torch.equal(one[key], same[key]) for key in one)
        assert any(not torch.equal(one[key], different[key]) for key in one)
    torch.manual_seed(1)
    for one, same in zip(first, planned.sample(20, 32, 40), strict=True):
        assert all(torch.equal(one[key], same[key]) for key in one)


def test_without_randomness_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rand", "randn", "empty"):
        monkeypatch.setattr(torch, name, None)
    monkeypatch.setattr(native_draws, "run", None)
    assert fused.plan(resolve("none", 32)).sample(5, 32, 32) == ({},)
    assert fused.plan(resolve("imagenet_eval", 224)).sample(5, 300, 400) == ({}, {}, {})


def test_no_image_and_stand_ins() -> None:
    planned = fused.plan(resolve("autoaugment", 32))
    empty = planned.sample(0, 32, 32)[2]
    assert empty["arguments"].shape == (0, 2, policies.ARGUMENTS)
    with torch._subclasses.FakeTensorMode():
        fake = fused.plan(resolve("crop_flip", 32)).sample(3, 32, 32)[0]["top"]
    assert isinstance(fake, torch._subclasses.FakeTensor)
    assert (fake.dtype, fake.shape) == (torch.int64, (3,))


def test_sizes_that_cannot_be_are_told_each_time() -> None:
    planned = fused.plan([ops.CenterCrop(size=16), ops.RandomCrop(size=32, padding=4)])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"RandomCrop.*16x16.*padding"):
            planned.sample(3, 64, 48)
