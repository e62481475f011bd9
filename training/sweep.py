"""A sweep: a training run for every recipe, backend and seed, shared out among processes so that none is lost or done twice.

Seeds are paired: runs of one seed start from the same weights and see the images in the same order, whatever their recipe
and backend, so that the difference of two such runs holds less chance than either of them.

torch is imported late: sharing out needs none.
"""

import dataclasses
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.config import TrainConfig

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
"""Environment variables by which torchrun tells a process that it is one of many."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run of a sweep."""

    recipe: str
    backend: str
    seed: int

    def __str__(self) -> str:
        return f"{self.recipe}@{self.backend}, seed {self.seed}"

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Cell":
        """The cell of a record, or of any mapping that has the three fields. Raises KeyError where it lacks one."""
        return cls(recipe=record["recipe"], backend=record["backend"], seed=record["seed"])


def cells(recipes: Sequence[str], backends: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Every combination once, seed after seed, so that a sweep that is cut short has whole pairs."""
    every = (Cell(recipe=recipe, backend=backend, seed=seed) for seed in seeds for recipe in recipes for backend in backends)
    return list(dict.fromkeys(every))


def cell_config(base: TrainConfig, cell: Cell) -> TrainConfig:
    """The run of a cell. Beside an accelerator, a backend that works image by image gets loader workers (as many as this
    process has threads, unless ``base`` says how many); on a CPU all run where ``base`` says."""
    import torch

    from augment.catalog import BACKENDS
    from training.distributed import resolve_device

    config = dataclasses.replace(base, recipe=cell.recipe, backend=cell.backend, seed=cell.seed)
    backend = BACKENDS.get(cell.backend)
    if backend is None or backend.on_device or resolve_device(base.device).type == "cpu":
        return config
    workers = base.num_workers or torch.get_num_threads()
    return dataclasses.replace(config, augment_on="workers", num_workers=workers, resident=False)


class Claims:
    """Which cell is whose, among processes on one or many machines that see one folder: a locked file for each cell.

    The locks are the kernel's (POSIX record locks, which network file systems know too) and go when their process ends,
    however it ends, so that no claim outlives its owner and none has to be judged stale. Forked children do not inherit them.
    Within one process a claim keeps nobody out.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def take(self, cell: Cell) -> Iterator[bool]:
        """Whether the cell is this process's while the block runs; False where another process has it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / f"{cell.recipe}@{cell.backend}@{cell.seed}", "a") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):  # POSIX allows either
                yield False
            else:
                yield True

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until no other process has its turn, and have it while the block runs: for what must not be done by two."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / "turn", "a") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            yield

    @property
    def exist(self) -> bool:
        """Whether anything was claimed that nobody has tidied up since."""
        return self._folder.is_dir()

    def remove(self) -> None:
        """Tidy up, once there is nothing left to claim."""
        shutil.rmtree(self._folder, ignore_errors=True)


def run_cells(
    todo: Sequence[Cell],
    attempt: Callable[[Cell], Mapping[str, Any]],
    *,
    claims: Claims,
    finished: Callable[[], Set[Cell]],
    write: Callable[[Mapping[str, Any]], None],
    go_on: Callable[[], bool],
) -> None:
    """Do the cells that nobody has done or is doing, one after the other.

    ``attempt`` trains a cell and returns its record, also where it failed. ``finished`` reads from the journal which cells have
    a record; ``write`` adds one to it, before the claim is given up. ``go_on`` is asked before each cell.
    """
    for cell in todo:
        if not go_on():
            return
        if cell in finished():
            continue
        with claims.take(cell) as mine:
            # Asked again: its owner may have finished it between the question and the claim.
            if mine and cell not in finished():
                write(attempt(cell))


def on_its_own(base: TrainConfig, index: int) -> TrainConfig:
    """The base of the ``index``-th local process, with a GPU of its own as long as there are enough; then they take turns.

    Under torchrun the process is torn from its group, as each of its cells is a run of its own: DDP would make one run of all.
    Raises ValueError for a device that this machine lacks.
    """
    import torch

    from training.distributed import resolve_device

    for name in LAUNCHER:
        os.environ.pop(name, None)
    device = resolve_device(base.device)
    if device.type != "cuda" or torch.device("cuda" if base.device == "auto" else base.device).index is not None:
        return base
    return dataclasses.replace(base, device=f"cuda:{index % torch.accelerator.device_count()}")
