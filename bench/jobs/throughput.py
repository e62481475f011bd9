"""``augmark throughput``: cost of augmentation in a training run, by backend and placement. Imports no torch.

The ceiling trains on one batch that was prepared before and is used again at every step, so that no step does anything but
train. It is compared with: images that lie on the device, from which batches are picked and normalised there; the same
augmented there by each backend; loader workers that augment, one image after the other; workers that only fetch, with the best
backend on the device. Where images are files, whoever fetches them decodes them too. One worker of each sort is also measured
alone, without training: from it the report computes how many workers would keep up with the ceiling.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console

from bench.jobs.job import (
    ImageOptions,
    Job,
    JobOptions,
    Report,
    check_batches,
    check_options,
    check_workers,
    config_of,
    data_facts,
    fill,
    once,
    plan_training,
    run_job,
    take,
)
from bench.presets import Preset, preset
from bench.records import Environment, Feed, Record, Throughput, read, write
from bench.runner import Measure
from training.config import Decode, Precision, TrainConfig
from training.cpus import usable_cpus

if TYPE_CHECKING:
    from training.data import Dataset

BEST_ON_DEVICE = ("fused", "kornia", "torchvision")
"""Backends for augmenting on the device what workers fetch: the first that supports the recipe."""


@dataclass(frozen=True, kw_only=True)
class StepOptions(JobOptions, ImageOptions):
    """Options of commands that measure training steps; None takes the quick preset's value for the device."""

    seconds: float | None = None
    """Seconds per case and round (default: the quick preset's)."""
    rounds: int | None = None
    """Rounds, each with all cases in an order of its own (default: the quick preset's)."""
    model: str | None = None
    """The model, as in augmark train (default: the quick preset's)."""
    width: int | None = None
    """Channels of the model's first stage (default: the quick preset's)."""
    batch_size: int = 256
    """Images per step; of several processes together in strong scaling, of each in weak scaling."""
    precision: Precision = "auto"
    """bfloat16 runs the model under autocast; auto takes it on accelerators, float32 on a CPU."""
    max_train: int | None = None
    """Train on a class-balanced subset of at most this many images (default: the quick preset's)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:0, ..."""


@dataclass(frozen=True, kw_only=True)
class ThroughputOptions(StepOptions):
    """Options of ``augmark throughput``; None takes the quick preset's value for the device."""

    recipes: tuple[str, ...] | None = None
    """Recipes to train with (default: the quick preset's)."""
    backends: tuple[str, ...] | None = None
    """Backends to measure (default: all; compiled ones on accelerators)."""
    workers: tuple[int, ...] | None = None
    """Numbers of loader workers (default: 0, 1, 2, 4 ... and all cores)."""
    decode: tuple[Decode, ...] | None = None
    """Place where images are decoded: ahead, workers, or both (default: workers for an image folder, else ahead)."""


# ---- the cases --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Values that the cases vary over. Backends None takes all that make sense on the device."""

    recipes: Sequence[str]
    backends: Sequence[str] | None
    workers: Sequence[int]
    decode: Sequence[Decode]


def worker_counts() -> tuple[int, ...]:
    """Return 0, 1, 2, 4 ... up to the cores that this process may use."""
    cores = usable_cpus()
    return tuple(sorted({0, *(2**i for i in range(10) if 2**i <= cores), cores}))


def training_configs(base: TrainConfig, axes: Axes) -> Iterator[TrainConfig]:
    """Yield every way to train that is compared, the ceiling first; ``base`` has the model and the device."""
    from augment import BACKENDS

    yield replace(base, augment_on="frozen")
    yield replace(base, augment_on="none", resident=True)
    for recipe in axes.recipes:
        supporting = _supporting(recipe, axes, base)
        for backend in supporting:
            config = replace(base, recipe=recipe, backend=backend)
            if not BACKENDS[backend].on_device:
                yield from _with_loader(replace(config, augment_on="workers"), axes)
            elif not (BACKENDS[backend].compiled and base.device == "cpu"):
                yield replace(config, augment_on="device", resident=True)
        best = next((backend for backend in BEST_ON_DEVICE if backend in supporting), None)
        if best is not None:
            config = replace(base, recipe=recipe, backend=best, augment_on="device")
            if base.device.startswith("cuda"):
                yield replace(config, resident=True, augment_stream=True)
            yield from _with_loader(config, axes)


