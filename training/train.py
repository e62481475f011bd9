"""``python -m training.train``: train one model with a live display, and keep its curves. Also under torchrun.

torch is imported late, so that ``--help`` answers at once.
"""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from training.config import TrainConfig
from training.presets import BOOK, PRESETS, PresetName, parse_preset
from training.terminal import DEFAULT, complete_help, expand_paths, expand_user, open_console

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
        if self._bar.disable:
            print(text, flush=True)
        else:
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

    def resume(self, epochs: Sequence[EpochStats]) -> None:
        """Print the lines of the epochs that are done."""
        for stats in epochs:
            self.epoch(stats)
        self.line(f"resuming after epoch {len(epochs)} of {self._epochs}" if epochs else "no checkpoint yet: from the start")

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
        from training.results import CURVE_FIELDS

        out.mkdir(parents=True, exist_ok=True)
        self.checkpoint = out / NAME
        self._curves, self._result, self._names = out / CURVES, out / RESULT, CURVE_FIELDS
        if resume:
            return
        if self._result.exists() or self.checkpoint.exists() or read_curves(out):
            raise ValueError(f"{out} already holds a run: add --resume to resume it, or take another --out")
        self.begin(())

    def begin(self, epochs: Sequence[EpochStats]) -> None:
        """Write the curves anew with the epochs of a checkpoint; any later row is of an epoch that is trained again."""
        unfinished = self._curves.with_name(CURVES + ".tmp")
        with open(unfinished, "w", newline="") as file:
            csv.writer(file).writerows([self._names, *(self._row(stats) for stats in epochs)])
        os.replace(unfinished, self._curves)

    def add(self, stats: EpochStats) -> None:
        """Append an epoch to the curves."""
        with open(self._curves, "a", newline="") as file:
            csv.writer(file).writerow(self._row(stats))

    def _row(self, stats: EpochStats) -> list[float]:
        return [getattr(stats, name) for name in self._names]

    def finish(self, result: TrainResult) -> None:
        """Write the result, with the settings as plain values."""
        rates = {"train_s": result.train_s, "examples_per_s": result.examples_per_s}
        values = dataclasses.asdict(result) | {"config": result.config.as_record(), **rates}
        self._result.write_text(json.dumps(values, indent=1) + "\n")


def read_curves(out: Path) -> list[dict[str, float]]:
    """Return the epochs in a folder's curves.csv by the names of EpochStats; none if no epoch has ended.

    A last row that was cut off, by a full disk or the end of its process, is left out.
    """
    try:
        with open(out / CURVES, newline="") as file:
            whole = [line for line in file if line.endswith("\n")]
    except FileNotFoundError:
        return []
    return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(whole)]


def run(config: TrainConfig, out: Path | None = None, dataset: Dataset | None = None, *, resume: bool = False) -> TrainResult:
    """Train with a live display, and print the book's two lines at the end and one about a target; rank 0 prints and writes.

    With ``out`` there are ``curves.csv`` (a row an epoch), ``checkpoint.pt`` (after each epoch) and ``result.json``. ``resume``
    continues from that checkpoint, or starts if there is none yet. Raises what ``training.loop.train`` raises, OSError if
    ``out`` cannot be written, and ValueError for ``resume`` without ``out``, or for an ``out`` that holds a run already.
    """
    import torch

    from training.config import validate
    from training.cpus import usable_cpus
    from training.distributed import join_ranks
    from training.loop import train

    torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))  # torch does not know a container's quota
    if resume and out is None:
        raise ValueError("--resume needs --out, the folder of the run to resume")
    with join_ranks(validate(config)) as ranks:
        # Opened by rank 0 for all: every rank stops if it cannot be.
        folder = None if out is None else ranks.run_on_main(lambda: RunFolder(out, resume=resume))
        display, is_writer = Display(config), folder is not None and ranks.is_main

        def on_epoch(stats: EpochStats) -> None:
            display.epoch(stats)
            if folder is not None and is_writer:
                folder.add(stats)

        def on_resume(epochs: Sequence[EpochStats]) -> None:
            display.resume(epochs)
            if folder is not None and is_writer:
                folder.begin(epochs)

        try:
            result = train(
                config, dataset, checkpoint=folder.checkpoint if folder else None, resume=resume, on_data=display.begin,
                on_step=display.step, on_epoch=on_epoch, on_resume=on_resume,
            )  # fmt: skip
        finally:
            display.end()
        if ranks.is_main:
            print(*summary(result), *target_lines(result), sep="\n", flush=True)
        if folder is not None and is_writer:
            folder.finish(result)
        return result


