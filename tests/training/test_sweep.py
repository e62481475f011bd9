"""Cells of a sweep: paired seeds share weights and order, a cell is one process's at a time, and none is lost or repeated."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from training import distributed
from training.config import TrainConfig
from training.data import Dataset
from training.distributed import Ranks
from training.feed import Feed
from training.loop import train
from training.sweep import Cell, Claims, cell_config, cells, on_its_own, run_cells
from training.trainer import Trainer

ROOT = Path(__file__).parents[2]


def test_every_combination_once_and_whole_seeds_first() -> None:
    every = cells(("none", "flip"), ("fused", "kornia"), range(3))
    assert len(set(every)) == len(every) == 12
    assert [cell.seed for cell in every] == [0] * 4 + [1] * 4 + [2] * 4
    assert str(every[3]) == "flip@kornia, seed 0"
    assert Cell.of({"recipe": "flip", "backend": "kornia", "seed": 0, "status": "ok"}) == every[3]


def test_paired_seeds_share_weights_and_order_over_recipes_and_backends(tiny: TrainConfig, shapes: Dataset) -> None:
    def start(cell: Cell) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Initial weights, and the labels of two epochs in the order in which they come."""
        config = cell_config(tiny, cell)
        trainer = Trainer(config, shapes, Ranks())
        bare = Feed(dataclasses.replace(config, augment_on="none"), shapes, Ranks())  # mixing recipes change labels
        labels = [batch[1] for epoch in (1, 2) for batch in bare.epoch(epoch)]
        return list(trainer.model.state_dict().values()), labels

    chosen = [("none", "fused"), ("crop_flip", "fused"), ("mixup", "torchvision"), ("crop_flip", "kornia")]
    starts = {
        (recipe, backend, seed): start(Cell(recipe=recipe, backend=backend, seed=seed))
        for recipe, backend in chosen
        for seed in (0, 1)
    }
    for seed in (0, 1):
        weights, labels = starts["none", "fused", seed]
        for recipe, backend in chosen[1:]:
            other_weights, other_labels = starts[recipe, backend, seed]
            assert all(mine.equal(theirs) for mine, theirs in zip(weights, other_weights, strict=True))
            assert all(mine.equal(theirs) for mine, theirs in zip(labels, other_labels, strict=True))
    (first, order), (second, other_order) = starts["none", "fused", 0], starts["none", "fused", 1]
    assert not all(mine.equal(theirs) for mine, theirs in zip(first, second, strict=True))
    assert not all(mine.equal(theirs) for mine, theirs in zip(order, other_order, strict=True))


def test_a_loop_over_images_goes_to_workers_beside_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    base = TrainConfig(device="cpu", resident=True)
    loops = Cell(recipe="flip", backend="pil", seed=4)
    assert cell_config(base, loops) == dataclasses.replace(base, recipe="flip", backend="pil", seed=4)
    monkeypatch.setattr(distributed, "resolve_device", lambda name: torch.device("cuda:0"))
    there = cell_config(base, loops)
    assert (there.augment_on, there.num_workers, there.resident) == ("workers", torch.get_num_threads(), False)
    assert cell_config(dataclasses.replace(base, num_workers=3), loops).num_workers == 3
    assert cell_config(base, Cell(recipe="flip", backend="fused", seed=4)).augment_on == "device"


