"""``python -m training.train``: train one model, watch it, and keep the curves. Also under torchrun.

torch is imported late, so that ``--help`` answers at once.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from training.config import TrainConfig

if TYPE_CHECKING:
    from training.dataset import Dataset
    from training.results import EpochStats, TrainResult

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

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()


class _Curves:
    """curves.csv in a folder: a row an epoch, written as it ends, so that what was trained is kept whatever comes."""

    def __init__(self, out: Path) -> None:
        from training.results import EpochStats

        out.mkdir(parents=True, exist_ok=True)
        self._path = out / "curves.csv"
        self._names = [field.name for field in dataclasses.fields(EpochStats)]
        with open(self._path, "w", newline="") as file:
            csv.writer(file).writerow(self._names)

    def add(self, stats: EpochStats) -> None:
        with open(self._path, "a", newline="") as file:
            csv.DictWriter(file, self._names).writerow(dataclasses.asdict(stats))


def read_curves(out: Path) -> list[dict[str, float]]:
    """The epochs in a folder's curves.csv, the fields of EpochStats as numbers; empty where none has ended."""
    try:
        with open(out / "curves.csv", newline="") as file:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []


def run(config: TrainConfig, out: Path | None = None, dataset: Dataset | None = None) -> TrainResult:
    """Train with a live display, and print the book's two lines at the end; rank 0 alone prints and writes.

    With ``out`` there are ``curves.csv`` (an EpochStats a row, appended as epochs end) and ``result.json`` (the record).
    Raises what ``training.loop.train`` raises, and OSError where ``out`` cannot be written.
    """
    from training.loop import train

    display, curves = _Display(config), None
    if out is not None and _is_main():
        curves = _Curves(out)

    def on_epoch(stats: EpochStats) -> None:
        display.epoch(stats)
        if curves is not None:
            curves.add(stats)

    try:
        result = train(config, dataset, on_data=display.begin, on_step=display.step, on_epoch=on_epoch)
    finally:
        display.end()
    if _is_main():
        for line in summary(result):
            print(line, flush=True)
    if out is not None and _is_main():
        (out / "result.json").write_text(json.dumps(result.as_record(), indent=1) + "\n")
    return result


def summary(result: TrainResult) -> tuple[str, str]:
    """The two lines with which the book ends a training run."""
    last = result.epochs[-1]
    return (
        f"loss {last.train_loss:.3f}, train acc {last.train_accuracy:.3f}, test acc {last.test_accuracy:.3f}",
        f"{result.examples_per_s:.1f} examples/sec on {list(result.devices)}",
    )


def _is_main() -> bool:
    # Asked before processes are connected and after they have parted.
    return os.environ.get("RANK", "0") == "0"


OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def describe(error: BaseException) -> str | None:
    """One line for what a user or the machine caused, None for what is a fault of the program."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(w in text.lower() for w in OUT_OF_MEMORY)):
        return "out of memory: take a smaller batch_size, image_size or width"
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return f"a loader worker died, as it does when memory runs out: take fewer num_workers ({text})"
    return text if isinstance(error, ValueError | OSError) else None


def main(
    config: Annotated[TrainConfig, tyro.conf.arg(name="")],
    out: Path | None = None,
) -> int:
    """Train a ResNet on CIFAR-10, an image folder or drawn shapes.

    Args:
        config: The run.
        out: Folder for curves.csv and result.json.
    """
    try:
        run(config, out)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        line = describe(error)
        if line is None:
            raise
        rank = os.environ.get("RANK", "0")
        print(f"error: {line}" if rank == "0" else f"error on rank {rank}: {line}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main, prog="python -m training.train"))