def summary(result: TrainResult) -> tuple[str, str]:
    """Return the two lines with which the book ends a training run."""
    last = result.last
    return (
        f"loss {last.train_loss:.3f}, train acc {last.train_accuracy:.3f}, test acc {last.test_accuracy:.3f}",
        f"{result.examples_per_s:.1f} examples/sec on {list(result.devices)}",
    )


def target_lines(result: TrainResult) -> list[str]:
    """Return a line with the seconds of training to the target accuracy; none without a target."""
    target, apart = result.target_accuracy, f"warming up {result.warm_up_s:.1f} s, evaluation {result.evaluation_s:.1f} s"
    if target is None:
        return []
    if result.resumed_after:
        return [f"no seconds to test acc {target:.3f}: the run was resumed"]
    if result.seconds_to_target is None:
        return [f"test acc {target:.3f} was not reached in {result.train_s:.1f} s of training (not counted: {apart})"]
    return [f"test acc {target:.3f} after {result.seconds_to_target:.1f} s of training (not counted: {apart})"]


OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "failed to map segment")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PORT_IN_USE = ("eaddrinuse", "address already in use")
LOST = ("gloo/transport", "connection reset by peer", "connection closed by peer")
"""Words of Gloo's errors in a process that waits in vain for another; NCCL and the rendezvous have an error of their own."""
LEAVE_AFTER_S = 10.0
"""Seconds that a process that has lost another stays. torchrun then ends it at once, and names the one that died first as the
cause; a process that left too might be taken for the cause."""


def describe(error: BaseException) -> str | None:
    """Return one line for an error of the user or the machine, None for a fault of the program."""
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError) and any(word in text.lower() for word in PORT_IN_USE):
        return f"the port is in use: start torchrun with --standalone, or with another --master-port ({text})"
    if _lost_contact(error):
        return f"lost contact with another process: see which one died or never came, then --resume ({text.split('. ')[0]})"
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | ImportError) and any(w in text.lower() for w in OUT_OF_MEMORY)
    ):
        return "out of memory: take a smaller batch_size, image_size or width"
    if isinstance(error, RuntimeError) and "DataLoader timed out" in text:
        return f"no batch came for minutes: take --num-workers 0, or look whether the disk answers ({text})"
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return f"a loader worker died, as it does when memory runs out: take fewer num_workers ({text})"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"cannot use {error.filename}: {error.strerror[:1].lower()}{error.strerror[1:]}"
    if isinstance(error, OSError) and error.errno in NO_ROOM and error.strerror:  # writing to an open file names none
        return f"no room to write ({error.strerror}): free some, or take other folders"
    return text if isinstance(error, ValueError | OSError) else None


def _lost_contact(error: BaseException) -> bool:
    is_dist_error = any(kind.__name__ == "DistError" for kind in type(error).__mro__)  # by name: torch is not imported here
    return is_dist_error or (isinstance(error, RuntimeError) and any(word in str(error).lower() for word in LOST))


def main(
    config: Annotated[TrainConfig, tyro.conf.arg(name="")],
    out: Annotated[Path | None, DEFAULT] = None,
    resume: bool = False,
    preset: PresetName = BOOK,
) -> int:
    """Train a ResNet on CIFAR-10, an image folder or drawn shapes.

    Args:
        config: The run.
        out: Folder for curves.csv, checkpoint.pt and result.json.
        resume: Continue from the checkpoint in that folder.
        preset: The settings to start from; every option overrides one. (It is read before the others, see training.presets.)
    """
    try:
        run(expand_paths(config), None if out is None else Path(expand_user(str(out))), resume=resume)
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
        if _lost_contact(error):
            time.sleep(LEAVE_AFTER_S)
        return 2
    return 0


if __name__ == "__main__":
    name = parse_preset(sys.argv[1:])
    complete_help(TrainConfig, {})
    sys.exit(tyro.cli(partial(main, config=PRESETS[name], preset=name), prog="python -m training.train"))
