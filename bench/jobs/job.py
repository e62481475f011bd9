"""Shared code of the jobs: cases from training configs, records from training results, and the command around them."""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import tyro
from rich.console import Console
from rich.text import Text

from bench.jobs.grid import check_names
from bench.records import MANNER, Case, Kind, Plan, Record, holds_run
from bench.runner import Measure, resume, run_cases, start
from training.config import DATA_SETS
from training.terminal import map_paths

if TYPE_CHECKING:
    from training.config import FinetuneConfig, TrainConfig
    from training.data import Dataset

R = TypeVar("R", bound=Record)
T = TypeVar("T")
Report = Callable[[Path], object]
"""Function that writes the report of a run folder; the command line hands it in, as jobs stand below the report."""


OPTIONS = "options.json"
"""File in a run's folder with the options of its command; it holds paths, so it is never published."""


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """Options of commands that need small images."""

    data: str = "auto"
    """auto (CIFAR-10 under --data-root if it is there, else synthetic), cifar10, synthetic, or an image folder."""
    data_root: Path = Path("data")
    """Folder of data sets, downloads and the cache."""
    download: bool = False
    """Download CIFAR-10 (170 MB) if it is not under --data-root."""

    def load(self, **limits: Any) -> "Dataset":
        """Return the data set; ``limits`` are those of ``training.data.load``."""
        from training.data import load

        return load(self.data, root=self.data_root, download=self.download, **limits)


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Options of commands that write a run."""

    results: Annotated[Path | None, tyro.conf.arg(aliases=("--out",))] = None
    """Folder of the run (default: runs/<version>--<command>--<machine>--<device>)."""
    resume: bool = False
    """Resume the run in --results, under its own options; what is done is skipped, and options that are given anew count."""


def keep_options(folder: Path, options: JobOptions) -> None:
    """Write the options with which a run was started into its folder; it may be resumed from another one."""
    if not (folder / OPTIONS).exists():
        stored = {"command": type(options).__name__, "options": map_paths(options, absolute)}
        (folder / OPTIONS).write_bytes(msgspec.json.encode(stored, enc_hook=str))


def absolute(path: str) -> str:
    """Return the absolute path of data or weights; a name of either as it is."""
    return path if path in (*DATA_SETS, "imagenet", "scratch") else str(Path(path).resolve())


def load_options(folder: Path, kind: type[T]) -> T | None:
    """Return the options of the run in a folder; None if it has none of this command that can be read."""
    try:
        stored = msgspec.json.decode((folder / OPTIONS).read_bytes(), type=dict[str, Any])
        options = msgspec.convert(stored["options"], type=kind, dec_hook=lambda path, text: path(text))
    except (OSError, msgspec.DecodeError, msgspec.ValidationError, KeyError):
        return None
    return options if stored.get("command") == kind.__name__ else None


@dataclass(frozen=True, kw_only=True)
class Job:
    """A table of cases and how one is measured. ``open`` gets the run folder and returns the measuring function."""

    name: str
    suite: str
    device: str
    cases: tuple[Kind, ...]
    dataset: Mapping[str, Any]
    """Name, fingerprint, source and fallback."""
    open: Callable[[Path], Measure]
    rounds: int = 1
    shuffle: bool = True
    baseline: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Values that must be equal for the job to resume."""


def data_facts(dataset: "Dataset") -> dict[str, Any]:
    """Return what an environment says about a data set."""
    return {name: getattr(dataset, name, None) for name in ("name", "fingerprint", "source", "fallback")}


def plan_training(kind: type[R], config: "TrainConfig | FinetuneConfig", dataset: "Dataset", **facts: Any) -> R:
    """Return a planned case: the settings of ``config``, the identity of the data set, and ``facts``."""
    values = {**config.as_record(), "dataset": dataset.name, "fingerprint": dataset.fingerprint, "fallback": dataset.fallback}
    epochs = values.pop("epochs")
    values |= {"num_epochs": epochs if kind.repetition == "seed" else None, **facts, "status": "not_run"}
    return msgspec.convert({name: value for name, value in values.items() if name in kind.__struct_fields__}, kind)


