"""The command line, ``augmark COMMAND``. Imports torch only once a command has been understood."""

import os
import select
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from bench.endtoend.decoding import DecodeOptions
from bench.endtoend.scaling import ScalingOptions
from bench.endtoend.sweep import SweepOptions
from bench.endtoend.throughput import ThroughputOptions
from bench.records.formats import Format
from bench.run import RunOptions
from training.config import TrainConfig
from training.finetune_config import FinetuneConfig
from training.presets import BOOK, PRESETS, PresetName, asked_for
from training.train import describe

INTERRUPTED = 130
USER_ERROR = 2
READER_GONE = 141
"""As of a program that a closed pipe has ended."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a ResNet with augmentation where you want it, as the book does by default; curves and figures at the end."""

    config: tyro.conf.OmitArgPrefixes[TrainConfig]
    preset: PresetName = BOOK
    """The settings to start from; every option overrides one."""
    out: Path | None = None
    """Folder for the curves (train loss, train and test accuracy by epoch) as data and as a picture
    (default: results/<date>-<machine>-train)."""
    resume: bool = False
    """Go on from the checkpoint in --out."""

    def execute(self, console: Console) -> None:
        from bench.records.runs import run_folder
        from bench.report import curves_figure
        from training.config import validate
        from training.train import read_curves, run

        validate(self.config)
        if self.resume and self.out is None:
            raise ValueError("--resume needs --out, the folder of the run that is to go on")
        out = self.out or run_folder(None, "train")
        before = read_curves(out)
        try:
            run(self.config, out, resume=self.resume)
        finally:
            history = read_curves(out)
            if history != before:
                console.print(f"curves: {curves_figure(history, out / 'curves.png')}")
            elif self.out is None:
                shutil.rmtree(out, ignore_errors=True)  # it was made for a run that came to nothing


@dataclass(frozen=True, kw_only=True)
class Run(RunOptions):
    """Measure augmentation and training on this machine and write a report. Without options: about ten minutes. Exit code 1
    where a training failed."""

    def execute(self, console: Console) -> None:
        from bench.endtoend.outcomes import exit_code
        from bench.run import run

        sys.exit(exit_code(run(self, console), "throughput", "feed", "accuracy"))


@dataclass(frozen=True, kw_only=True)
class Throughput(ThroughputOptions):
    """Measure what augmentation costs a training run, by backend and place, and how many workers would keep up with it.
    Exit code 1 where an arm failed."""

    def execute(self, console: Console) -> None:
        from bench.endtoend.outcomes import exit_code
        from bench.endtoend.throughput import throughput

        sys.exit(exit_code(throughput(self, console), "throughput", "feed"))


@dataclass(frozen=True, kw_only=True)
class Sweep(SweepOptions):
    """Train with every recipe, backend and seed: accuracies with intervals, paired differences, seeds that small ones need.
    Exit code 1 where a cell failed, also before --resume (under torchrun: of the process that reports)."""

    def execute(self, console: Console) -> None:
        from bench.endtoend.outcomes import exit_code
        from bench.endtoend.sweep import sweep

        folder = sweep(self, console)
        sys.exit(0 if folder is None else exit_code(folder, "accuracy"))


