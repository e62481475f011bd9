"""The trainer's step against a bare loop: both do the same work, and turns are taken fairly."""

from typing import Any

import pytest
import torch

from bench.clock import Clock, sample
from bench.jobs import overhead
from bench.jobs.job import plan_training
from bench.jobs.overhead import FEWEST_TURNS, alternate, bare_steps, measure_overhead, trained_steps
from bench.records import Overhead
from training import models
from training.config import TrainConfig
from training.data import Dataset
from training.loop import open_trainer

TINY = TrainConfig(model="resnet8", width=4, device="cpu", augment_on="none", resident=True, batch_size=48)


def test_both_loops_do_the_same_arithmetic_on_equally_large_batches(shapes: Dataset) -> None:
    """Seen at the input of the model's last layer, in training mode, in both loops."""
    seen: list[tuple[int, ...]] = []

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, torch.nn.Linear):
            assert module.training
            seen.append(tuple(inputs[0].shape))

    hook = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        with open_trainer(TINY, shapes) as trainer:
            trainer.model.train()
            for steps in (bare_steps(TINY, shapes, trainer.device), trained_steps(trainer)):
                for _ in range(7):
                    next(steps)
    finally:
        hook.remove()
    assert (seen[:7], [size[0] for size in seen[:7]]) == (seen[7:], [48, 48, 4, 48, 48, 4, 48])


def test_the_bare_loop_learns(shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of AdamW moves every weight by about the step size: it is a whole training step."""
    made: list[torch.nn.Module] = []
    create = models.create

    def keep(name: str, num_classes: int, width: int) -> torch.nn.Module:
        made.append(create(name, num_classes, width))
        return made[-1]

    monkeypatch.setattr(models, "create", keep)
    steps = bare_steps(TINY, shapes, torch.device("cpu"))
    next(steps)
    before = [parameter.detach().clone() for parameter in made[0].parameters()]
    next(steps)
    moved = [(a - b).abs().mean() for a, b in zip(before, made[0].parameters(), strict=True)]
    assert 0 < min(moved) < max(moved) < 2 * TINY.learning_rate


def test_neither_loop_is_always_the_second() -> None:
    order: list[str] = []
    beside = alternate(lambda: order.append("bare"))
    sample(lambda: order.append("trainer"), 4, beside, beside, clock=Clock("cpu"))
    assert order == ["bare", "trainer", "trainer", "bare"] * 2


def test_the_record_pairs_the_steps(shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """With clocks by which a bare step takes half a second and the trainer's one: a ratio of 2, in the fewest turns."""

    def sampler(function: Any, calls: int, before: Any, after: Any) -> list[float]:
        sample(function, calls, before, after, clock=Clock("cpu"))
        return [1.0] * calls

    monkeypatch.setattr(overhead, "sample", lambda *args, **clock: [0.5 for _ in sample(*args, **clock)])
    case = plan_training(Overhead, TINY, shapes)
    record = measure_overhead(case, TINY, shapes, seconds=0.01, sampler=sampler)
    assert record.step_over_bare == 2.0
    assert (record.bare_s, record.step_s) == ((0.5,) * FEWEST_TURNS, (1.0,) * FEWEST_TURNS)
    assert (record.key, record.status, record.threads) == (case.key, "ok", 1)
