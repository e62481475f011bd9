"""A backend that cannot run here, for want of its package: every command says so in its own way, and none fails."""

import io
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from rich.console import Console
from torch import Tensor

from augment import UnsupportedOp, triton_augment
from augment.audit import audit
from bench.audit import print_audit
from bench.endtoend.outcomes import outcome
from bench.endtoend.throughput import Axes, arms
from bench.grid.cases import Grid, plan
from bench.pictures.gallery import block
from bench.pictures.strips import draw_strips
from training.config import TrainConfig, validate
from training.finetune_config import FinetuneConfig
from training.finetune_config import validate as validate_finetune

MISSING = f"its package is missing: {triton_augment.INSTALL}"


@pytest.fixture(autouse=True)
def _no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(triton_augment, "version", version)
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # or it would first lack CUDA


def test_the_grid_names_the_reason_and_the_default_leaves_the_backend_out() -> None:
    grid = Grid(ops=("HorizontalFlip",), recipes=("flip", "d2l"), backends=("triton_augment",))
    assert [(one.case.subject, one.status, one.reason) for one in plan(grid, memory_bytes=lambda device: 1)] == [
        ("HorizontalFlip", "unsupported", f"HorizontalFlip is not supported by backend triton_augment: {MISSING}"),
        ("flip", "unsupported", f"HorizontalFlip is not supported by backend triton_augment: {MISSING}"),
        ("d2l", "unsupported", f"HorizontalFlip is not supported by backend triton_augment: {MISSING}"),
    ]
    usual = plan(Grid(ops=("HorizontalFlip",), recipes=()), memory_bytes=lambda device: 1)
    assert "triton_augment" not in {one.case.backend for one in usual}


@pytest.mark.parametrize("augment_on", ["device", "workers"])
def test_training_is_refused_before_anything_is_loaded(augment_on: str) -> None:
    config = TrainConfig(recipe="flip", backend="triton_augment", device="cpu")
    with pytest.raises(UnsupportedOp, match="its package is missing"):
        validate(replace(config, augment_on=augment_on, num_workers=1))  # type: ignore[arg-type]


def test_training_without_augmentation_asks_for_no_package() -> None:
    validate(TrainConfig(recipe="flip", backend="triton_augment", augment_on="none", device="cpu"))


def test_fine_tuning_is_refused_for_what_it_lacks() -> None:
    with pytest.raises(UnsupportedOp, match="RandomResizedCrop is not supported by backend triton_augment"):
        validate_finetune(
            FinetuneConfig(data="hymenoptera", backend="triton_augment", init="scratch", mode="scratch", device="cpu")
        )


def test_throughput_measures_the_ceilings_alone() -> None:
    axes = Axes(recipes=("flip",), backends=("triton_augment",), workers=(0,), decode=("ahead",))
    assert {arm.augments for arm in arms(TrainConfig(device="cpu"), axes)} == {False}


def test_the_gallery_shows_why_its_panels_are_empty(images: Tensor, tmp_path: Path) -> None:
    (panel,) = block(images, "flip", "triton_augment", seed=0).panels
    assert panel.words == f"unsupported: {MISSING}"
    options = {"dataset": "shapes", "ops": (), "recipes": ("flip",)}
    (drawn,) = draw_strips(images, tmp_path, backends=("fused", "triton_augment"), **options)["subjects"]  # type: ignore[arg-type]
    assert drawn["cells"]["triton_augment"] == {"status": "unsupported", "reason": f"unsupported: {MISSING}"}
    assert "triton_augment" not in draw_strips(images, tmp_path, **options)["columns"]  # type: ignore[arg-type]


def test_the_audit_says_why_there_is_no_verdict() -> None:
    report = audit(["triton_augment"], ["HorizontalFlip"], [], n=100, workers=False)
    (verdict,) = report.verdicts
    assert (verdict.verdict, verdict.cause) == (
        "unsupported",
        f"HorizontalFlip is not supported by backend triton_augment: {MISSING}",
    )
    console = Console(width=200, record=True, file=io.StringIO())
    print_audit(report.as_record(), console)
    assert f"unsupported: {MISSING}: HorizontalFlip on triton_augment" in console.export_text()


def test_the_way_to_the_package_is_told_in_full_by_rich() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(outcome({"status": "unsupported", "reason": MISSING}, "test_accuracy", "{:.1%}"))
    assert console.export_text() == f"unsupported ({MISSING})\n"  # [triton-augment] looks like markup