@dataclass(frozen=True, kw_only=True)
class Scaling(ScalingOptions):
    """Measure training on 1, 2, 4 ... processes, and prove that no two draw the same; exit code 1 where a job failed."""

    def execute(self, console: Console) -> None:
        from bench.endtoend.scaling import scaling

        sys.exit(0 if scaling(self, console) else 1)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Check whether the backends do the same augmentation: parity with torchvision's functionals, lanes, distributions."""

    data: str = "auto"
    """auto, cifar10, synthetic or an image folder: where the images come from that parameters are replayed on."""
    data_root: Path = Path("data")
    """Where data sets lie and are cached."""
    out: Path = Path("audit")
    """Folder for audit.json."""
    backends: tuple[str, ...] | None = None
    """Backends to audit (default: all that are not compiled)."""
    ops: tuple[str, ...] | None = None
    """Ops to audit (default: all)."""
    recipes: tuple[str, ...] | None = None
    """Recipes to audit (default: all)."""
    device: str = "cpu"
    """Where backends that can run there do."""
    draws: int = 10_000
    """Draws for each test of a distribution."""

    def execute(self, console: Console) -> None:
        from bench.audit import print_audit, run_audit
        from bench.records.runs import AUDIT
        from training.data import load

        dataset = load(self.data, root=self.data_root)
        record = run_audit(
            dataset, self.out, console, backends=self.backends, ops=self.ops, recipes=self.recipes, device=self.device,
            draws=self.draws,
        )  # fmt: skip
        print_audit(record, console)
        console.print(f"audit: {self.out / AUDIT}")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write the report anew from the records of a run, or one report on several runs. Never mixes machines or versions."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that augmark run, or pytest --benchmark-only, wrote."""
    out: Path | None = None
    """Folder of the report (default: that of the run itself; for several, results/merged-<date>)."""

    def execute(self, console: Console) -> None:
        from bench.records.merging import read_merged
        from bench.records.runs import load_run
        from bench.report import write_report

        alone = len(self.runs) == 1 and self.out is None
        console.print(f"report: {write_report(load_run(self.runs[0]) if alone else read_merged(self.runs, self.out))}")


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Draw 2 x 4 random results of every op and recipe for one image, a sheet a backend and one with all side by side."""

    image: Path | None = None
    """A photograph. Without it: an image of the data set."""
    data: str = "auto"
    """auto, cifar10, synthetic or an image folder."""
    data_root: Path = Path("data")
    """Where data sets lie and are cached."""
    out: Path = Path("gallery")
    """Folder for the sheets (PNG)."""
    backends: tuple[str, ...] | None = None
    """Backends to draw (default: all that are not compiled)."""
    ops: tuple[str, ...] | None = None
    """Ops to draw (default: all)."""
    recipes: tuple[str, ...] | None = None
    """Recipes to draw (default: all)."""
    seed: int = 0
    """Seed of the random results."""

    def execute(self, console: Console) -> None:
        from bench.pictures.gallery import gallery

        for sheet in gallery(
            image=self.image, data=self.data, data_root=self.data_root, out=self.out, backends=self.backends, ops=self.ops,
            recipes=self.recipes, seed=self.seed,
        ):  # fmt: skip
            console.print(f"sheet: {sheet}")


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Say case by case whether run B is faster or slower than run A; exit code 1 on a regression, for CI."""

    a: tyro.conf.Positional[Path]
    """The run folder to compare with, such as that of the main branch."""
    b: tyro.conf.Positional[Path]
    """The run folder in question."""
    threshold: float = 0.05
    """Share of images/s that may be lost: a regression is called slower and loses more; same is within it."""
    accuracy_threshold: float = 0.005
    """Share of test accuracy that may be lost, the same way; 0.005 is half a point."""
    level: float = 0.05
    """Chance that anything is called changed where nothing did, over all cases together."""
    across_machines: bool = False
    """Compare runs of different machines, versions or data all the same, and say what differs."""

    def execute(self, console: Console) -> None:
        from bench.comparison.compare import compare

        status = compare(
            self.a, self.b, console, threshold=self.threshold, accuracy_threshold=self.accuracy_threshold, level=self.level,
            across_machines=self.across_machines,
        )  # fmt: skip
        sys.exit(status)


