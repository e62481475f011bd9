"""The command line, ``augmark COMMAND``. Imports torch only once a command is parsed."""

import os
import select
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
import tyro
from rich.console import Console

from bench import catalog
from bench.export import Format
from bench.jobs.job import take
from bench.jobs.pipeline import PipelineOptions
from bench.jobs.scaling import ScalingOptions
from bench.jobs.sweep import SweepOptions
from bench.jobs.throughput import ThroughputOptions
from bench.run import RunOptions
from training.config import FinetuneConfig, TrainConfig
from training.presets import BOOK, PRESETS, PresetName, parse_preset
from training.terminal import complete_help, expand_paths, open_console
from training.train import describe

INTERRUPTED = 130
USER_ERROR = 2
BROKEN_PIPE = 141
"""Exit code of a process killed by SIGPIPE (128 + 13)."""
FEWEST_DRAWS = 100


def reporter(console: Console) -> Callable[[Path], None]:
    """Return a function that writes the report of a run folder and prints where it is."""

    def report(folder: Path) -> None:
        from bench.records import load_run
        from bench.report import write_report

        console.print(f"report: {write_report(load_run(folder))}")

    return report


def finish(folder: Path, *kinds: str) -> None:
    """Exit with 1 if a measurement of these kinds failed or none succeeded, else with 0."""
    from bench.runner import exit_code

    sys.exit(exit_code(folder, *kinds))


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a ResNet with augmentation where you want it, as the book does by default; curves and figures at the end."""

    config: tyro.conf.OmitArgPrefixes[TrainConfig]
    preset: PresetName = BOOK
    """The settings to start from; every option overrides one."""
    out: Path | None = None
    """Folder for the curves (train loss, train and test accuracy by epoch) as data and as a picture
    (default: runs/<version>--train--<machine>--<device>)."""
    resume: bool = False
    """Resume from the checkpoint in --out."""

    def execute(self, console: Console) -> None:
        """Train, and draw the curves even after an error."""
        import importlib.metadata

        from bench.records import run_folder
        from bench.report import write_curves
        from training.config import validate
        from training.train import read_curves, run

        device = validate(self.config)
        if self.resume and self.out is None:
            raise ValueError("--resume needs --out, the folder of the run to resume")
        out = self.out or run_folder(None, "train", importlib.metadata.version("augmark"), str(device))
        before = read_curves(out)
        try:
            run(self.config, out, resume=self.resume)
        finally:
            curves = read_curves(out)
            if curves != before:
                console.print(f"curves: {write_curves(curves, out / 'curves.svg')}")
            elif self.out is None:
                shutil.rmtree(out, ignore_errors=True)  # made for a run that trained nothing


@dataclass(frozen=True, kw_only=True)
class Run(RunOptions):
    """Measure augmentation and training on this machine and write a report.

    Without options: about ten minutes. Exit code 1 if a training failed.
    """

    def execute(self, console: Console) -> None:
        """Run everything."""
        from bench.run import run

        folder = run(self, console, reporter(console))
        if self.part is None:
            finish(folder, "throughput", "feed", "accuracy")


@dataclass(frozen=True, kw_only=True)
class Throughput(ThroughputOptions):
    """Measure what augmentation costs a training run, by backend and place, and how many workers would keep up with it.

    Exit code 1 if a case failed.
    """

    def execute(self, console: Console) -> None:
        """Measure throughput."""
        from bench.jobs.throughput import throughput

        finish(throughput(self, console, reporter(console)), "throughput", "feed")


@dataclass(frozen=True, kw_only=True)
class Sweep(SweepOptions):
    """Train with every recipe, backend and seed: accuracies with intervals, paired differences, seeds that small ones need.

    Exit code 1 if a case failed, also before --resume (under torchrun: of the process that reports).
    """

    def execute(self, console: Console) -> None:
        """Sweep."""
        from bench.jobs.sweep import sweep
        from bench.jobs.sweep_table import print_table
        from bench.records import load_run

        def report(folder: Path) -> None:
            print_table(load_run(folder), console)
            reporter(console)(folder)

        folder = sweep(self, console, report)
        if folder is not None:
            finish(folder, "accuracy")


@dataclass(frozen=True, kw_only=True)
class Scaling(ScalingOptions):
    """Measure training on 1, 2, 4 ... processes, and prove that no two draw the same; exit code 1 if a case failed."""

    def execute(self, console: Console) -> None:
        """Measure scaling."""
        from bench.jobs.scaling import scaling

        finish(scaling(self, console, reporter(console)), "scaling")


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Check whether the backends do the same augmentation: parity with torchvision's functionals, lanes, distributions."""

    data: str = "auto"
    """auto, cifar10, synthetic or an image folder: source of the images that parameters are replayed on."""
    data_root: Path = Path("data")
    """Folder in which data sets lie and are cached."""
    download: bool = False
    """Download CIFAR-10 (170 MB) if it is not under --data-root."""
    out: Path = Path("audit")
    """Folder for audit.json."""
    backends: tuple[str, ...] | None = None
    """Backends to audit (default: all that are not compiled)."""
    ops: tuple[str, ...] | None = None
    """Ops to audit (default: all)."""
    recipes: tuple[str, ...] | None = None
    """Recipes to audit (default: all)."""
    device: str = "cpu"
    """Device of the backends that can run there."""
    draws: int = 10_000
    """Draws per test of a distribution, 100 or more."""

    def execute(self, console: Console) -> None:
        """Audit and print the verdicts."""
        from augment import BACKENDS, OPS, RECIPES, check_device
        from bench.audit import print_audit, run_audit
        from bench.jobs.grid import check_names
        from bench.records import AUDIT
        from training.data import load

        check_device(self.device)
        check_names("backend", self.backends, BACKENDS)
        check_names("op", self.ops, OPS)
        check_names("recipe", self.recipes, RECIPES)
        if self.draws < FEWEST_DRAWS:
            raise ValueError(f"draws must be at least {FEWEST_DRAWS}, got {self.draws}")
        dataset = load(self.data, root=self.data_root, download=self.download)
        audit = run_audit(
            dataset, self.out, console, backends=self.backends, ops=self.ops, recipes=self.recipes, device=self.device,
            draws=self.draws,
        )  # fmt: skip
        print_audit(audit, console)
        console.print(f"audit: {self.out / AUDIT}")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write the report of a run from its records, or one report on several runs. Never mixes machines or versions."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that augmark run, or pytest --benchmark-only, wrote."""
    out: Path | None = None
    """Folder of the report (default: that of the run itself; for several, runs/merged)."""

    def execute(self, console: Console) -> None:
        """Write the report."""
        from bench.records import load_run, read_merged
        from bench.report import write_report

        is_single = len(self.runs) == 1 and self.out is None
        console.print(f"report: {write_report(load_run(self.runs[0]) if is_single else read_merged(self.runs, self.out))}")


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Draw 2 x 4 random results of every op and recipe for one image, a sheet per backend and one with all side by side."""

    image: Path | None = None
    """A photograph (default: an image of the data set)."""
    data: str = "auto"
    """auto, cifar10, synthetic or an image folder."""
    data_root: Path = Path("data")
    """Folder in which data sets lie and are cached."""
    download: bool = False
    """Download CIFAR-10 (170 MB) if it is not under --data-root."""
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
        """Draw the sheets."""
        from bench.gallery import draw_sheets

        for sheet in draw_sheets(
            image=self.image, data=self.data, data_root=self.data_root, download=self.download, out=self.out,
            backends=self.backends, ops=self.ops, recipes=self.recipes, seed=self.seed,
        ):  # fmt: skip
            console.print(f"sheet: {sheet}")


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Report case by case whether run B is faster or slower than run A; exit code 1 on a regression, for CI."""

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
        """Compare."""
        from bench.compare import Limits, compare

        limits = Limits(threshold=self.threshold, accuracy_threshold=self.accuracy_threshold, level=self.level)
        sys.exit(compare(self.a, self.b, console, limits, across_machines=self.across_machines))


