"""The planned grid: which cells there are, which cannot run, and which wishes are refused."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from augment import BACKENDS, RECIPES, ROWS
from bench.grid.cases import WORKING_COPIES, Case, Grid, check_device, one_line, plan
from bench.grid.inputs import Inputs


def plenty(device: str) -> int:
    return 2**50


def test_the_default_grid_is_every_subject_on_every_eager_backend_of_a_cpu() -> None:
    planned = plan(Grid(), memory_bytes=plenty)
    eager = {name for name, backend in BACKENDS.items() if not backend.compiled and not backend.why_not(torch.device("cpu"))}
    assert {(p.case.subject, p.case.backend) for p in planned} == {(s, b) for s in (*ROWS, *RECIPES) for b in eager}
    assert len({p.case.id for p in planned}) == len(planned)
    assert {p.case.batch_size for p in planned if p.case.suite == "ops"} == {256}
    shapes = {(p.case.batch_size, p.case.pixels, p.case.width) for p in planned if p.case.subject.startswith("imagenet")}
    assert shapes == {(16, "256 x 320", 320)}  # photographs, wider than high
    assert {p.case.image_width for p in planned if not p.case.subject.startswith("imagenet")} == {None}


def test_what_the_catalog_lacks_is_planned_as_unsupported_with_its_reason() -> None:
    planned = {p.case.backend: p for p in plan(Grid(ops=("AugMix",), recipes=()), memory_bytes=plenty)}
    assert "kornia" not in ROWS["AugMix"].build  # else this test needs another absent cell
    assert planned["kornia"].status == "unsupported"
    assert planned["kornia"].reason
    assert "AugMix" in planned["kornia"].reason
    assert planned["torchvision"].status == "planned"


def test_lanes_are_the_catalogs() -> None:
    grid = Grid(ops=("HorizontalFlip",), recipes=(), backends=("torchvision", "kornia", "torchvision_loop"))
    draws = {p.case.backend: p.draws for p in plan(grid, memory_bytes=plenty)}
    assert draws == {"torchvision": "per_batch", "kornia": "per_image", "torchvision_loop": "per_image"}


def test_integers_are_unsupported_where_an_op_needs_floats() -> None:
    grid = Grid(ops=("HorizontalFlip",), recipes=("flip",), backends=("torchvision", "kornia"), dtype="uint8")
    status = {(p.case.subject, p.case.backend): p.status for p in plan(grid, memory_bytes=plenty)}
    assert status[("HorizontalFlip", "torchvision")] == "planned"
    assert status[("HorizontalFlip", "kornia")] == "unsupported"
    assert status[("flip", "torchvision")] == "unsupported"  # recipes end in Normalize


def test_full_varies_one_size_at_a_time_and_given_sizes_make_a_product() -> None:
    def shapes(grid: Grid) -> set[tuple[int, int]]:
        return {(p.case.batch_size, p.case.image_size) for p in plan(grid, memory_bytes=plenty)}

    one = Grid(ops=("Invert",), recipes=(), backends=("torchvision",))
    batches = {(2**i, 32) for i in range(5, 13)}
    assert shapes(replace(one, full=True)) == batches | {(256, s) for s in (32, 64, 128, 224, 512)}
    assert shapes(replace(one, batch_sizes=(2, 3), image_sizes=(8, 16))) == {(2, 8), (2, 16), (3, 8), (3, 16)}
    # Photographs are not shrunk below what the recipe crops.
    assert shapes(Grid(batch_sizes=(2,), image_sizes=(32, 512), ops=(), recipes=("imagenet",), backends=("pil",))) == {(2, 512)}


def test_a_case_that_does_not_fit_the_memory_says_so() -> None:
    grid = Grid(ops=("Invert",), recipes=(), backends=("torchvision",), batch_sizes=(1, 4096), image_sizes=(512,))
    small, large = plan(grid, memory_bytes=lambda device: 2**30)
    assert small.status == "planned"
    assert large.status == "unsupported"
    assert large.reason == "needs about 96.0 GiB, cpu has 1.0 GiB to spare"


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        (Grid(ops=("Flp",)), "unknown op 'Flp'; known: HorizontalFlip"),
        (Grid(recipes=("flp",)), "unknown recipe 'flp'; known: none, flip"),
        (Grid(backends=("torchvison",)), "unknown backend 'torchvison'; known: pil"),
        (Grid(dtype="int7"), "unknown dtype 'int7'; known: float32"),
        (Grid(batch_sizes=(0,)), "batch size must be at least 1, got 0"),
        (Grid(image_sizes=(-1,)), "image size must be at least 1, got -1"),
        (Grid(devices=("gpu",)), "device 'gpu' cannot be used"),
        (Grid(devices=("meta",)), "device 'meta' cannot be used"),
        (Grid(devices=("cuda:99",)), "device 'cuda:99' cannot be used"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused_in_one_line(grid: Grid, says: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as refusal:
        plan(grid, memory_bytes=plenty)
    assert str(refusal.value).startswith(says)
    assert "\n" not in str(refusal.value)


def test_the_cpu_is_always_there() -> None:
    check_device("cpu")


def test_an_id_names_all_that_makes_a_case() -> None:
    case = Case(
        suite="ops",
        subject="HorizontalFlip",
        backend="torchvision",
        device="cpu",
        batch_size=256,
        image_size=32,
        dtype="float32",
    )
    assert case.id == "ops-HorizontalFlip-torchvision-cpu-b256-s32-float32"


def test_one_line_keeps_the_first_words() -> None:
    assert one_line(RuntimeError("\n  out of memory\nTraceback")) == "out of memory"
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert len(one_line("x" * 1000)) == 300


def test_cases_and_records_are_read_without_torch() -> None:
    code = "import sys, bench.grid.cases, bench.records.runs, bench.records.measurements; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_planned_case_comes_back_from_plan_json_whole() -> None:
    from bench.records.measurements import read_entry
    from bench.records.runs import plan_entry

    for planned in plan(Grid(ops=("Resize", "AugMix"), recipes=(), backends=("kornia", "torchvision"))):
        assert read_entry(plan_entry(planned)) == planned


def test_photographs_keep_their_shape_in_ids_and_plans_and_old_plans_are_square() -> None:
    from bench.records.measurements import read_entry
    from bench.records.runs import plan_entry

    (planned,) = plan(Grid(ops=(), recipes=("imagenet",), backends=("fused",)), memory_bytes=plenty)
    assert planned.case.id == "recipes-imagenet-fused-cpu-b16-s256x320-float32"
    entry = plan_entry(planned)
    assert read_entry(entry) == planned
    del entry["case"]["image_width"]  # as runs have it that were stored before photographs had a shape
    old = read_entry(entry).case
    assert (old.pixels, old.id) == ("256 x 256", "recipes-imagenet-fused-cpu-b16-s256-float32")
    entry["case"]["image_width"] = "320"
    with pytest.raises(TypeError, match="image_width"):
        read_entry(entry)


def test_memory_is_counted_by_height_and_width() -> None:
    grid = Grid(ops=(), recipes=("imagenet",), backends=("fused",))
    needed = WORKING_COPIES * 4 * 3 * 16 * 256 * 320
    assert [p.status for p in plan(grid, memory_bytes=lambda device: needed)] == ["planned"]
    assert [p.status for p in plan(grid, memory_bytes=lambda device: needed - 1)] == ["unsupported"]


def test_photographs_are_cut_from_the_middle_of_square_ones(tmp_path: Path) -> None:
    """Not squeezed: what is 320 wide is as high before it is cut, so a column of a case equals that of the square one."""
    inputs = Inputs("synthetic", tmp_path)
    (planned,) = plan(Grid(ops=(), recipes=("imagenet",), backends=("fused",)), memory_bytes=plenty)
    wide, labels = inputs.batch(replace(planned.case, batch_size=3))
    square, _ = inputs.batch(replace(planned.case, batch_size=3, image_size=320))
    assert wide.shape == (3, 3, 256, 320)
    assert wide.is_contiguous()
    assert len(labels) == 3
    assert torch.equal(wide, square[:, :, 32:-32])
