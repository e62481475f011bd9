"""A backend that cannot run here, for want of its package: every command says so in its own way, and none fails."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from torch import Tensor

from augment import UnsupportedOp, backends
from augment.audit import audit
from augment.backends import triton_augment
from bench.gallery import draw_single, draw_strips
from bench.jobs.grid import Grid, plan
from bench.jobs.job import outcome
from bench.jobs.throughput import Axes, training_configs
from bench.records import Audit, Run, Throughput
from bench.report.conformance import build_full_table
from training.config import FinetuneConfig, TrainConfig, validate

MISSING = f"its package is missing: {triton_augment.PACKAGE.install}"


@pytest.fixture(autouse=True)
def _no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "installed_version", lambda prefix: None)
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # or it would first lack CUDA


def test_the_grid_names_the_reason_and_the_default_leaves_the_backend_out() -> None:
    grid = Grid(ops=("HorizontalFlip",), recipes=("flip",), backends=("triton_augment",))
    assert [(case.subject, case.status, case.reason) for case in plan(grid, memory_bytes=lambda device: 1)] == [
        (subject, "unsupported", f"HorizontalFlip is not supported by backend triton_augment: {MISSING}")
        for subject in ("HorizontalFlip", "flip")
    ]
    usual = plan(Grid(ops=("HorizontalFlip",), recipes=()), memory_bytes=lambda device: 1)
    assert "triton_augment" not in {case.backend for case in usual}


@pytest.mark.parametrize("augment_on", ["device", "workers"])
def test_training_is_refused_before_anything_is_loaded_unless_it_augments_nothing(augment_on: str) -> None:
    config = TrainConfig(recipe="flip", backend="triton_augment", device="cpu")
    with pytest.raises(UnsupportedOp, match="its package is missing"):
        validate(replace(config, augment_on=augment_on, num_workers=1))  # type: ignore[arg-type]
    validate(replace(config, augment_on="none"))


def test_fine_tuning_is_refused_for_what_it_lacks() -> None:
    config = FinetuneConfig(data="hymenoptera", backend="triton_augment", init="scratch", mode="scratch", device="cpu")
    with pytest.raises(UnsupportedOp, match="RandomResizedCrop is not supported by backend triton_augment"):
        validate(config)


def test_throughput_measures_the_ceilings_alone() -> None:
    axes = Axes(recipes=("flip",), backends=("triton_augment",), workers=(0,), decode=("ahead",))
    assert {config.augments for config in training_configs(TrainConfig(device="cpu"), axes)} == {False}


def test_the_gallery_shows_why_its_panels_are_empty(images: Tensor, tmp_path: Path) -> None:
    assert MISSING in str(draw_single(images, "flip", "triton_augment", seed=0))
    draw_strips(images, tmp_path, dataset="shapes", ops=(), recipes=("flip",), backends=("fused", "triton_augment"))
    assert MISSING in (tmp_path / "gallery" / "gallery.json").read_text()


def test_the_audit_says_why_there_is_no_verdict() -> None:
    import msgspec

    report = msgspec.convert(
        audit(["triton_augment"], ["HorizontalFlip"], [], n=100, workers=False), Audit, from_attributes=True
    )
    (cell,) = report.verdicts
    cause = f"HorizontalFlip is not supported by backend triton_augment: {MISSING}"
    assert (cell.verdict, cell.cause) == ("unsupported", cause)
    table = build_full_table(Run(path=Path(), name="x", audit=report))
    assert f"- missing: {MISSING} (triton-augment: `HorizontalFlip`)" in table.splitlines()


def test_rich_prints_the_way_to_the_package_in_full() -> None:
    console = Console(width=200, record=True, file=io.StringIO(), markup=False)  # as the command line opens it
    console.print(outcome(Throughput(status="unsupported", reason=MISSING)))
    assert console.export_text() == f"unsupported ({MISSING})\n"  # [triton-augment] looks like markup