def config_of(case: Any, base: "TrainConfig") -> "TrainConfig":
    """Return the config of a planned case: ``base``, but for the settings in which the cases of a job differ."""
    return replace(base, **{name: getattr(case, name) for name in (*MANNER, "batch_size", "seed")})


def fill(case: R, result: Any, **facts: Any) -> R:
    """Return the case with status ok, its fields read from the attributes of a training result and from ``facts``."""
    names = [name for name in case.__struct_fields__ if name != "data"]
    values = {name: getattr(result, name) for name in names if hasattr(result, name)}
    values |= {name: getattr(result.data, name) for name in ("train_images", "test_images")}
    if hasattr(result, "epochs"):
        last = result.epochs[-1]
        values |= {"loss": last.train_loss, "train_accuracy": last.train_accuracy, "test_accuracy": last.test_accuracy}
    values |= {"skipped": len(result.data.skipped), "skipped_files": result.data.skipped, **facts, "status": "ok"}
    values = msgspec.structs.asdict(case) | {name: value for name, value in values.items() if name in names}
    return msgspec.convert(values, type(case), from_attributes=True)


def train_in_turn(base: "TrainConfig", dataset: "Dataset", **facts: Any) -> Measure:
    """Return a function that trains one case after the other: data, compiled model and graph are kept between them.

    ``facts`` go into each record, beside the seconds of the case and those since the one before.
    """
    from training import loop

    cache, ended = loop.TrainerCache(), math.nan

    def measure(case: Any) -> Any:
        nonlocal ended
        start, before, ended = time.perf_counter(), ended, math.nan  # of a failed case nothing is known
        try:
            result = loop.train(config_of(case, base), dataset, cache=cache)
        except BaseException:
            cache.trainer = None  # its state is that of a run that broke off
            raise
        ended = time.perf_counter()
        between_s = None if math.isnan(before) else ended - before - result.train_s - result.evaluation_s
        return fill(case, result, cell_s=ended - start, between_s=between_s, **facts)

    return measure


def check_batches(config: "TrainConfig", dataset: "Dataset") -> None:
    """Raise ValueError, before anything is measured, if no batch can be made of a data set."""
    from training.config import validate
    from training.distributed import Ranks
    from training.feed import Feed

    plain = replace(config, recipe="none", backend="torchvision", augment_on="device")
    Feed(plain, dataset, Ranks(device=validate(plain)))


def check_options(options: Any) -> None:
    """Raise ValueError for a name that does not exist, or a number that measures nothing, by the options' names."""
    from augment import BACKENDS, OPS, RECIPES

    valid_names: dict[str, Iterable[str]] = {"backend": BACKENDS, "recipe": RECIPES, "op": OPS}
    for noun, valid in valid_names.items():
        check_names(noun, getattr(options, f"{noun}s", None), valid)
    rounds = getattr(options, "rounds", None)
    if rounds is not None and rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    for name, most in (("minutes", 1440), ("seconds", 3600)):
        value = getattr(options, name, None)
        if value is not None and not 0 < value < most:
            raise ValueError(f"{name} must be above 0 and less than {most}, got {value:g}")


def check_workers(counts: Iterable[int] | None) -> None:
    """Raise ValueError for a number of loader workers that no machine can start."""
    from training.config import MOST_WORKERS

    for count in counts or ():
        if not 0 <= count <= MOST_WORKERS:
            raise ValueError(f"workers must lie between 0 and {MOST_WORKERS}, got {count}")


def take(value: T | None, default: T) -> T:
    """Return an option's value, or the default if the option was left out; 0 and nothing named are values."""
    return default if value is None else value


def once(values: Iterable[Any]) -> tuple[Any, ...]:
    """Drop repeated values, keeping order: what is named twice is measured once."""
    return tuple(dict.fromkeys(values))


def repetition(record: Record) -> str:
    """Return the name of a case and which repetition of it this is."""
    number = getattr(record, record.repetition) + (record.repetition == "round")
    return f"{record.name}, {record.repetition} {number}"


