"""``augmark throughput``: what augmentation costs a training run, arm by arm. No torch at import: ``--help`` answers at once.

The ceiling is training on one batch that was prepared before and is used again at every step, so that no step does anything but
train. Against it stand: images that lie on the device, from which batches are picked and normalised there; the same augmented
there by each backend; loader workers that augment, one image after the other; workers that only fetch, with the best
backend on the device. Where images are files, whoever fetches them decodes them too. Arms are interleaved: every round takes
all of them, in an order of its own. One worker of each sort is also measured alone, without training: the report tells from it
how many workers would keep up with the ceiling.
"""

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console

from bench.endtoend.outcomes import outcome, recorded
from bench.grid.cases import check_names
from bench.presets import Preset, preset
from bench.records.machines import code_facts, differences, machine_facts
from bench.records.runs import TRAINING, append_training, load_run, plain, run_folder, write_json
from training.config import Decode, Precision, TrainConfig

if TYPE_CHECKING:
    import torch

    from training.data import Dataset

T = TypeVar("T")
MOST_WORKERS = 1024
BEST_ON_DEVICE = ("fused", "kornia", "torchvision")
"""Who augments on the device what workers only fetch: the first of these that can do the recipe."""


@dataclass(frozen=True, kw_only=True)
class ThroughputOptions:
    """What ``augmark throughput`` was asked for; None takes what the quick preset says for the device."""

    data: str = "auto"
    """auto, cifar10, synthetic or an image folder (whose files are then also decoded in loader workers)."""
    data_root: Path = Path("data")
    """Where data sets lie and are cached."""
    recipes: tuple[str, ...] | None = None
    """Recipes to train with."""
    backends: tuple[str, ...] | None = None
    """Backends to measure (default: all; compiled ones on accelerators)."""
    workers: tuple[int, ...] | None = None
    """Numbers of loader workers (default: 0, 1, 2, 4 ... and all cores)."""
    decode: tuple[Decode, ...] | None = None
    """Where images are decoded: ahead, workers, or both (default: workers for an image folder, else ahead)."""
    seconds: float | None = None
    """Seconds an arm and round."""
    rounds: int | None = None
    """Rounds, each with all arms in an order of its own."""
    model: str | None = None
    """The model, as in augmark train."""
    width: int | None = None
    """Channels of the model's first stage."""
    batch_size: int = 256
    """Images a step."""
    precision: Precision = "auto"
    """bfloat16 runs the model under autocast; auto takes it on accelerators, float32 on a CPU."""
    max_train: int | None = None
    """Train on a class-balanced subset of at most this many images."""
    device: str = "auto"
    """auto, cpu, cuda:0, ..."""
    results: Path | None = None
    """Folder of the run (default: results/<date>-<machine>-<device>)."""
    resume: bool = False
    """Go on with the run in --results: arms and rounds that it has already measured are left out."""


# ---- the arms ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Axes:
    """What is varied. None takes all backends that make sense on the device."""

    recipes: Sequence[str]
    backends: Sequence[str] | None
    workers: Sequence[int]
    decode: Sequence[Decode]


def worker_counts() -> tuple[int, ...]:
    """0, 1, 2, 4 ... up to the cores that this process may use."""
    from bench.environment import usable_cores

    cores = usable_cores()
    return tuple(sorted({0, *(2**i for i in range(10) if 2**i <= cores), cores}))


def where_decoded(dataset: "Dataset") -> tuple[Decode, ...]:
    """As images are usually read: files by the workers, what is no file ahead."""
    return ("ahead",) if dataset.train.files is None else ("workers",)


def arms(base: TrainConfig, axes: Axes) -> Iterator[TrainConfig]:
    """Every way to train that is compared, the ceiling first; ``base`` has the model and the device."""
    from augment import BACKENDS

    yield replace(base, augment_on="frozen")
    yield replace(base, augment_on="none", resident=True)
    for recipe in axes.recipes:
        for backend in _able(recipe, axes, base):
            config = replace(base, recipe=recipe, backend=backend)
            if not BACKENDS[backend].on_device:
                yield from _fed(replace(config, augment_on="workers"), axes)
            elif not (BACKENDS[backend].compiled and base.device == "cpu"):
                yield replace(config, augment_on="device", resident=True)
        best = _best_on_device(recipe, axes, base)
        if best is not None:
            config = replace(base, recipe=recipe, backend=best, augment_on="device")
            if base.device.startswith("cuda"):
                yield replace(config, resident=True, augment_stream=True)
            yield from _fed(config, axes)