@dataclass(frozen=True, kw_only=True)
class Publish:
    """Check that runs may be cited, copy their records to the published ones, and write the index page over all of those."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders. Without any, only the index is written anew."""
    folder: Path = Path("results/published")
    """Where published runs lie."""

    def execute(self, console: Console) -> None:
        from bench.records.published import publish

        console.print(f"index: {publish(self.runs, self.folder, console)}")


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the numbers of one run, or of several, for other programs; or check runs against the published schemas."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that augmark run, or pytest --benchmark-only, wrote."""
    format: Format = "csv"
    """A row a quantity of a case (csv, json, parquet), or what a service for continuous benchmarking reads."""
    out: Path | None = None
    """File to write (default: the standard output)."""
    validate: bool = False
    """Export nothing: check every file against its schema, say each fault on a line, and exit with 2 if there is one."""

    def execute(self, console: Console) -> None:
        from bench.records.export import export_command

        sys.exit(export_command(self.runs, self.format, self.out, validate=self.validate))


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Fine-tune a network on photographs; or compare what to train over seeds, or measure where the time goes by placement.
    Exit code 1 where one of several runs failed."""

    config: tyro.conf.OmitArgPrefixes[FinetuneConfig]
    compare: bool = False
    """All layers, the last one (with augmentation, and on features computed once) and from scratch, with every seed."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of --compare."""
    split: bool = False
    """Time decoding, augmentation and the step in every placement instead."""
    rounds: int = 3
    """Of --split: epochs of each placement."""
    resume: bool = False
    """Go on from the checkpoint in --out (--compare does by itself)."""
    out: Path | None = None
    """Folder for weights, records and the report (default: results/<date>-<machine>-finetune)."""

    def execute(self, console: Console) -> None:
        from bench.endtoend import finetune
        from bench.endtoend.outcomes import exit_code

        if self.compare and self.split:
            raise ValueError("--compare and --split are two measurements: ask for one at a time")
        if self.compare:
            sys.exit(exit_code(finetune.compare(self.config, self.seeds, self.out, console), "finetune"))
        if self.split:
            sys.exit(exit_code(finetune.split(self.config, self.rounds, self.out, console), "photographs"))
        finetune.run_one(self.config, self.out, console, resume=self.resume)


@dataclass(frozen=True, kw_only=True)
class Decode(DecodeOptions):
    """Measure how fast JPEG files become pixels: by decoder, image size and number of processes. Exit code 1 where a cell
    failed."""

    def execute(self, console: Console) -> None:
        from bench.endtoend.decoding import decode
        from bench.endtoend.outcomes import exit_code

        sys.exit(exit_code(decode(self, console), "decoding"))


Command = (
    Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Throughput, tyro.conf.subcommand("throughput")]
    | Annotated[Finetune, tyro.conf.subcommand("finetune")]
    | Annotated[Decode, tyro.conf.subcommand("decode")]
    | Annotated[Scaling, tyro.conf.subcommand("scaling")]
    | Annotated[Audit, tyro.conf.subcommand("audit")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Publish, tyro.conf.subcommand("publish")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Gallery, tyro.conf.subcommand("gallery")]
)


def commands(arguments: Sequence[str]) -> Any:
    """All commands; those that train have the settings of the preset that was asked for as their defaults."""
    preset = asked_for(arguments)
    train = Train(config=PRESETS[preset], preset=preset)
    sweep = Sweep(config=PRESETS[preset], preset=preset)
    return (
        Command
        | Annotated[Train, tyro.conf.subcommand("train", default=train)]
        | Annotated[Sweep, tyro.conf.subcommand("sweep", default=sweep)]
    )


def main(arguments: list[str] | None = None) -> None:
    """Entry point. A user's mistake ends with one line on stderr and exit code 2; Ctrl-C with 130. Where nobody reads the
    output any more (``| head``) it ends without a word."""
    try:
        try:
            _obey(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()  # here, as Python would do it at its end, and complain
    except BrokenPipeError:
        if not _reader_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the rest of the output goes
        sys.exit(READER_GONE)


def _obey(arguments: Sequence[str]) -> None:
    command = tyro.cli(
        commands(arguments),
        prog="augmark",
        description="Where should image augmentation run, with which library, and what does it cost?",
        args=arguments,
    )
    try:
        command.execute(Console())
    except KeyboardInterrupt:
        print("augmark: interrupted; what was measured is kept", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        line = describe(error)
        if line is None or (isinstance(error, BrokenPipeError) and _reader_gone()):  # a fault of ours needs its traceback
            raise
        print(f"augmark: {line}", file=sys.stderr)
        sys.exit(USER_ERROR)


def _reader_gone() -> bool:
    """Whether the standard output is a pipe that nobody reads: another may have broken, that of a worker."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


if __name__ == "__main__":
    main()
