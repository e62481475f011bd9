"""Seconds of training to a target accuracy in the report, from records made by hand."""

from pathlib import Path
from typing import Any

import pytest

from bench.records.runs import Run
from bench.report.accuracy import accuracy_section
from bench.report.context import Context
from bench.report.findings import findings
from bench.report.markdown import render
from bench.report.target import target_answers
from tests.bench.stored import trained


def run_to(seed: int, seconds: float | None, *accuracies: float, **fields: Any) -> dict[str, Any]:
    """A run of epochs of 2 s each; ``seconds`` is what it says it took to 90 %."""
    epochs = [
        {"epoch": n, "train_loss": 1.0, "train_accuracy": 0.5, "test_accuracy": accuracy, "wall_s": 2.0}
        for n, accuracy in enumerate(accuracies, start=1)
    ]
    own = {"seed": seed, "epochs": epochs, "num_epochs": len(epochs), "test_accuracy": accuracies[-1], "loss": 1.0}
    own |= {"target_accuracy": 0.9, "seconds_to_target": seconds, "train_s": 2.0 * len(epochs), "warm_up_s": 30.0}
    return trained("accuracy", model="speednet", **own, evaluation_s=0.5) | fields


def rendered(tmp_path: Path, training: list[dict[str, Any]]) -> tuple[str, str]:
    """The section on accuracy, and what the report says in short."""
    context = Context.of(Run(path=tmp_path, name="run", environment={}, measurements=[], training=training, problems=[]))
    return render(accuracy_section(context)), render(findings(context))


def test_seconds_with_their_interval_over_seeds(tmp_path: Path) -> None:
    """4, 4 and 6 s: mean 4.67, sd 1.155, and t of two degrees of freedom 4.303 x 1.155 / sqrt(3) = 2.87."""
    training = [run_to(0, 4.0, 0.8, 0.9, 0.95), run_to(1, 4.0, 0.8, 0.91, 0.95, warm_up_s=0.1)]
    training.append(run_to(2, 6.0, 0.8, 0.89, 0.92, warm_up_s=0.1))  # one seed compiles for all
    section, short = rendered(tmp_path, training)
    row = next(line for line in section.splitlines() if line.startswith("| `flip`") and "90.0 %" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2:] == ["90.0 %", "3 of 3 seeds", "2 to 3", "4.67 ±2.9", "6.00", "0.500", "30.0"]
    assert "speednet on cifar10 with `flip` reaches 90.0 % test accuracy in 4.67 ±2.9 s of training" in short
    assert "(3 of 3 seeds; at most 30.0 s of warming up and compiling apart)" in short


def test_seeds_that_did_not_reach_it_are_told(tmp_path: Path) -> None:
    section, short = rendered(tmp_path, [run_to(0, 2.0, 0.9, 0.91), run_to(1, None, 0.8, 0.89)])
    assert "| 1 of 2 seeds | 1 | 2.00 |" in section
    assert "(1 of 2 seeds;" in short
    section, short = rendered(tmp_path, [run_to(0, None, 0.8), run_to(1, None, 0.7)])
    assert "| 0 of 2 seeds |  | not reached |" in section
    assert "does not reach 90.0 % test accuracy in 2.00 s of training (0 of 2 seeds)" in short


def test_targets_stand_apart_and_resumed_runs_aside(tmp_path: Path) -> None:
    training = [run_to(0, 2.0, 0.95), run_to(1, 2.0, 0.95, target_accuracy=0.5), run_to(2, None, 0.95, resumed_after=1)]
    section, _ = rendered(tmp_path, training)
    assert "| 90.0 % | 1 of 1 seed | 1 | 2.00 |" in section
    assert "| 50.0 % | 1 of 1 seed | 1 | 2.00 |" in section


@pytest.mark.parametrize("without", [{"target_accuracy": None}, {"target_accuracy": "?"}, {"target_accuracy": 0.0}])
def test_runs_without_a_target_have_no_such_table(without: dict[str, Any], tmp_path: Path) -> None:
    section, short = rendered(tmp_path, [run_to(0, None, 0.95, **without)])
    assert "seconds to it" not in section
    assert "test accuracy in" not in short


def test_records_with_gaps_are_shown_as_far_as_they_go(tmp_path: Path) -> None:
    bare = {"epochs": None, "train_s": None, "warm_up_s": "?", "evaluation_s": None}
    section, _ = rendered(tmp_path, [run_to(0, 2.0, 0.95, **bare)])
    assert "| 1 of 1 seed |  | 2.00 | not known | not known | not known |" in section


def test_the_evidence_begins_with_the_way_that_the_answer_is_of(tmp_path: Path) -> None:
    training = [run_to(0, None, 0.3, recipe=recipe) for recipe in ("none", "crop", "d2l")] + [run_to(0, 2.0, 0.95)]
    (answer,) = target_answers(
        Context.of(Run(path=tmp_path, name="run", environment={}, measurements=[], training=training, problems=[]))
    )
    assert answer.answer == "2.00 s of training"
    assert str(answer.evidence[2]).startswith(" reaches 90.0 % test accuracy in 2.00 s of training (1 of 1 seed;")
