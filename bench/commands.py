"""The commands of ``augmark``: their options, and what runs them. Imports torch only once a command runs."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from bench import catalog
from bench.changes import Limits
from bench.export import Format
from bench.jobs.calibrate import CalibrateOptions
from bench.jobs.finetune import FinetuneOptions
from bench.jobs.job import ImageOptions, JobOptions, check_options
from bench.jobs.pipeline import PipelineOptions
from bench.jobs.scaling import ScalingOptions
from bench.jobs.sweep import SweepOptions
from bench.jobs.throughput import ThroughputOptions
from bench.jobs.turns import TurnsOptions
from bench.run import RunOptions
from training.config import TrainConfig
from training.presets import BOOK, PresetName

FEWEST_DRAWS = 100
INTERRUPTED = "interrupted; what was measured is kept"


def reporter(console: Console) -> Callable[[Path], None]:
    """Return a function that writes the report of a run folder and prints where it is."""

    def report(folder: Path) -> None:
        from bench.records import load_run, worst_disturbance
        from bench.report import write_report
        from bench.report.facts.state import disturbed_cases

        run = load_run(folder)
        disturbed = [record for case in disturbed_cases(run) for record in case.records]
        if worst := worst_disturbance(disturbed):
            console.print(f"not measurable here: {worst.words}; the report marks what they disturbed", style="bold red")
        error = sys.exception()
        if isinstance(error, KeyboardInterrupt):  # said here, as the path of the report comes last
            print(f"augmark: {INTERRUPTED}", file=sys.stderr)
            error.add_note(INTERRUPTED)
        console.print(f"report: {write_report(run)}")

    return report


def rank() -> str:
    """Return the number of this process among those of torchrun."""
    return os.environ.get("RANK", "0")


def finish(folder: Path, *kinds: str) -> None:
    """Exit with 1 if a measurement of these kinds failed or none succeeded, else with 0."""
    from bench.runner import exit_code

    sys.exit(exit_code(folder, *kinds))


@dataclass(frozen=True, kw_only=True)
class Train(JobOptions):
    """Train a ResNet with augmentation where you want it, as the book does by default; curves and figures at the end."""

    config: tyro.conf.OmitArgPrefixes[TrainConfig]
    preset: PresetName = BOOK
    """The settings to start from; every option overrides one."""

    def execute(self, console: Console) -> None:
        """Train, and draw the curves even after an error."""
        import importlib.metadata

        from bench.records import run_folder
        from bench.report import write_curves
        from training.config import validate
        from training.train import read_curves, run

        device = validate(self.config)
        if self.resume and self.results is None:
            raise ValueError("--resume needs --results DIR, the folder of the run to resume")
        if rank() != "0":  # rank 0 has the folder
            run(self.config, Path(), resume=self.resume)
            return
        out = self.results or run_folder(None, "train", importlib.metadata.version("augmark"), str(device))
        before = read_curves(out)
        try:
            run(self.config, out, resume=self.resume)
        finally:
            curves = read_curves(out)
            if curves != before:
                console.print(f"curves: {write_curves(curves, out / 'curves.svg')}")
            elif self.results is None:
                shutil.rmtree(out, ignore_errors=True)  # made for a run that trained nothing


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


class Throughput(ThroughputOptions):
    """Measure what augmentation costs a training run, by backend and place, and how many workers would keep up with it.

    Exit code 1 if a case failed.
    """

    def execute(self, console: Console) -> None:
        """Measure throughput."""
        from bench.jobs.throughput import throughput

        finish(throughput(self, console, reporter(console)), "throughput", "feed")


class Sweep(SweepOptions):
    """Train with every recipe, backend and seed: accuracies with intervals, paired differences, seeds that small ones need.

    It ends with the seconds between two trainings, and the minutes that 12 recipes x 16 seeds would take on this machine. Exit
    code 1 if a case failed, also before --resume (under torchrun: of the process that reports).
    """

    def execute(self, console: Console) -> None:
        """Sweep."""
        from bench.jobs.sweep import sweep
        from bench.records import load_run
        from bench.report.sweep_table import print_table

        def report(folder: Path) -> None:
            print_table(load_run(folder), console)
            reporter(console)(folder)

        folder = sweep(self, console, report)
        if folder is not None:
            finish(folder, "accuracy")


class Scaling(ScalingOptions):
    """Measure training on 1, 2, 4 ... processes, and prove that no two draw the same; exit code 1 if a case failed."""

    def execute(self, console: Console) -> None:
        """Measure scaling."""
        from bench.jobs.scaling import scaling

        finish(scaling(self, console, reporter(console)), "scaling")


@dataclass(frozen=True, kw_only=True)
class SubjectOptions(ImageOptions):
    """Choice of backends, ops and recipes."""

    backends: tuple[str, ...] | None = None
    """Backends to take (default: all that are not compiled)."""
    ops: tuple[str, ...] | None = None
    """Ops to take (default: all)."""
    recipes: tuple[str, ...] | None = None
    """Recipes to take (default: all)."""


@dataclass(frozen=True, kw_only=True)
class Audit(SubjectOptions):
    """Check whether the backends do the same augmentation: parity with torchvision's functionals, lanes, distributions."""

    run: Path | None = None
    """Folder of a stored audit whose table is printed; nothing is audited."""
    pages: tuple[Path, ...] = ()
    """Pages that get the table between their markers, instead of the terminal."""
    out: Path = Path("audit")
    """Folder for audit.json."""
    device: str = "cpu"
    """Device of the backends that can run there."""
    draws: int = 10_000
    """Draws per test of a distribution, 100 or more."""

    def execute(self, console: Console) -> None:
        """Audit, or read a stored audit, and print the conformance table or write it into the pages."""
        from bench.records import AUDIT, load_run
        from bench.report.conformance import build_full_table, fill

        if self.run is None:
            self._audit(console)
        run = load_run(self.run or self.out)
        for page in self.pages:
            page.write_text(fill(page.read_text(encoding="utf-8"), run, page.parent), encoding="utf-8")
        console.print("\n".join(f"page: {page}" for page in self.pages) or build_full_table(run))
        console.print(f"audit: {run.path / AUDIT}")

    def _audit(self, console: Console) -> None:
        from augment import check_device
        from bench.audit import run_audit

        check_device(self.device)
        check_options(self)
        if self.draws < FEWEST_DRAWS:
            raise ValueError(f"draws must be at least {FEWEST_DRAWS}, got {self.draws}")
        run_audit(
            self.load(), self.out, console, backends=self.backends, ops=self.ops, recipes=self.recipes, device=self.device,
            draws=self.draws,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write the report of a run from its records, or one report on several runs. Never mixes machines or versions."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that augmark run, or pytest --benchmark-only, wrote."""
    out: Path | None = None
    """Folder of the report (default: that of the run itself; for several, runs/merged)."""

    def execute(self, console: Console) -> None:
        """Write the report."""
        from bench.records import load_run, merged_folder, read_merged
        from bench.report import write_report

        if len(self.runs) == 1:
            page = write_report(load_run(self.runs[0]), merged_folder(self.out) if self.out else None)
        else:
            page = write_report(read_merged(self.runs, self.out))
        console.print(f"report: {page}")


@dataclass(frozen=True, kw_only=True)
class Gallery(SubjectOptions):
    """Draw every op and recipe on every backend, side by side with differences and random results, as a page."""

    image: Path | None = None
    """A photograph (default: an image of the data set)."""
    out: Path = Path("gallery")
    """Folder for index.html and its pictures."""
    seed: int = 0
    """Seed of the random results."""

    def execute(self, console: Console) -> None:
        """Draw the page."""
        from bench.gallery import draw_page

        check_options(self)
        console.print(f"gallery: {draw_page(**vars(self))}")


@dataclass(frozen=True, kw_only=True)
class Compare(Limits):
    """Report case by case whether run B is faster or slower than run A; exit code 1 on a regression, for CI."""

    a: tyro.conf.Positional[Path]
    """The run folder to compare with, such as that of the main branch."""
    b: tyro.conf.Positional[Path]
    """The run folder in question."""
    across_machines: bool = False
    """Compare runs of different machines, versions or data all the same, and say what differs."""

    def execute(self, console: Console) -> None:
        """Compare."""
        from bench.compare import compare

        sys.exit(compare(self.a, self.b, console, self, across_machines=self.across_machines))


@dataclass(frozen=True, kw_only=True)
class Turns(TurnsOptions):
    """Measure two installations in turns and compare them: what drifts between two runs cancels.

    Exit code 1 on a regression.
    """

    a: tyro.conf.Positional[Path]
    """The installation to compare with: a folder with the project's code, or a Python interpreter with other libraries."""
    b: tyro.conf.Positional[Path]
    """The installation in question."""

    def execute(self, console: Console) -> None:
        """Measure and compare."""
        from bench.jobs.turns import turns

        sys.exit(turns(self.a, self.b, self, console))


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


class Finetune(FinetuneOptions):
    """Fine-tune a network on photographs, or compare what to train over seeds.

    Exit code 1 if one of several runs failed.
    """

    def execute(self, console: Console) -> None:
        """Fine-tune."""
        from bench.jobs import finetune

        report = reporter(console)
        if self.seeds is not None and not self.compare:
            raise ValueError("--seeds goes with --compare")
        if self.compare:
            finish(finetune.compare(self, console, report), "finetune")
        finetune.run_one(self, console, report)


class Pipeline(PipelineOptions):
    """Measure the way from JPEG files to batches at 224 pixels, by decoder, library and placement, and where its time goes.

    Exit code 1 if a case failed.
    """

    def execute(self, console: Console) -> None:
        """Measure the arms."""
        from bench.jobs.pipeline import pipeline

        finish(pipeline(self, console, reporter(console)), "pipeline")


class Calibrate(CalibrateOptions):
    """Measure which differences compare calls on this machine, and how often it calls equal runs different.

    Exit code 1 if nothing can be certified, as on a busy machine.
    """

    def execute(self, console: Console) -> None:
        """Calibrate."""
        from bench.jobs.calibrate import calibrate

        finish(calibrate(self, console, reporter(console)), "calibration")


@dataclass(frozen=True, kw_only=True)
class List:
    """List what can be named on the command line, a line each."""

    kinds: tyro.conf.Positional[tuple[catalog.Kind, ...]] = catalog.KINDS
    """Kinds of names to list."""

    def execute(self, console: Console) -> None:
        """List."""
        catalog.print_catalog(self.kinds, console)


COMMANDS: Mapping[str, type[Any]] = {
    "run": Run, "throughput": Throughput, "finetune": Finetune, "pipeline": Pipeline, "scaling": Scaling,
    "calibrate": Calibrate, "audit": Audit, "report": Report, "compare": Compare, "turns": Turns, "publish": Publish,
    "export": Export, "gallery": Gallery, "list": List, "train": Train, "sweep": Sweep,
}  # fmt: skip