def outcome(result: Record | Case) -> str:
    """Return the result of a record, or the median of a case, in a few words."""
    if result.status != "ok":
        return f"{result.status} ({result.reason})" if result.reason else result.status
    quantity = (result.first if isinstance(result, Case) else result).quantities[0]
    value = result.median(quantity.name) if isinstance(result, Case) else getattr(result, quantity.name)
    return f"{quantity.name.replace('_', ' ')} {value:.1%}" if quantity.unit == "1" else f"{value:,.0f} {quantity.unit}"


def duration(seconds: float) -> str:
    """Return a duration such as 40 s, 3 min or 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def measure_cases(
    job: Job, folder: Path, console: Console, *, shared: bool = False, keep_going: Callable[[], bool] = lambda: True,
    phase: str = "", later_s: float = 0.0,
) -> None:  # fmt: skip
    """Measure all cases of a job that the run folder has no result of, with a line of display for each.

    ``phase`` stands before each line in place of the job's name; ``later_s`` are seconds that come after this job.
    """
    begin = time.monotonic()

    def show(record: Record, done: int, total: int) -> None:
        left_s = (time.monotonic() - begin) / done * (total - done) + later_s
        eta = f", {duration(left_s)} left" if left_s else ""
        noise = record.disturbance.words if record.disturbance and record.disturbance.is_strong else ""
        words = f"{outcome(record)}{f' (disturbed: {noise})' if noise else ''}{eta}"
        console.print(f"{phase or job.name} {done}/{total}  {repetition(record)}: {words}")

    measure, status = job.open(folder), console.status(job.name)
    # Processes that share the cases share the terminal too: none has a live line of its own.
    with contextlib.nullcontext() if shared else status:
        run_cases(
            folder, job.cases, measure, rounds=job.rounds, seed=0 if job.shuffle else None, shared=shared,
            keep_going=keep_going, on_start=lambda case: status.update(Text(f"{job.name}: {repetition(case)}")), on_record=show,
        )  # fmt: skip


def open_folder(job: Job, options: JobOptions, console: Console, *, retry_failed: bool = False) -> Path:
    """Make the run folder of a job, or check the one to resume, keep its options, and say where results go.

    Raises:
        ValueError: in one line, if the folder holds another run, or a run of another machine, version or data set.
    """
    from bench.environment import environment

    plan = Plan(
        suite=job.suite, cases=job.cases, rounds=job.rounds, baseline=job.baseline, settings=dict(job.settings)
    )  # fmt: skip
    if folder := folder_to_resume(options):
        resume(folder, plan, environment(job.dataset), retry_failed=retry_failed)
    else:
        folder = start(options.results, plan, environment(job.dataset), job.device)
    keep_options(folder, options)
    announce(console, f"augmark {job.name} on {job.device}", job.dataset, f"results go to {folder}")
    return folder


def announce(console: Console, command: str, dataset: Mapping[str, Any], words: str) -> None:
    """Print what starts, on which images, and whether those are real."""
    console.print(f"{command}, images: {dataset['name']}; {words}")
    if dataset["fallback"]:
        console.print(f"Not a real data set: {dataset['fallback']}", style="bold red")


def folder_to_resume(options: JobOptions) -> Path | None:
    """Return the folder of the run to resume; None for a new run. Raises ValueError where there is no run."""
    if not options.resume:
        return None
    if options.results is None:
        raise ValueError("--resume needs --results DIR, the folder of the run to resume")
    if not holds_run(options.results):
        raise ValueError(f"cannot resume {options.results} (it holds no run): leave out --resume, or choose another --results")
    return options.results


def run_job(job: Job, options: JobOptions, console: Console, report: Report) -> Path:
    """Measure a job and write the report, also of what there is after an error or Ctrl-C.

    A resumed job measures again what has failed. Returns the run folder.
    """
    folder = open_folder(job, options, console, retry_failed=True)
    with reporting(folder, report):
        measure_cases(job, folder, console)
    return folder


@contextlib.contextmanager
def reporting(folder: Path, report: Report) -> Iterator[None]:
    """Write the report after the block, also if it raises."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(ValueError, OSError):  # nothing measured yet, or a full disk: the first error is told
            report(folder)
        raise
    report(folder)
