"""What a sweep is to do, and what of it is done: plan.json and training.jsonl, as its processes read them. No torch here."""

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.records.runs import load_run
from training.config import TrainConfig
from training.sweep import Cell

if TYPE_CHECKING:
    from training.dataset import Dataset

PLAN_WAIT_S = 1800.0
"""How long torchrun's other processes wait for the first to load the data and write down the plan."""
OF_A_CELL = ("recipe", "backend", "seed", "num_workers", "target_accuracy")
"""Settings in which the cells of a sweep may differ, and one that decides nothing of a run."""


def shared_settings(base: TrainConfig, dataset: "Dataset", device: str) -> dict[str, Any]:
    """What all cells have in common: the config, the kind of device, the images."""
    settings = {name: value for name, value in base.as_record().items() if name not in OF_A_CELL}
    identity = {"dataset": dataset.name, "fingerprint": dataset.fingerprint, "fallback": dataset.fallback}
    return {**settings, **identity, "device": device}


def planned(folder: Path) -> dict[str, Any]:
    """The plan of the sweep in a folder. Raises ValueError where there is none."""
    sweep = load_run(folder).plan.get("sweep")
    if not isinstance(sweep, dict) or not isinstance(sweep.get("settings"), dict) or not isinstance(sweep.get("cells"), list):
        raise ValueError(f"{folder} cannot be resumed: it holds no plan of a sweep")
    return sweep


def check_same(folder: Path, before: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise ValueError where a plan is that of a sweep with other settings."""
    kept = before["settings"]
    for name, value in settings.items():
        # Plans before this one did not tell the device.
        if kept.get(name, value if name == "device" else None) != value:
            raise ValueError(f"{folder} holds another sweep: its {name} is {kept.get(name)}, not {value}")


def await_plan(folder: Path) -> None:
    """Until the first process has written the plan, and so has loaded the data, which lie in a cache then."""
    deadline = time.monotonic() + PLAN_WAIT_S
    while not (folder / "plan.json").exists():
        if time.monotonic() > deadline:
            raise ValueError(f"no plan in {folder}: --results must be a folder that all processes share")
        time.sleep(0.2)


def finished(folder: Path) -> set[Cell]:
    """The cells with nothing left to do: those that have a result, or have failed since they were last to be tried again."""
    run = load_run(folder)
    done, failed = _became(run.training)
    sweep = run.plan.get("sweep")
    retried = sweep.get("retried") if isinstance(sweep, dict) else None
    before = {Cell(recipe=recipe, backend=backend, seed=seed): times for recipe, backend, seed, times in retried or []}
    return done | {cell for cell, times in failed.items() if times > before.get(cell, 0)}


def failures(folder: Path) -> list[list[Any]]:
    """The cells that have failed and have no result, each with how often: [recipe, backend, seed, times]."""
    done, failed = _became(load_run(folder).training)
    return [[cell.recipe, cell.backend, cell.seed, times] for cell, times in failed.items() if cell not in done]


def _became(training: list[dict[str, Any]]) -> tuple[set[Cell], Counter[Cell]]:
    """The cells that have a result, and how often each has failed."""
    done, failed = set[Cell](), Counter[Cell]()
    for record in training:
        if record.get("kind") == "accuracy" and {"recipe", "backend", "seed"} <= record.keys():
            if record.get("status", "ok") == "ok":
                done.add(Cell.of(record))
            else:
                failed[Cell.of(record)] += 1
    return done, failed