def lone_workers(base: TrainConfig, axes: Axes) -> Iterator[TrainConfig]:
    """One loader worker of each sort, to be measured without training."""
    from augment import BACKENDS

    alone = replace(base, num_workers=1)
    for decode in axes.decode:
        yield replace(alone, augment_on="none", decode=decode)
        for recipe in axes.recipes:
            for backend in _able(recipe, axes, base):
                if not BACKENDS[backend].on_device:
                    yield replace(alone, recipe=recipe, backend=backend, augment_on="workers", decode=decode)


def _fed(config: TrainConfig, axes: Axes) -> Iterator[TrainConfig]:
    for decode in axes.decode:
        for count in axes.workers:
            yield replace(config, decode=decode, num_workers=count)


def _able(recipe: str, axes: Axes, base: TrainConfig) -> list[str]:
    """The chosen backends that can do a recipe on the device."""
    from augment import BACKENDS, RECIPES, UnsupportedOp
    from augment.catalog import check_supported

    able = []
    for backend in axes.backends or BACKENDS:
        with contextlib.suppress(UnsupportedOp):
            check_supported(RECIPES[recipe](base.image_size), backend, device=base.device)
            able.append(backend)
    return able


def _best_on_device(recipe: str, axes: Axes, base: TrainConfig) -> str | None:
    able = _able(recipe, axes, base)
    return next((backend for backend in BEST_ON_DEVICE if backend in able), None)


# ---- measuring --------------------------------------------------------------------------------------------------------


def measure_arms(
    base: TrainConfig, axes: Axes, dataset: "Dataset", folder: Path, console: Console, *, seconds: float, rounds: int
) -> None:
    """Measure all arms and the lone workers, round by round, and append a record for each to the run's training.jsonl.

    What the folder already holds a result of is left out. One that fails leaves a record that says why.
    """
    import torch

    from augment import BACKENDS
    from bench.endtoend.feeding import measure_feed
    from bench.grid.utilisation import matmul_peak, utilisation
    from training.loop import measure_throughput

    measures: dict[str, Callable[..., Any]] = {"throughput": measure_throughput, "feed": measure_feed}
    every = [("throughput", config) for config in arms(base, axes)]
    every += [("feed", config) for config in lone_workers(base, axes)]
    known = _known(folder)
    jobs = []
    for number in range(rounds):
        order = random.Random(number).sample(every, len(every))  # each round in its own order, against drift
        jobs += [(number, kind, config) for kind, config in order if _key(kind, number, config.as_record()) not in known]
    peak = matmul_peak(folder, base.device, base.precision) if jobs else None
    for done, (number, kind, config) in enumerate(jobs, start=1):
        if BACKENDS[config.backend].compiled:
            torch.compiler.reset()  # dynamo compiles a piece of code eight times, then runs it as it is and says nothing
        with console.status(f"throughput {done}/{len(jobs)}: {label(kind, config)}"):
            record = recorded(kind, config, dataset, partial(measures[kind], config, dataset, seconds=seconds))
        if peak is not None and kind == "throughput" and record["status"] == "ok":
            record |= utilisation(record, peak)
        append_training(folder, {**record, "round": number})
        words = outcome(record, "examples_per_s", "{:,.0f} examples/s")
        console.print(f"throughput {done}/{len(jobs)}  {label(kind, config)}: {words}", highlight=False)


def label(kind: str, config: TrainConfig) -> str:
    """An arm in a few words, as the report has it."""
    from bench.report.arms import Arm

    words = Arm(records=[{**config.as_record(), "kind": "throughput"}]).label
    return f"{config.effective_recipe}, {words}" + ("" if kind == "throughput" else ", without training")


_ARM = (
    *("recipe", "backend", "augment_on", "num_workers", "decode", "resident", "augment_stream"),
    *("model", "width", "batch_size", "precision"),
)


def _key(kind: str, number: Any, record: dict[str, Any]) -> tuple[Any, ...]:
    return (kind, number, *(record.get(name) for name in _ARM))


def _known(folder: Path) -> set[tuple[Any, ...]]:
    if not (folder / TRAINING).exists():
        return set()
    records = load_run(folder).training
    return {_key(str(r.get("kind")), r.get("round"), r) for r in records if r.get("status") == "ok"}


