"""``python -m training.train``: train one model, watch it, and keep the curves. Also under torchrun.

torch is imported late, so that ``--help`` answers at once.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from training.config import TrainConfig
from training.presets import BOOK, PRESETS, PresetName, asked_for

if TYPE_CHECKING:
    from training.dataset import Dataset
    from training.results import EpochStats, TrainResult

CURVES, RESULT = "curves.csv", "result.json"
HEADER = "epoch    loss  train acc  test acc  examples/s   wait"


class _Display:
    """A line an epoch, and under them a bar of steps where the terminal can show one."""

    def __init__(self, config: TrainConfig) -> None:
        console = Console()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
        )
        self._bar = Progress(*columns, console=console, transient=True) if console.is_terminal else None
        self._task = self._bar.add_task("", total=None) if self._bar is not None else None
        self._epochs, self._epoch = config.epochs, 1

    def line(self, text: str) -> None:
        """Print above the bar."""
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False)

    def begin(self, dataset: Dataset) -> None:
        self.line(
            f"data: {dataset.name}; {dataset.source}; training on {len(dataset.train):,}, testing on {len(dataset.test):,}"
        )
        if dataset.fallback is not None:
            self.line(f"ATTENTION: {dataset.fallback}")
        if dataset.skipped:
            self.line(f"skipped {len(dataset.skipped)} files, first {dataset.skipped[0]}")
        self.line(HEADER)
        if self._bar is not None:
            self._bar.start()

    def step(self, step: int, steps: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, total=steps, description=f"epoch {self._epoch}/{self._epochs}")

    def epoch(self, stats: EpochStats) -> None:
        self._epoch = stats.epoch + 1
        self.line(
            f"{stats.epoch:5d}  {stats.train_loss:6.3f}  {stats.train_accuracy:9.3f}  {stats.test_accuracy:8.3f}  "
            f"{stats.examples / stats.wall_s:10,.1f}  {stats.wait_s / stats.wall_s:5.1%}"
        )

    def resume(self, epochs: Sequence[EpochStats]) -> None:
        for stats in epochs:
            self.epoch(stats)
        self.line(f"going on after epoch {len(epochs)} of {self._epochs}" if epochs else "no checkpoint yet: from the start")

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()


class _Folder:
    """Where a run is kept: ``curves.csv``, a row an epoch, written as it ends, so that what was trained is kept whatever comes;
    the checkpoint; and ``result.json`` at the end."""

    def __init__(self, out: Path) -> None:
        from training.checkpoint import NAME
        from training.results import EpochStats

        out.mkdir(parents=True, exist_ok=True)
        self.checkpoint = out / NAME
        self._curves, self._result = out / CURVES, out / RESULT
        self._names = [field.name for field in dataclasses.fields(EpochStats)]

    def start(self) -> None:
        """Begin a new run; ValueError where there is one, finished or not, lest it be lost by forgetting a word."""
        folder = self.checkpoint.parent
        if self._result.exists() or self.checkpoint.exists() or read_curves(folder):
            raise ValueError(f"{folder} already holds a run: add --resume to go on with it, or take another --out")
        self.begin(())

    def begin(self, epochs: Sequence[EpochStats]) -> None:
        """Start the curves with the epochs that a checkpoint holds: one that it does not is trained again."""
        unfinished = self._curves.with_name(CURVES + ".tmp")
        with open(unfinished, "w", newline="") as file:
            csv.writer(file).writerow(self._names)
            csv.DictWriter(file, self._names).writerows(dataclasses.asdict(stats) for stats in epochs)
        os.replace(unfinished, self._curves)

    def add(self, stats: EpochStats) -> None:
        with open(self._curves, "a", newline="") as file:
            csv.DictWriter(file, self._names).writerow(dataclasses.asdict(stats))

    def finish(self, result: TrainResult) -> None:
        self._result.write_text(json.dumps(result.as_record(), indent=1) + "\n")


def _opened(out: Path, *, resume: bool) -> _Folder:
    """The folder of a run that begins or goes on."""
    folder = _Folder(out)
    if not resume:
        folder.start()
    return folder


def read_curves(out: Path) -> list[dict[str, float]]:
    """The epochs in a folder's curves.csv, the fields of EpochStats as numbers; empty where none has ended.

    A last row that a full disk, or the end of its process, has cut off is left out.
    """
    try:
        with open(out / CURVES, newline="") as file:
            whole = [line for line in file if line.endswith("\n")]
    except FileNotFoundError:
        return []
    return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(whole)]


def run(config: TrainConfig, out: Path | None = None, dataset: Dataset | None = None, *, resume: bool = False) -> TrainResult:
    """Train with a live display, and print the book's two lines at the end and one about a target; rank 0 prints and writes.

    With ``out`` there are ``curves.csv`` (an EpochStats a row, appended as epochs end), ``checkpoint.pt`` (after each epoch)
    and ``result.json`` (the record). ``resume`` goes on from that checkpoint, or from the start where there is none yet.
    Raises what ``training.loop.train`` raises, OSError where ``out`` cannot be written, and ValueError for ``resume`` without
    ``out``, or without ``resume`` where ``out`` holds a run already.
    """
    from training.config import validate
    from training.distributed import joined

    if resume and out is None:
        raise ValueError("--resume needs --out, the folder of the run that is to go on")
    with joined(validate(config)) as ranks:
        # Opened by rank 0 for all: each of the others stops too where it cannot be.
        folder = None if out is None else ranks.ask_main(lambda: _opened(out, resume=resume))
        return _run(config, folder, dataset, is_main=ranks.is_main, resume=resume)


def _run(config: TrainConfig, folder: _Folder | None, dataset: Dataset | None, *, is_main: bool, resume: bool) -> TrainResult:
    from training.loop import train

    display, ours = _Display(config), folder if is_main else None

    def on_epoch(stats: EpochStats) -> None:
        display.epoch(stats)
        if ours is not None:
            ours.add(stats)

    def on_resume(epochs: Sequence[EpochStats]) -> None:
        display.resume(epochs)
        if ours is not None:
            ours.begin(epochs)

    try:
        result = train(
            config, dataset, checkpoint=folder.checkpoint if folder else None, resume=resume, on_data=display.begin,
            on_step=display.step, on_epoch=on_epoch, on_resume=on_resume,
        )  # fmt: skip
    finally:
        display.end()
    if is_main:
        for line in (*summary(result), *target_words(result)):
            print(line, flush=True)
    if ours is not None:
        ours.finish(result)
    return result


def summary(result: TrainResult) -> tuple[str, str]:
    """The two lines with which the book ends a training run."""
    last = result.epochs[-1]
    return (
        f"loss {last.train_loss:.3f}, train acc {last.train_accuracy:.3f}, test acc {last.test_accuracy:.3f}",
        f"{result.examples_per_s:.1f} examples/sec on {list(result.devices)}",
    )


def target_words(result: TrainResult) -> list[str]:
    """How many seconds of training the target accuracy took, in a line; nothing without a target."""
    target = result.config.target_accuracy
    if target is None:
        return []
    apart = f"apart from that: warming up {result.warm_up_s:.1f} s, evaluation {result.evaluation_s:.1f} s"
    if result.resumed_after:
        return [f"no seconds to test acc {target:.3f}: the run was resumed"]
    if result.seconds_to_target is None:
        spent = sum(stats.wall_s for stats in result.epochs)
        return [f"test acc {target:.3f} was not reached in {spent:.1f} s of training ({apart})"]
    return [f"test acc {target:.3f} after {result.seconds_to_target:.1f} s of training ({apart})"]


OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
PORT_IN_USE = ("eaddrinuse", "address already in use")
LOST = ("gloo/transport", "connection reset by peer", "connection closed by peer")
"""Words of what Gloo raises in a process that waits in vain for another; NCCL and the rendezvous have an error of their own."""
LEAVE_AFTER_S = 10.0
"""How long a process that has lost another stays. torchrun then ends it at once, and names the one that died first as the
cause: had this one left too, it might be taken for that."""


def describe(error: BaseException) -> str | None:
    """One line for what a user or the machine caused, None for what is a fault of the program."""
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError) and any(word in text.lower() for word in PORT_IN_USE):
        return f"the port is in use: start torchrun with --standalone, or with another --master-port ({text})"
    if _lost(error):
        return f"lost contact with another process: see which one died or never came, then --resume ({text.split('. ')[0]})"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(w in text.lower() for w in OUT_OF_MEMORY)):
        return "out of memory: take a smaller batch_size, image_size or width"
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return f"a loader worker died, as it does when memory runs out: take fewer num_workers ({text})"
    return text if isinstance(error, ValueError | OSError) else None


def _lost(error: BaseException) -> bool:
    named = any(kind.__name__ == "DistError" for kind in type(error).__mro__)  # by its name: torch is not imported here
    return named or (isinstance(error, RuntimeError) and any(word in str(error).lower() for word in LOST))


def main(
    config: Annotated[TrainConfig, tyro.conf.arg(name="")],
    out: Path | None = None,
    resume: bool = False,
    preset: PresetName = BOOK,
) -> int:
    """Train a ResNet on CIFAR-10, an image folder or drawn shapes.

    Args:
        config: The run.
        out: Folder for curves.csv, checkpoint.pt and result.json.
        resume: Go on from the checkpoint in that folder.
        preset: The settings to start from; every option overrides one. (It is read before the others, see training.presets.)
    """
    try:
        run(config, out, resume=resume)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        line = describe(error)
        if line is None:
            raise
        rank = os.environ.get("RANK", "0")
        # In one piece, lest ranks write into each other's lines.
        sys.stderr.write(f"error: {line}\n" if rank == "0" else f"error on rank {rank}: {line}\n")
        sys.stderr.flush()
        if _lost(error):
            time.sleep(LEAVE_AFTER_S)
        return 2
    return 0


if __name__ == "__main__":
    asked = asked_for(sys.argv[1:])
    sys.exit(tyro.cli(partial(main, config=PRESETS[asked], preset=asked), prog="python -m training.train"))
