"""The section on accuracy: paired differences by hand, intervals by scipy, the audit beside backends, nothing hidden."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bench.comparison.seeds import estimate, seeds_needed
from bench.records.runs import Run
from bench.report.accuracy import accuracy_section, audit_words, baseline, seeds_to_see
from bench.report.accuracy_figures import unbeaten
from bench.report.arms import settings
from bench.report.blocks import Code, Figure, Paragraph, Table, Text
from bench.report.context import Context

ACCURACIES = {
    ("none", "fused"): (0.500, 0.520, 0.510),
    ("none", "kornia"): (0.501, 0.518, 0.511),
    ("flip", "fused"): (0.560, 0.570, 0.590),
    ("flip", "kornia"): (0.520, 0.530, 0.550),
}
SPEEDS = {"fused": 3000.0, "kornia": 1000.0}


def record(recipe: str, backend: str, seed: int, accuracy: float, **fields: Any) -> dict[str, Any]:
    setting = {"model": "resnet8", "width": 8, "batch_size": 64, "dataset": "shapes", "device": "cpu", "num_epochs": 1}
    manner = {"recipe": recipe, "backend": backend, "seed": seed, "augment_on": "device", "num_workers": 0, "draws": "fixed"}
    found = {"test_accuracy": accuracy, "train_accuracy": 0.7, "loss": 1.0, "examples_per_s": SPEEDS[backend] + seed}
    return {"kind": "accuracy", "status": "ok", **setting, **manner, **found, **fields}


def records(seeds: int = 3, **fields: Any) -> list[dict[str, Any]]:
    return [
        record(recipe, backend, seed, values[seed], **fields)
        for (recipe, backend), values in ACCURACIES.items()
        for seed in range(seeds)
    ]


def section(folder: Path, training: list[dict[str, Any]], **parts: Any) -> list[Any]:
    run = Run(path=folder, name="a", environment={}, measurements=[], training=training, problems=[], **parts)
    return accuracy_section(Context.of(run))


def plain(text: Text) -> str:
    parts = [text] if isinstance(text, str) else text
    return "".join(part if isinstance(part, str) else getattr(part, "text", "") for part in parts)


def tables(blocks: list[Any]) -> list[list[dict[str, str]]]:
    """Every table as rows of column -> words."""
    return [
        [dict(zip(map(plain, block.header), map(plain, row), strict=True)) for row in block.rows]
        for block in blocks
        if isinstance(block, Table)
    ]


def words(blocks: list[Any]) -> str:
    return "\n".join(plain(block.text) for block in blocks if isinstance(block, Paragraph))


def half(values: Any) -> float:
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    return float(high - low) / 2


def test_means_have_intervals_and_differences_are_paired(tmp_path: Path) -> None:
    blocks = section(tmp_path, records(), plan={"sweep": {"baseline": "none@kornia"}})
    means, against, _ = tables(blocks)
    row = next(r for r in means if r["recipe"] == "flip" and r["augmented by"].startswith("fused"))
    assert row["test accuracy, mean"] == f"57.3 % ±{100 * half((0.56, 0.57, 0.59)):.1f} points"
    assert (row["each seed"], row["n, seeds"]) == ("56.0 %, 57.0 %, 59.0 %", "3")
    row = next(r for r in against if r["recipe"] == "flip" and r["augmented by"].startswith("fused"))
    points = [5.9, 5.2, 7.9]  # by hand: seed by seed from none@kornia
    assert row["minus baseline, points"] == f"+{np.mean(points):.2f} ±{half(points):.2f}"
    assert row["n, pairs"] == "3"
    sd = float(np.std(points, ddof=1))
    assert row["sd of differences, points"].startswith(f"{sd:.2f} (")
    assert [row[f"seeds to see {p}"] for p in (0.5, 0.2, 0.1)] == [f"{seeds_needed(sd, p):,}" for p in (0.5, 0.2, 0.1)]
    assert len(against) == 3  # all but the baseline
    assert "(none, kornia on the device)" in words(blocks)


def test_pairs_are_of_the_same_seed_in_whatever_order(tmp_path: Path) -> None:
    training = [r for r in records() if (r["recipe"], r["seed"]) != ("none", 1)]
    _, against, _ = tables(section(tmp_path, training[::-1]))
    row = next(r for r in against if r["recipe"] == "flip" and r["augmented by"].startswith("fused"))
    assert (row["minus baseline, points"], row["n, pairs"]) == ("+7.00", "2")  # 6.0 and 8.0, of seeds 0 and 2
    assert row["seeds to see 0.1"] == "not known"


def test_backends_of_one_recipe_stand_beside_the_audit(tmp_path: Path) -> None:
    audit = {
        "verdicts": [],
        "comparisons": {
            "none": {"kornia|fused": {"comparable": True, "reason": ""}},
            "flip": {"fused|kornia": {"comparable": False, "reason": "flips other images"}},
        },
    }
    _, _, pairs = tables(section(tmp_path, records(), audit=audit))
    assert [(r["recipe"], r["interval around zero"], r["the audit says"]) for r in pairs] == [
        ("none", "yes", "equal"),
        ("flip", "no", "not equal: flips other images"),  # 4.0 points at each of three seeds
    ]
    assert pairs[1]["difference, points"] == "+4.00 ±0.00"
    assert audit_words({}, "none", "fused", "kornia") == "not audited"


def test_few_seeds_are_said_to_be_few(tmp_path: Path) -> None:
    blocks = section(tmp_path, records(seeds=2))
    assert "2 seeds a recipe: too few for a confidence interval" in words(blocks)
    means, against, pairs = tables(blocks)
    assert not any("±" in r["test accuracy, mean"] for r in means)
    assert [r["minus baseline, points"] for r in against] == ["-0.05", "+5.50", "+1.50"]
    assert {r["interval around zero"] for r in pairs} == {"too few seeds"}


def test_without_a_sweep_the_baseline_is_no_augmentation() -> None:
    (arms,) = settings(records(), "accuracy")
    assert baseline(arms, {}).first["recipe"] == "none"  # type: ignore[union-attr]
    assert baseline(arms, {"sweep": {"baseline": "flip@fused"}}).first["recipe"] == "flip"  # type: ignore[union-attr]
    assert baseline(arms, {"sweep": "?"}).first["recipe"] == "none"  # type: ignore[union-attr]


def test_what_was_planned_and_has_not_run_is_told(tmp_path: Path) -> None:
    planned = [["none", "fused", seed] for seed in range(5)]
    blocks = section(tmp_path, records(cells_at_once=2), plan={"sweep": {"cells": planned}})
    assert "2 of 5 planned training runs have not run: none@fused, seed 3, none@fused, seed 4." in words(blocks)
    assert "Up to 2 runs shared the machine" in words(blocks)
    assert Code("augmark sweep --resume") in [part for b in blocks if isinstance(b, Paragraph) for part in b.text]
    assert section(tmp_path, [], plan={"sweep": {"cells": "?"}}) == []
    assert "5 of 5 planned training runs have not run" in words(section(tmp_path, [], plan={"sweep": {"cells": planned}}))


def test_figures_say_what_they_show(tmp_path: Path) -> None:
    figures = [block for block in section(tmp_path, records()) if isinstance(block, Figure)]
    assert [figure.path.stem for figure in figures] == ["accuracy-1", "pareto-1"]
    assert "flip on fused 3,000 examples/s, 57.3 %" in figures[1].alternative
    assert all((tmp_path / "report" / figure.path).stat().st_size > 1000 for figure in figures)


def test_the_front_is_what_nothing_beats() -> None:
    points = [(1.0, 5.0), (2.0, 4.0), (2.0, 3.0), (3.0, 4.0), (0.5, 5.0), (3.0, 4.0)]
    assert unbeaten(points) == [(1.0, 5.0), (3.0, 4.0)]
    assert unbeaten([]) == []


def test_a_wild_deviation_does_not_count_for_ever() -> None:
    assert seeds_to_see(estimate([0.0, 50.0, -50.0])) == [">10,000"] * 3
    assert seeds_to_see(None) == seeds_to_see(estimate([0.0, 0.0, 0.0])) == ["not known"] * 3


@pytest.mark.parametrize("strange", [{"test_accuracy": None}, {"test_accuracy": "high"}, {"seed": None}, {"recipe": None}])
def test_strange_records_do_no_harm(strange: dict[str, Any], tmp_path: Path) -> None:
    assert section(tmp_path, [*records(), {**record("flip", "fused", 7, 0.5), **strange}])