# ---- the command ------------------------------------------------------------------------------------------------------


def throughput(options: ThroughputOptions, console: Console) -> Path:
    """Measure what the options ask for and write the report. Returns the run's folder.

    Raises ValueError (nothing was measured: a name, number, device or data set that does not exist), OSError (results cannot be
    written), KeyboardInterrupt (after the report of what there is).
    """
    from bench.environment import environment
    from bench.report import write_report
    from training.config import validate
    from training.data import load
    from training.distributed import resolve_device

    device = resolve_device(options.device)
    chosen = preset("quick", device.type)
    _check(options)
    base = _base(options, chosen, device)
    validate(base)
    dataset = load(options.data, root=options.data_root, max_train=base.max_train, max_test=chosen.max_test)
    if "workers" in (options.decode or ()) and dataset.train.files is None:
        raise ValueError(f"{dataset.name} has no files to decode in workers: take --data FOLDER, or leave out --decode workers")
    folder = _folder(options, str(device))
    axes = Axes(
        recipes=_once(options.recipes or chosen.throughput_recipes),
        backends=None if options.backends is None else _once(options.backends),
        workers=_once(options.workers or worker_counts()),
        decode=_once(options.decode or where_decoded(dataset)),
    )
    console.print(f"[bold]augmark throughput[/] on {device}, images: {dataset.name}; results go to {folder}")
    if dataset.fallback:
        console.print(f"[bold red]Not a real data set:[/] {dataset.fallback}")
    data = {"name": dataset.name, "fingerprint": dataset.fingerprint, "source": dataset.source, "fallback": dataset.fallback}
    if options.resume:
        _check_same(folder, environment(data), str(device))
    else:
        write_json(folder / "environment.json", environment(data))
    try:
        measure_arms(
            base, axes, dataset, folder, console, seconds=options.seconds or chosen.throughput_seconds,
            rounds=options.rounds or chosen.throughput_rounds,
        )  # fmt: skip
    finally:
        console.print(f"report: {write_report(load_run(folder))}")
    return folder


def _once(values: tuple[T, ...]) -> tuple[T, ...]:
    """What is named twice is measured once."""
    return tuple(dict.fromkeys(values))


def _base(options: ThroughputOptions, chosen: Preset, device: "torch.device") -> TrainConfig:
    """What all arms share."""
    from training.config import settled

    base = TrainConfig(
        data=options.data, model=options.model or chosen.model, width=options.width or chosen.width, device=str(device),
        batch_size=options.batch_size, max_train=options.max_train or chosen.max_train, precision=options.precision,
    )  # fmt: skip
    return settled(base, device)


def _check(options: ThroughputOptions) -> None:
    from augment import BACKENDS, RECIPES

    check_names("backend", options.backends, BACKENDS)
    check_names("recipe", options.recipes, RECIPES)
    if options.rounds is not None and options.rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {options.rounds}")
    if options.seconds is not None and not 0 < options.seconds < 3600:
        raise ValueError(f"seconds must be above 0 and less than 3600, got {options.seconds}")
    wrong = [count for count in options.workers or () if not 0 <= count <= MOST_WORKERS]
    if wrong:
        raise ValueError(f"workers must lie between 0 and {MOST_WORKERS}, got {wrong[0]}")


def _check_same(folder: Path, environment: dict[str, Any], device: str) -> None:
    """Raise ValueError where a run that is to go on was measured on other images, another machine or device, or other code."""
    run = load_run(folder)
    before, now = ({**machine_facts(one), **code_facts(one)} for one in (run.environment, plain(environment)))
    changed = differences(before, now)
    devices = {str(record.get("device")) for record in run.training if record.get("kind") in ("throughput", "feed")}
    changed += [f"device {other} -> {device}" for other in sorted(devices - {device})]
    if changed:
        raise ValueError(f"{folder} cannot be gone on with here ({changed[0]}): choose another folder")


def _folder(options: ThroughputOptions, device: str) -> Path:
    if options.resume:
        if options.results is None or not (options.results / TRAINING).exists():
            raise ValueError(f"--resume needs --results DIR with a {TRAINING} to go on with")
        return options.results
    if options.results is not None and (options.results / TRAINING).exists():
        raise ValueError(f"{options.results} already holds a run: add --resume to go on with it, or choose another folder")
    return run_folder(options.results, device)