def lone_workers(base: TrainConfig, axes: Axes) -> Iterator[TrainConfig]:
    """Yield one loader worker of each sort, to be measured without training."""
    from augment import BACKENDS

    worker = replace(base, num_workers=1)
    for decode in axes.decode:
        yield replace(worker, augment_on="none", decode=decode)
        for recipe in axes.recipes:
            for backend in _supporting(recipe, axes, base):
                if not BACKENDS[backend].on_device:
                    yield replace(worker, recipe=recipe, backend=backend, augment_on="workers", decode=decode)


def _with_loader(config: TrainConfig, axes: Axes) -> Iterator[TrainConfig]:
    for decode in axes.decode:
        for count in axes.workers:
            yield replace(config, decode=decode, num_workers=count)


def _supporting(recipe: str, axes: Axes, base: TrainConfig) -> list[str]:
    """List the chosen backends that support a recipe on the device."""
    from augment import BACKENDS, UnsupportedOp, check_supported, resolve

    supporting = []
    for backend in axes.backends or BACKENDS:
        with contextlib.suppress(UnsupportedOp):
            check_supported(resolve(recipe, base.image_size), backend, device=base.device)
            supporting.append(backend)
    return supporting


# ---- measuring --------------------------------------------------------------------------------------------------------


def throughput_job(base: TrainConfig, axes: Axes, dataset: "Dataset", *, seconds: float, rounds: int, suite: str) -> Job:
    """Return the job of all training configs and lone workers."""
    from training.loop import measure_throughput

    cases: list[Throughput | Feed] = [plan_training(Throughput, config, dataset) for config in training_configs(base, axes)]
    cases += [plan_training(Feed, config, dataset) for config in lone_workers(base, axes)]

    def make_measure(folder: Path) -> Measure:
        import torch

        from augment import BACKENDS
        from bench.jobs.overhead import trainer_busy

        def measure(case: Feed | Throughput) -> Record:
            config = config_of(case, base)
            if BACKENDS[config.backend].compiled:
                torch.compiler.reset()  # dynamo compiles a piece of code eight times, then silently runs it eagerly
            if isinstance(case, Feed):
                return measure_feed(case, config, dataset, seconds=seconds)
            record = fill(case, measure_throughput(config, dataset, seconds=seconds))
            record = with_utilisation(record, *matmul_peak(folder, base.device, base.precision))
            if config.augment_on != "frozen" or case.round > 0:
                return record
            return msgspec.structs.replace(record, gpu_busy=trainer_busy(config, dataset))

        return measure

    return Job(
        name="throughput", suite=suite, device=base.device, cases=once(cases), dataset=data_facts(dataset),
        open=make_measure, rounds=rounds,
    )  # fmt: skip


def measure_feed(case: Feed, config: TrainConfig, dataset: "Dataset", *, seconds: float) -> Feed:
    """Take batches from the loader of a config for about ``seconds`` (at least two batches), without using them.

    The start of the workers, and the batches that they have fetched by then, come before the clock.
    """
    from training.config import validate
    from training.distributed import Ranks
    from training.feed import Feed as Loader

    loader = Loader(config, dataset, Ranks(device=validate(config)))
    loaded = loader.endless()
    for _ in range(1 + 2 * config.num_workers):
        next(loaded)
    examples = batches = 0
    begin = time.perf_counter()
    while batches < 2 or time.perf_counter() - begin < seconds:
        examples += len(next(loaded)[1])
        batches += 1
    wall_s = time.perf_counter() - begin
    return msgspec.structs.replace(
        case, status="ok", lane=loader.lane, implementation=loader.implementation, batches=batches, examples=examples,
        wall_s=wall_s, examples_per_s=examples / wall_s,
    )  # fmt: skip


