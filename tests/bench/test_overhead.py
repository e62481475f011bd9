"""The trainer's step against a bare loop: that both do the same work, and that turns are taken fairly."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.grid.overhead import _Turns, bare_steps, in_turns, measure_overhead, measure_pass, overhead_config, trained_steps
from bench.grid.timing import Clock
from training import models
from training.config import TrainConfig
from training.data import Dataset, load
from training.loop import trainer

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
TINY = TrainConfig(model="resnet8", width=4, device="cpu", augment_on="none", resident=True, batch_size=48)


@pytest.fixture
def shapes(tmp_path: Path) -> Dataset:
    return load("synthetic", root=tmp_path, max_train=100, max_test=10)


def test_both_loops_do_the_same_arithmetic_on_equally_large_batches(shapes: Dataset) -> None:
    """Seen where all of it passes: what goes into the model's last layer, in training mode, in both loops."""
    seen: list[tuple[int, ...]] = []

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, torch.nn.Linear):
            assert module.training
            seen.append(tuple(inputs[0].shape))

    hook = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        with trainer(TINY, shapes) as current:
            current.model.train()
            bare, ours = bare_steps(TINY, shapes, current.device), trained_steps(current)
            for steps in (bare, ours):
                for _ in range(7):
                    next(steps)
    finally:
        hook.remove()
    assert seen[:7] == seen[7:]
    assert [size[0] for size in seen[:7]] == [48, 48, 4, 48, 48, 4, 48]


def test_the_bare_loop_learns(shapes: Dataset) -> None:
    """One step of AdamW moves every weight by about the step size: it is a whole training step."""
    torch.manual_seed(0)
    made: list[torch.nn.Module] = []
    create = models.create

    def keep(name: str, num_classes: int, width: int) -> torch.nn.Module:
        made.append(create(name, num_classes, width))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "create", keep)
        steps = bare_steps(TINY, shapes, torch.device("cpu"))
        next(steps)
        before = [parameter.detach().clone() for parameter in made[0].parameters()]
        next(steps)
    moved = [(a - b).abs().mean() for a, b in zip(before, made[0].parameters(), strict=True)]
    assert min(moved) > 0
    assert max(moved) < 2 * TINY.learning_rate


def test_neither_loop_is_always_the_second() -> None:
    order: list[str] = []
    turns = _Turns(lambda: order.append("bare"), Clock("cpu"))
    in_turns(lambda: order.append("ours"), turns.before, turns.after, 4, clock=Clock("cpu"))
    assert order == ["bare", "ours", "ours", "bare"] * 2
    assert len(turns.seconds) == 4


def test_the_record_pairs_the_steps(shapes: Dataset) -> None:
    """With a sampler that claims each step of the trainer took twice as long as the bare one beside it: a ratio of 2."""
    bare: list[float] = []

    def sampler(function: Any, before: Any, after: Any, rounds: int) -> list[float]:
        turns = before.__self__
        in_turns(function, before, after, rounds, clock=Clock("cpu"))
        bare.extend(turns.seconds)
        return [2 * seconds for seconds in turns.seconds]

    record = measure_overhead(TINY, shapes, seconds=0.01, sampler=sampler)
    assert record["step_over_bare"] == pytest.approx(2.0)
    assert record["bare_s"] == bare
    assert len(record["step_s"]) == 6
    assert json.loads(json.dumps(record)) == record
    assert (record["kind"], record["augment_on"], record["resident"], record["threads"]) == ("overhead", "none", True, 1)


def test_a_pass_that_fails_is_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no memory\nmore of it")

    monkeypatch.setattr("bench.grid.overhead.measure_overhead", broken)
    record = measure_pass("cpu", None, "synthetic", tmp_path, seconds=0.01)
    assert (record["kind"], record["status"], record["reason"]) == ("overhead", "failed", "RuntimeError: no memory")
    assert record["model"] == overhead_config("cpu").model


def test_a_session_measures_it_once(tmp_path: Path) -> None:
    """And not at all where some ops or recipes are asked for: test_benchmark_runs.py names all files of such a run."""
    folder = tmp_path / "run"
    options = ("--device", "cpu", "--data", "synthetic", "--passes", "1", "--case-seconds", "0.01")
    chosen = ("-k", "overhead or HorizontalFlip-fused-cpu", f"--results={folder}")
    done = session(*options, *chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (folder / "training.jsonl").read_text().splitlines()
    record = json.loads(lines[0])
    assert (record["kind"], record["status"], record["round"], record["device"]) == ("overhead", "ok", 0, "cpu")
    assert "Measuring 2 cases in 1 passes" in done.stdout
    (folder / "ops.json").unlink()  # as if the run had died before its end
    again = session("--resume", "--data", "synthetic", *chosen)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (folder / "training.jsonl").read_text().splitlines() == lines


def session(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "--benchmark-only", "-p", "no:cacheprovider", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
