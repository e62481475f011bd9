"""Train one model with a live display, and keep its curves: what ``augmark train`` does, also under torchrun.

torch is imported late, so that ``--help`` answers at once.
"""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from training.config import TrainConfig
from training.terminal import open_console

if TYPE_CHECKING:
    from training.data import Dataset
    from training.results import EpochStats, TrainResult

CURVES, RESULT = "curves.csv", "result.json"
HEADER = "epoch    loss  train acc  test acc  examples/s   wait"


class Display:
    """A line an epoch, and under them a bar of steps where the terminal can show one."""

    def __init__(self, config: TrainConfig) -> None:
        console = open_console()
        bar, count = BarColumn(), MofNCompleteColumn()
        columns = (TextColumn("{task.description}"), bar, count, TextColumn("steps"), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=None)
        self._epochs, self._epoch = config.epochs, 1

    def line(self, text: str) -> None:
        """Print above the bar."""
        self._bar.console.print(text)

    def begin(self, dataset: Dataset) -> None:
        """Say what the run trains on."""
        sizes = f"training on {len(dataset.train):,}, testing on {len(dataset.test):,}"
        self.line(f"data: {dataset.name}; {dataset.source}; {sizes}")
        if dataset.fallback is not None:
            self.line(f"ATTENTION: {dataset.fallback}")
        if dataset.skipped:
            self.line(f"skipped {len(dataset.skipped)} files, first {dataset.skipped[0]}")
        self.line(HEADER)
        self._bar.start()

    def step(self, step: int, steps: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=step, total=steps, description=f"epoch {self._epoch}/{self._epochs}")

    def epoch(self, stats: EpochStats) -> None:
        """Print the line of an epoch."""
        self._epoch = stats.epoch + 1
        self.line(epoch_line(stats))

    def end(self) -> None:
        """Remove the bar."""
        self._bar.stop()


def epoch_line(stats: EpochStats) -> str:
    """Return an epoch as a row of the table on screen."""
    return (
        f"{stats.epoch:5d}  {stats.train_loss:6.3f}  {stats.train_accuracy:9.3f}  {stats.test_accuracy:8.3f}  "
        f"{stats.examples / stats.wall_s:10,.1f}  {stats.wait_s / stats.wall_s:5.1%}"
    )


class RunFolder:
    """The folder of a run: ``curves.csv``, a row an epoch, written as it ends; the checkpoint; ``result.json`` at the end."""

    def __init__(self, out: Path, *, resume: bool) -> None:
        """Open the folder. Raises ValueError if it holds a run, finished or not, that is not to be resumed."""
        from training.checkpoint import NAME

        out.mkdir(parents=True, exist_ok=True)
        self.checkpoint, self._out = out / NAME, out
        self._epochs: list[EpochStats] = []
        if not resume and ((out / RESULT).exists() or self.checkpoint.exists() or read_curves(out)):
            raise ValueError(f"{out} already holds a run: add --resume to resume it, or take another --out")

    def add(self, stats: EpochStats) -> None:
        """Write the curves with one epoch more, whole at any moment."""
        self._epochs.append(stats)
        unfinished = self._out / f"{CURVES}.tmp"
        with open(unfinished, "w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(stats)])
            writer.writeheader()
            writer.writerows(map(dataclasses.asdict, self._epochs))
        os.replace(unfinished, self._out / CURVES)

    def finish(self, result: TrainResult) -> None:
        """Write the result, with the settings as plain values."""
        rates = {"train_s": result.train_s, "examples_per_s": result.examples_per_s}
        values = dataclasses.asdict(result) | {"config": result.config.as_record(), **rates}
        (self._out / RESULT).write_text(json.dumps(values, indent=1) + "\n")


def read_curves(out: Path) -> list[dict[str, float]]:
    """Return the epochs in a folder's curves.csv by the names of EpochStats; none if no epoch has ended."""
    try:
        with open(out / CURVES, newline="") as file:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []


def run(config: TrainConfig, out: Path, *, resume: bool = False) -> None:
    """Train with a live display, and print the book's two lines at the end and those of ``notes``; rank 0 prints and writes.

    ``out`` gets ``curves.csv`` (a row an epoch), ``checkpoint.pt`` (after each epoch) and ``result.json``. ``resume`` continues
    from that checkpoint, or starts if there is none yet. Raises what ``training.loop.train`` raises, OSError if ``out`` cannot
    be written, and ValueError for an ``out`` that holds a run already.
    """
    import torch

    from training.config import validate
    from training.cpus import usable_cpus
    from training.distributed import join_ranks
    from training.loop import load_once, train

    torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))  # torch does not know a container's quota
    with join_ranks(validate(config)) as ranks:
        # Opened by rank 0 for all: every rank stops if it cannot be.
        folder, display = ranks.run_on_main(lambda: RunFolder(out, resume=resume)), Display(config)
        dataset = load_once(config, ranks)
        if ranks.is_main:
            display.begin(dataset)
            if resume and not folder.checkpoint.exists():
                display.line("no checkpoint yet: from the start")

        def on_epoch(stats: EpochStats) -> None:
            display.epoch(stats)
            folder.add(stats)

        try:
            result = train(
                config, dataset, checkpoint=folder.checkpoint, resume=resume, on_step=display.step, on_epoch=on_epoch
            )
        finally:
            display.end()
        if ranks.is_main:
            print(*summary(result), sep="\n", flush=True)
            folder.finish(result)


