"""The command line, ``augbench COMMAND``. Imports torch only once a command has been understood."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from bench.run import RunOptions
from training.config import TrainConfig
from training.train import describe

INTERRUPTED = 130
USER_ERROR = 2


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a ResNet with augmentation where you want it, as the book does by default; curves and figures at the end."""

    config: tyro.conf.OmitArgPrefixes[TrainConfig]
    out: Path | None = None
    """Folder for the curves (train loss, train and test accuracy by epoch) as data and as a picture
    (default: results/<date>-<machine>-train)."""

    def execute(self, console: Console) -> None:
        from bench.records import run_folder
        from bench.report import curves_figure
        from training.config import validate
        from training.train import read_curves, run

        validate(self.config)
        out = self.out or run_folder(None, "train")
        try:
            run(self.config, out)
        finally:
            history = read_curves(out)
            if history:
                console.print(f"curves: {curves_figure(history, out / 'curves.png')}")


@dataclass(frozen=True, kw_only=True)
class Run(RunOptions):
    """Measure augmentation and training on this machine and write a report. Without options: at most ten minutes."""

    def execute(self, console: Console) -> None:
        from bench.run import run

        run(self, console)


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
        from bench.records import AUDIT
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
    """Write report.md, its figures and measurements.csv anew from the records of a run."""

    run: tyro.conf.Positional[Path]
    """A folder that augbench run, or pytest --benchmark-only, wrote."""

    def execute(self, console: Console) -> None:
        from bench.records import load_run
        from bench.report import write_report

        console.print(f"report: {write_report(load_run(self.run))}")


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
        from bench.gallery import gallery

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
    level: float = 0.05
    """Chance that anything is called faster or slower where nothing changed, over all cases together."""
    across_machines: bool = False
    """Compare runs of different machines, versions or data all the same, and say what differs."""

    def execute(self, console: Console) -> None:
        from bench.compare import compare

        status = compare(
            self.a, self.b, console, threshold=self.threshold, level=self.level, across_machines=self.across_machines
        )
        sys.exit(status)


Command = (
    Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Audit, tyro.conf.subcommand("audit")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Gallery, tyro.conf.subcommand("gallery")]
)


def main(arguments: list[str] | None = None) -> None:
    """Entry point. A user's mistake ends with one line on stderr and exit code 2; Ctrl-C with 130."""
    command = tyro.cli(
        Command,
        prog="augbench",
        description="Where should image augmentation run, with which library, and what does it cost?",
        args=arguments,
    )
    try:
        command.execute(Console())
    except KeyboardInterrupt:
        print("augbench: interrupted; what was measured is kept", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        line = describe(error)
        if line is None:  # a fault of ours, which needs its traceback
            raise
        print(f"augbench: {line}", file=sys.stderr)
        sys.exit(USER_ERROR)


if __name__ == "__main__":
    main()