@dataclass(frozen=True, kw_only=True)
class Publish:
    """Check that runs may be cited, copy their records to the published ones, and write the index page over all of those."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders. Without any, only the index is written."""
    folder: Path = Path("results")
    """Folder of the published runs."""

    def execute(self, console: Console) -> None:
        """Publish."""
        from bench.publish import publish

        console.print(f"index: {publish(self.runs, self.folder, console)}")


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the numbers of one run, or of several, for other programs; or check runs against the published schemas."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders that augmark run, or pytest --benchmark-only, wrote."""
    format: Format = "csv"
    """A row per quantity of a case (csv, json, parquet), or what a service for continuous benchmarking reads."""
    out: Path | None = None
    """File to write (default: the standard output)."""
    validate: bool = False
    """Export nothing: check every file against its schema, print each fault on a line, and exit with 2 if there is one."""
    schema: bool = False
    """Write the JSON schema of the records instead."""

    def execute(self, console: Console) -> None:
        """Export."""
        from bench.export import export_command

        sys.exit(export_command(self.runs, self.format, self.out, validate=self.validate, schema=self.schema))


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Fine-tune a network on photographs; or compare what to train over seeds, or measure where the time goes by placement.

    Exit code 1 if one of several runs failed.
    """

    config: tyro.conf.OmitArgPrefixes[FinetuneConfig]
    compare: bool = False
    """All layers, the last one (with augmentation, and on features computed once) and from scratch, with every seed."""
    seeds: tuple[int, ...] | None = None
    """Seeds of --compare (default: 0 1 2)."""
    split: bool = False
    """Time decoding, augmentation and the step in every placement instead."""
    rounds: int | None = None
    """Epochs of each placement with --split (default: 3)."""
    resume: bool = False
    """Resume from the checkpoint in --out (--compare does by itself)."""
    out: Path | None = None
    """Folder for weights, records and the report (default: runs/<version>--finetune--<machine>--<device>)."""

    def execute(self, console: Console) -> None:
        """Fine-tune."""
        from bench.jobs import finetune

        report = reporter(console)
        if self.compare and self.split:
            raise ValueError("--compare and --split are two measurements: ask for one at a time")
        if (self.seeds is not None and not self.compare) or (self.rounds is not None and not self.split):
            raise ValueError("--seeds goes with --compare, and --rounds with --split")
        if self.compare:
            finish(finetune.compare(self.config, take(self.seeds, (0, 1, 2)), self.out, console, report), "finetune")
        if self.split:
            finish(finetune.split(self.config, take(self.rounds, 3), self.out, console, report), "photographs")
        finetune.run_one(self.config, self.out, console, report, resumes=self.resume)


@dataclass(frozen=True, kw_only=True)
class Pipeline(PipelineOptions):
    """Measure the way from JPEG files to batches at 224 pixels, by decoder, library and placement, and where its time goes.

    Exit code 1 if a case failed.
    """

    def execute(self, console: Console) -> None:
        """Measure the arms."""
        from bench.jobs.pipeline import pipeline

        finish(pipeline(self, console, reporter(console)), "pipeline")


@dataclass(frozen=True, kw_only=True)
class List:
    """List what can be named on the command line, a line each."""

    kinds: tyro.conf.Positional[tuple[catalog.Kind, ...]] = catalog.KINDS
    """Kinds of names to list."""

    def execute(self, console: Console) -> None:
        """List."""
        catalog.print_catalog(self.kinds, console)


Command = (
    Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Throughput, tyro.conf.subcommand("throughput")]
    | Annotated[Finetune, tyro.conf.subcommand("finetune")]
    | Annotated[Pipeline, tyro.conf.subcommand("pipeline")]
    | Annotated[Scaling, tyro.conf.subcommand("scaling")]
    | Annotated[Audit, tyro.conf.subcommand("audit")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Publish, tyro.conf.subcommand("publish")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Gallery, tyro.conf.subcommand("gallery")]
    | Annotated[List, tyro.conf.subcommand("list")]
)


PLACED = "workers: in loader workers; device: one batched call where the model is"
HELP: Mapping[str, Mapping[str, Any]] = {
    "train": {
        "augment_on": Annotated[Literal["workers", "device", "none"], tyro.conf.arg(help=f"{PLACED}; none: normalise only.")]
    },
    "sweep": {
        "recipe": tyro.conf.Suppress[str],
        "backend": tyro.conf.Suppress[str],
        "augment_on": Annotated[Literal["workers", "device"], tyro.conf.arg(help=f"{PLACED}.")],
    },
}
"""Options of nested settings that a command refuses, or whose values it refuses."""


def commands(arguments: Sequence[str]) -> Any:
    """Return all commands; those that train have the settings of the chosen preset as defaults."""
    options = [get_args(command)[0] for command in get_args(Command)]
    for kind in (*options, Train, Sweep, TrainConfig, FinetuneConfig):
        complete_help(kind, HELP.get(next(iter(arguments), ""), {}) if kind is TrainConfig else None)
    preset = parse_preset(arguments)
    train = Train(config=PRESETS[preset], preset=preset)
    sweep = Sweep(config=PRESETS[preset], preset=preset)
    return (
        Command
        | Annotated[Train, tyro.conf.subcommand("train", default=train)]
        | Annotated[Sweep, tyro.conf.subcommand("sweep", default=sweep)]
    )


def check_lists(command: Any) -> None:
    """Raise ValueError for an option that names nothing where that is neither its default nor a choice."""
    for field in () if isinstance(command, Audit | Gallery) else fields(command):
        if getattr(command, field.name) == () != field.default:
            option = field.name.replace("_", "-")
            raise ValueError(f"--{option} names nothing: give at least one, or leave it out")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    A user's mistake ends with one line on stderr and exit code 2, Ctrl-C with 130, and a closed pipe (``| head``) silently.
    """
    try:
        try:
            _execute(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()  # here, as Python would do it at its end, and complain
    except BrokenPipeError:
        if not _stdout_is_closed():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the rest of the output
        sys.exit(BROKEN_PIPE)


def _execute(arguments: Sequence[str]) -> None:
    console = open_console()
    command = tyro.cli(
        commands(arguments),
        prog="augmark",
        description="Where should image augmentation run, with which library, and what does it cost?",
        args=arguments,
    )
    try:
        check_lists(command)
        expand_paths(command).execute(console)
    except KeyboardInterrupt:
        print("augmark: interrupted; what was measured is kept", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        line = None if isinstance(error, msgspec.ValidationError) else describe(error)  # a record of ours, no user's mistake
        if line is None or (isinstance(error, BrokenPipeError) and _stdout_is_closed()):  # a fault needs its traceback
            raise
        print(f"augmark: {line}", file=sys.stderr)
        sys.exit(USER_ERROR)


def _stdout_is_closed() -> bool:
    """Return whether the standard output is a pipe without a reader: another pipe may have broken, such as a worker's."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


if __name__ == "__main__":
    main()