def matmul_peak(folder: Path, device: str, precision: str) -> tuple[float | None, str]:
    """Return the FLOPs/s of a large matrix product, and in what precision it ran.

    A run has one peak per device and precision: it is read from environment.json, or measured at the first call and added
    there. The FLOPs/s are None if the device has no room for the matrices, or cannot multiply in that precision.
    """
    from bench.limits import matmul_flops, matmul_precision

    file, computed = folder / "environment.json", matmul_precision(device, precision)
    environment = read(file, Environment)
    assert environment is not None
    peaks = environment.matmul_flops_per_s.get(device, {})
    if computed not in peaks:
        try:
            peaks = {**peaks, computed: matmul_flops(device, precision)}
        except RuntimeError:  # out of memory or unsupported: the measurement of training is worth having without it
            return None, computed
        measured = {**environment.matmul_flops_per_s, device: peaks}
        write(file, msgspec.structs.replace(environment, matmul_flops_per_s=measured))
    return peaks[computed], computed


def with_utilisation(record: Throughput, flops_per_s: float | None, precision: str) -> Throughput:
    """Add the model FLOPs utilisation: FLOPs per example x examples/s over the matmul peak of all devices.

    The definition is that of Chowdhery et al. 2022 (PaLM), appendix B, with the peak of a large matrix product on the same
    device, run and precision in place of the vendor's figure.
    """
    share = None
    if flops_per_s and record.flops_per_example and record.examples_per_s:
        share = record.flops_per_example * record.examples_per_s / (max(1, len(record.devices)) * flops_per_s)
    return msgspec.structs.replace(
        record, matmul_flops_per_s=flops_per_s, matmul_precision=precision, model_flops_utilisation=share
    )  # fmt: skip


# ---- the command ------------------------------------------------------------------------------------------------------


def throughput(options: ThroughputOptions, console: Console, report: Report) -> Path:
    """Measure what the options ask for and write the report. Returns the run folder.

    Raises ValueError (nothing was measured: a name, number, device or data set that does not exist), OSError (results cannot be
    written), KeyboardInterrupt (after the report of what there is).
    """
    from training.distributed import resolve_device

    device = resolve_device(options.device)
    chosen = preset("quick", device.type)
    check_options(options)
    check_workers(options.workers)
    base = base_config(options, chosen, str(device))
    dataset = options.load(max_train=base.max_train, max_test=chosen.max_test)
    if "workers" in (options.decode or ()) and dataset.train.files is None:
        raise ValueError(f"{dataset.name} has no files to decode in workers: take --data FOLDER, or leave out --decode workers")
    check_batches(base, dataset)
    return run_job(plan_throughput(options, chosen, dataset, str(device)), options, console, report)


def plan_throughput(
    options: ThroughputOptions, chosen: Preset, dataset: "Dataset", device: str, suite: str = "throughput"
) -> Job:  # fmt: skip
    """Return the job that the options ask for; what they leave out is the preset's."""
    backends = take(options.backends, chosen.throughput_backends)
    counts = chosen.throughput_workers
    usual_counts = worker_counts() if counts is None else sorted(min(count, usable_cpus()) for count in counts)
    axes = Axes(
        recipes=once(take(options.recipes, chosen.throughput_recipes)),
        backends=None if backends is None else once(backends),
        workers=once(take(options.workers, usual_counts)),
        decode=once(take(options.decode, ("ahead",) if dataset.train.files is None else ("workers",))),
    )
    base = base_config(options, chosen, device, resident=False)
    seconds, rounds = take(options.seconds, chosen.throughput_seconds), take(options.rounds, chosen.throughput_rounds)
    return throughput_job(base, axes, dataset, seconds=seconds, rounds=rounds, suite=suite)


def base_config(options: StepOptions, chosen: Preset, device: str, **settings: Any) -> TrainConfig:
    """Return the config that all cases share: the options' settings, those left out from the preset."""
    values = {name: getattr(options, name) for name in ("model", "width", "max_train")}
    settings |= {name: value for name, value in values.items() if value is not None}
    return chosen.config(
        device, data=options.data, data_root=options.data_root, batch_size=options.batch_size, precision=options.precision,
        **settings,
    )  # fmt: skip