def test_under_torchrun_a_cell_is_a_run_of_its_own(tiny: TrainConfig, shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another rank announced that never comes, a run that joined a group would wait for it."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    base = on_its_own(dataclasses.replace(tiny, epochs=1), 1)
    assert not {"RANK", "WORLD_SIZE"} & os.environ.keys()
    assert train(base, shapes).devices == ("cpu",)


def test_local_processes_take_turns_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert [on_its_own(TrainConfig(device=d), i).device for d in ("auto", "cuda") for i in range(3)] == [
        *("cuda:0", "cuda:1", "cuda:0"),
        *("cuda:0", "cuda:1", "cuda:0"),
    ]
    assert on_its_own(TrainConfig(device="cuda:1"), 0).device == "cuda:1"  # chosen by hand
    assert on_its_own(TrainConfig(device="cpu"), 1).device == "cpu"


# ---- who does what ----------------------------------------------------------------------------------------------------

CELL = Cell(recipe="flip", backend="fused", seed=0)
HOLD = """
import sys, pathlib
from training.sweep import Cell, Claims
with Claims(pathlib.Path(sys.argv[1])).take(Cell(recipe="flip", backend="fused", seed=0)) as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has claimed CELL in tmp_path, until its input ends or it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    yield process
    process.kill()
    process.communicate()


def taken(folder: Path, cell: Cell) -> bool:
    with Claims(folder).take(cell) as mine:
        return mine


def test_a_claim_keeps_others_out_and_goes_with_its_process(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    assert not taken(tmp_path, CELL)
    assert taken(tmp_path, Cell(recipe="flip", backend="fused", seed=1))
    holder.kill()  # -9: it cannot tidy up
    holder.wait()
    assert taken(tmp_path, CELL)


def swept(todo: list[Cell], done: list[Cell], folder: Path, **changes: Any) -> list[Cell]:
    """The cells that run_cells attempts; each joins ``done``."""
    attempted: list[Cell] = []

    def attempt(cell: Cell) -> Mapping[str, Any]:
        attempted.append(cell)
        return dataclasses.asdict(cell)

    given: dict[str, Any] = {
        "claims": Claims(folder), "finished": lambda: set(done), "write": lambda record: done.append(Cell.of(record)),
        "go_on": lambda: True, **changes,
    }  # fmt: skip
    run_cells(todo, attempt, **given)
    return attempted


def test_what_has_a_record_or_another_owner_is_left_alone(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    todo = cells(("flip", "none"), ("fused",), range(2))
    done = [todo[1]]
    assert swept(todo, done, tmp_path) == [todo[2], todo[3]]
    holder.kill()
    holder.wait()
    assert swept(todo, done, tmp_path) == [CELL]
    assert swept(todo, done, tmp_path) == []
    assert len(done) == 4


def test_a_cell_that_its_owner_finished_meanwhile_is_not_repeated(tmp_path: Path) -> None:
    """Its record comes between the look at the journal and the claim."""
    looks = iter([set[Cell](), {CELL}])
    assert swept([CELL], [], tmp_path, finished=lambda: next(looks)) == []


def test_nothing_is_begun_once_it_is_to_stop(tmp_path: Path) -> None:
    answers = iter([True, False])
    assert swept(cells(("flip",), ("fused",), range(3)), [], tmp_path, go_on=lambda: next(answers)) == [CELL]


SHARE = """
import os, pathlib, sys, time
from training.sweep import Cell, Claims, cells, run_cells
folder = pathlib.Path(sys.argv[1])
journal = folder / "journal"
def finished():
    lines = journal.read_text().splitlines() if journal.exists() else []
    return {Cell(recipe=recipe, backend="fused", seed=int(seed)) for recipe, seed, _ in map(str.split, lines)}
def attempt(cell):
    time.sleep(0.002)
    return {"line": f"{cell.recipe} {cell.seed} {os.getpid()}"}
def write(record):
    with claims.turn(), journal.open("a") as file:
        file.write(record["line"] + os.linesep)
claims = Claims(folder / "claims")
run_cells(cells(("none", "flip"), ("fused",), range(40)), attempt, claims=claims, finished=finished, write=write,
          go_on=lambda: True)
"""


def test_processes_share_cells_and_none_is_done_twice(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SHARE, str(tmp_path)]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    lines = [line.split() for line in (tmp_path / "journal").read_text().splitlines()]
    assert sorted((recipe, int(seed)) for recipe, seed, _ in lines) == [(r, s) for r in ("flip", "none") for s in range(40)]


def test_a_claim_lasts_until_the_record_is_written(tmp_path: Path) -> None:
    code = HOLD.replace("sys.stdin.read()", "")
    said: list[str] = []

    def write(record: Mapping[str, Any]) -> None:
        command = [sys.executable, "-c", code, str(tmp_path)]
        said.append(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    swept([CELL], [], tmp_path, write=write)
    assert said == ["False\n"]
    claims = Claims(tmp_path)
    assert claims.exist
    claims.remove()
    assert not claims.exist
