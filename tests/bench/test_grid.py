"""The planned grid: which cases there are, which cannot run, which options are refused, and the images that cases get."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from augment import BACKENDS, OPS, PHOTOGRAPH_RECIPES, RECIPES
from bench.jobs import grid as grid_module
from bench.jobs.grid import WORKING_COPIES, Grid
from bench.jobs.inputs import Inputs
from bench.records import Speed, one_line
from tests.conftest import one_line as expect_one_line

ONE = Grid(ops=("Invert",), recipes=(), backends=("torchvision",))
PHOTOGRAPH = Grid(ops=(), recipes=("imagenet",), backends=("fused",))


def plan(grid: Grid, memory_bytes: int = 2**50) -> list[Speed]:
    return grid_module.plan(grid, memory_bytes=lambda device: memory_bytes)


def test_the_default_grid_is_every_subject_on_every_eager_backend_of_a_cpu() -> None:
    cases = plan(Grid())
    eager = {name for name, backend in BACKENDS.items() if not backend.compiled and not backend.why_not(torch.device("cpu"))}
    assert {(case.subject, case.backend) for case in cases} == {(s, b) for s in (*OPS, *RECIPES) for b in eager}
    assert len({case.name for case in cases}) == len({case.key for case in cases}) == len(cases)
    assert {case.batch_size for case in cases if case.suite == "ops"} == {256}
    shapes = {(case.batch_size, case.pixels, case.width) for case in cases if case.subject in PHOTOGRAPH_RECIPES}
    assert shapes == {(16, "256 x 320", 320)}  # photographs, wider than high
    assert {case.image_width for case in cases if case.subject not in PHOTOGRAPH_RECIPES} == {None}
    assert ("ops-Invert-torchvision-cpu-b256-s32-float32") in {case.name for case in cases}


def test_an_absent_cell_is_unsupported_with_its_reason_and_lanes_are_the_backends() -> None:
    cases = {case.backend: case for case in plan(replace(ONE, ops=("AugMix",), backends=None))}
    assert (cases["kornia"].status, cases["torchvision"].status) == ("unsupported", "not_run")
    assert "AugMix" in (cases["kornia"].reason or "")
    flips = replace(ONE, ops=("HorizontalFlip",), backends=("torchvision", "kornia", "torchvision_loop"))
    assert [case.lane for case in plan(flips)] == ["per_batch", "per_image", "per_image"]


def test_integers_are_unsupported_where_an_op_needs_floats() -> None:
    grid = Grid(ops=("HorizontalFlip",), recipes=("flip",), backends=("torchvision", "kornia"), dtype="uint8")
    status = {(case.subject, case.backend): case.status for case in plan(grid)}
    assert status == {
        ("HorizontalFlip", "torchvision"): "not_run", ("HorizontalFlip", "kornia"): "unsupported",
        ("flip", "torchvision"): "unsupported", ("flip", "kornia"): "unsupported",  # recipes end in Normalize
    }  # fmt: skip


@pytest.mark.parametrize(
    ("grid", "shapes"),
    [
        (replace(ONE, extent="full"), {(2**i, 32) for i in range(5, 13)} | {(256, s) for s in (32, 64, 128, 224, 512)}),
        (replace(ONE, extent="gpu"), {(1024, 32)}),
        (
            replace(ONE, extent="gpu", ops=(), recipes=("crop_flip",)),
            {(b, 32) for b in (64, 256, 1024, 4096, 16384, 65536)},
        ),
        (replace(ONE, batch_sizes=(2, 3), image_sizes=(8, 16)), {(2, 8), (2, 16), (3, 8), (3, 16)}),
        (replace(PHOTOGRAPH, batch_sizes=(2,), image_sizes=(32, 512)), {(2, 512)}),  # none below what the recipe crops
    ],
)
def test_full_varies_one_size_at_a_time_and_given_sizes_make_a_product(grid: Grid, shapes: set[tuple[int, int]]) -> None:
    assert {(case.batch_size, case.image_size) for case in plan(grid)} == shapes


def test_on_a_gpu_two_recipes_are_compiled_too_at_batch_1024(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every backend is said to run there; those that go image by image have no cell on an accelerator."""
    for name, backend in BACKENDS.items():
        monkeypatch.setitem(BACKENDS, name, replace(backend, why_not=lambda device: None))
    grid = Grid(extent="gpu", devices=("cuda",))
    on_device = {name for name, backend in BACKENDS.items() if backend.on_device}
    compiled = {name for name, backend in BACKENDS.items() if backend.compiled}
    backends = {b: set(grid_module._backends(grid, "cuda", "crop_flip", b)) for b in (256, 1024)}
    assert backends == {256: on_device - compiled, 1024: on_device}
    assert set(grid_module._backends(grid, "cuda", "flip", 1024)) == on_device - compiled


def test_a_case_that_does_not_fit_into_memory_says_so() -> None:
    small, large = plan(replace(ONE, batch_sizes=(1, 4096), image_sizes=(512,)), memory_bytes=2**30)
    assert (small.status, large.status) == ("not_run", "unsupported")
    assert large.reason == "needs about 96.0 GiB, cpu has 1.0 GiB to spare"
    needed = WORKING_COPIES * 4 * 3 * 16 * 256 * 320  # height x width
    assert [plan(PHOTOGRAPH, memory_bytes=room)[0].status for room in (needed, needed - 1)] == ["not_run", "unsupported"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ops": ("Flp",)}, "unknown op 'Flp'; known: HorizontalFlip"),
        ({"recipes": ("flp",)}, "unknown recipe 'flp'; known: none, flip"),
        ({"backends": ("torchvison",)}, "unknown backend 'torchvison'; known: "),
        ({"dtype": "int7"}, "unknown dtype 'int7'; known: float32"),
        ({"batch_sizes": (0,)}, "batch size must be at least 1, got 0"),
        ({"image_sizes": (-1,)}, "image size must be at least 1, got -1"),
        ({"devices": ("gpu",)}, "device 'gpu' cannot be used"),
        ({"devices": ("meta",)}, "device 'meta' cannot be used"),
        ({"devices": ("cuda:99",)}, "device 'cuda:99' cannot be used"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_impossible_options_are_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with expect_one_line(f"^{re.escape(message)}"):
        plan(Grid(**changes))


def test_one_line_keeps_the_first_words() -> None:
    assert one_line(RuntimeError("\n  out of memory\nTraceback")) == "out of memory"
    assert (one_line(KeyboardInterrupt()), len(one_line("x" * 1000))) == ("KeyboardInterrupt", 300)


def test_photographs_are_cut_from_the_middle_of_square_ones(tmp_path: Path) -> None:
    """Not squeezed: what is 320 wide is as high before it is cut, so a column of a case equals that of the square one."""
    inputs = Inputs("synthetic", tmp_path)
    (case,) = plan(PHOTOGRAPH)
    assert case.name == "recipes-imagenet-fused-cpu-b16-s256x320-float32"
    wide, labels = inputs.batch(msgspec.structs.replace(case, batch_size=3))
    square, _ = inputs.batch(msgspec.structs.replace(case, batch_size=3, image_size=320))
    assert wide.shape == (3, 3, 256, 320)
    assert wide.is_contiguous()
    assert len(labels) == 3
    assert torch.equal(wide, square[:, :, 32:-32])