def summary(result: TrainResult) -> list[str]:
    """Return the two lines with which the book ends a training run, and ``notes``."""
    last = result.last
    return [
        *notes(result),
        f"loss {last.train_loss:.3f}, train acc {last.train_accuracy:.3f}, test acc {last.test_accuracy:.3f}",
        f"{result.examples_per_s:.1f} examples/sec on {list(result.devices)}",
    ]


def notes(result: TrainResult) -> list[str]:
    """Return a line on the epoch that a run was resumed after, and one on the seconds to the target accuracy."""
    target, apart = result.target_accuracy, f"warming up {result.warm_up_s:.1f} s, evaluation {result.evaluation_s:.1f} s"
    if result.resumed_after:
        return [f"resumed after epoch {result.resumed_after} of {len(result.epochs)}: no seconds of the whole run"]
    if target is None:
        return []
    if result.seconds_to_target is None:
        return [f"test acc {target:.3f} was not reached in {result.train_s:.1f} s of training (not counted: {apart})"]
    return [f"test acc {target:.3f} after {result.seconds_to_target:.1f} s of training (not counted: {apart})"]


LOST = ("gloo/transport", "connection reset by peer", "connection closed by peer")
"""Words of Gloo's errors in a process that waits in vain for another; NCCL and the rendezvous have an error of their own."""
LEAVE_AFTER_S = 10.0
"""Seconds that a process that has lost another stays. torchrun then ends it at once, and names the one that died first as the
cause; a process that left too might be taken for the cause."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
OUT_OF_MEMORY = "out of memory: take a smaller batch_size, image_size or width"
MESSAGES: tuple[tuple[type[Exception], tuple[str, ...], str], ...] = (
    (MemoryError, ("",), OUT_OF_MEMORY),
    (RuntimeError, ("out of memory", "can't allocate memory", "not enough memory"), OUT_OF_MEMORY),
    (ImportError, ("failed to map segment", "can't allocate memory"), OUT_OF_MEMORY),
    (RuntimeError, ("dataloader timed out",), "no batch came in time: take --num-workers 0, or look whether the disk answers"),
    (RuntimeError, ("dataloader worker",), "a loader worker died, as it does when memory runs out: take fewer num_workers"),
    (
        RuntimeError, ("eaddrinuse", "address already in use"),
        "the port is in use: start torchrun with --standalone, or with another --master-port",
    ),
)  # fmt: skip
"""Errors of the machine by kind and words, with what to do."""


def describe(error: BaseException) -> str | None:
    """Return one line for an error of the user or the machine, None for a fault of the program."""
    text = " ".join(str(error).split())
    for kind, words, message in MESSAGES:
        if isinstance(error, kind) and any(word in text.lower() for word in words):
            return message if message == OUT_OF_MEMORY else f"{message} ({text})"
    if lost_contact(error):
        return f"lost contact with another process: see which one died or never came, then --resume ({text.split('. ')[0]})"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"cannot use {error.filename}: {error.strerror[:1].lower()}{error.strerror[1:]}"
    if isinstance(error, OSError) and error.errno in NO_ROOM and error.strerror:  # writing to an open file names none
        return f"no room to write ({error.strerror}): free some, or take other folders"
    return text if isinstance(error, ValueError | OSError) else None


def lost_contact(error: BaseException) -> bool:
    """Return whether an error says that another process of the run is gone."""
    is_dist_error = any(kind.__name__ == "DistError" for kind in type(error).__mro__)  # by name: torch is not imported here
    return is_dist_error or (isinstance(error, RuntimeError) and any(word in str(error).lower() for word in LOST))


if __name__ == "__main__":  # the older name of the command, which scripts for torchrun hold
    os.execv(sys.executable, [sys.executable, "-m", "bench", "train", *sys.argv[1:]])
