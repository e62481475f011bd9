"""``augmark pipeline``: from JPEG files to batches that a network can train on: speed of every arm, and where its time goes.

Each case is a short pass over the same photographs, an arm of ``bench.jobs.arms`` whole or without one of its stages; all take
turns in rounds. The clock starts once every loader worker has sent a batch; what they fetched ahead does not count.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from rich.console import Console

from bench.jobs.grid import check_names
from bench.jobs.job import Job, JobOptions, Report, check_workers, once, run_job, take
from bench.jobs.photoset import Making, PhotoSet, drop_from_cache, load_photographs, parse_size
from bench.records import Pipeline, one_line, plural

if TYPE_CHECKING:
    from bench.jobs.arms import Arm, Work

PRESETS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "quick": (
        ("albumentations-workers", "torchvision_loop-workers", "fused-workers", "pil-fused-device", "pil-alone",
         "torchvision-alone", "torchcodec-alone"),
        ("imagenet", "HorizontalFlip", "Rotate", "ColorJitter", "Grayscale", "GaussianBlur"),
    ),
    "full": ((), ()),
}  # fmt: skip
"""Arms and recipes by preset; none stands for all."""
TRAINED_ARMS = ("fused-workers", "pil-fused-device")


@dataclass(frozen=True, kw_only=True)
class PipelineOptions(JobOptions):
    """Options of ``augmark pipeline``; None takes the preset's or the device's value."""

    data: Path
    """A folder of photographs, in any subfolders."""
    preset: Literal["quick", "full"] = "quick"
    """quick: seven arms, imagenet and five ops; full: all arms, and all ops that do not mix images."""
    arms: tuple[str, ...] | None = None
    """Arms: BACKEND-workers, DECODER-BACKEND-device, DECODER-alone (default: the preset's)."""
    recipes: tuple[str, ...] | None = None
    """Recipes, or single ops behind RandomResizedCrop; stages are attributed for the first (default: the preset's)."""
    workers: tuple[int, ...] | None = None
    """Numbers of loader workers (default: 0, 1, 2, 4 ... and all cores)."""
    model: str | None = None
    """Network of torchvision that is trained behind --trained-arms (default: resnet18 on a CPU, else resnet50)."""
    trained_arms: tuple[str, ...] = TRAINED_ARMS
    """Arms that are also measured with the network's step, on the first recipe."""
    images: int = 256
    """Photographs, evenly spaced over the folder."""
    repeat: int = 1
    """Files that are made of each photograph."""
    size: str | None = None
    """WIDTHxHEIGHT of files that are made, such as 500x375 (default: photographs as they are)."""
    quality: int = 90
    """JPEG quality of files that are made with --size."""
    cache: Path = Path("data/.cache")
    """Folder for files that are made."""
    cold: bool = False
    """Drop the files from the page cache before each pass."""
    batch_size: int | None = None
    """Images of a batch (default: 32 on a CPU, else 256)."""
    image_size: int = 224
    """Side of the images that come out."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the batches, and of the step under autocast; auto: bfloat16 on accelerators, float32 on a CPU."""
    device: str = "auto"
    """auto, cpu, cuda:0, ..."""
    rounds: int = 10
    """Rounds, each with all cases in an order of its own."""
    seconds: float = 1.0
    """Longest pass; a pass over all photographs ends earlier."""


def pipeline(options: PipelineOptions, console: Console, report: Report) -> Path:
    """Measure what the options ask for and write the report. Returns the run folder.

    Raises ValueError for photographs, names or numbers that cannot be used, OSError where nothing can be written.
    """
    check(options)
    photographs = load(options)
    for skipped in photographs.skipped:
        console.print(f"left out: {skipped}")
    return run_job(pipeline_job(options, photographs), options, console, report)


def check(options: PipelineOptions) -> None:
    """Raise ValueError for names and numbers that cannot be used."""
    from augment import OPS, RECIPES
    from bench.jobs.arms import ARMS
    from training.transfer import check_size

    check_names("arm", (*(options.arms or ()), *options.trained_arms), ARMS)
    check_names("recipe or op", options.recipes, (*RECIPES, *OPS))
    numbers = (options.images, options.repeat, options.rounds, options.image_size, take(options.batch_size, 1))
    if min(numbers) < 1 or not options.seconds > 0 or not 1 <= options.quality <= 100:
        raise ValueError("images, repeat, rounds, image-size, batch-size and seconds must be positive, quality at most 100")
    check_workers(options.workers)
    if options.model is not None:
        check_size(options.model, None, options.image_size)


def load(options: PipelineOptions) -> PhotoSet:
    """Return the photographs that the options name, all of them readable. Raises ValueError."""
    making = Making(repeat=options.repeat, size=parse_size(options.size), quality=options.quality)
    photographs = load_photographs(options.data, options.images, making, options.cache)
    if options.cold:
        drop_from_cache(photographs.files)
    return photographs


def pipeline_job(options: PipelineOptions, photographs: PhotoSet, suite: str = "pipeline") -> Job:
    """Return the job: every arm with every recipe and number of workers, then the first recipe without each stage."""
    import torch

    from bench.jobs.arms import Work
    from bench.jobs.passes import Passes
    from training.distributed import resolve_device

    device = resolve_device(options.device)
    is_cpu = device.type == "cpu"
    batch_size = take(options.batch_size, 32 if is_cpu else 256)
    if len(photographs.files) < batch_size:
        few = f"{plural(len(photographs.files), 'photograph')} make no batch of {batch_size}"
        raise ValueError(f"{few}: take --batch-size {len(photographs.files)} or less, or --repeat")
    auto = "float32" if is_cpu else "bfloat16"
    precision = auto if options.precision == "auto" else options.precision
    work = Work(
        photographs=photographs, cache=options.cache, image_size=options.image_size, device=device,
        dtype=getattr(torch, precision),
    )  # fmt: skip
    base = Pipeline(
        status="not_run", batch_size=batch_size, image_size=options.image_size, precision=precision, device=str(device),
        page_cache="cold" if options.cold else "warm", dataset=photographs.name, fingerprint=photographs.fingerprint,
    )  # fmt: skip
    model = options.model or ("resnet18" if is_cpu else "resnet50")
    return Job(
        name="pipeline", suite=suite, device=str(device), cases=tuple(plan(options, work, base, model)),
        dataset=photographs.facts(), open=lambda folder: Passes(work, options.seconds).measure, rounds=options.rounds,
    )  # fmt: skip


def plan(options: PipelineOptions, work: "Work", base: Pipeline, model: str) -> Iterator[Pipeline]:
    """Yield the cases: all arms, then those behind which a network trains, then the first recipe without each stage."""
    from augment import OPS
    from bench.jobs.arms import ARMS
    from bench.jobs.throughput import worker_counts

    arms, recipes = PRESETS[options.preset]
    arms, recipes = options.arms or arms or tuple(ARMS), options.recipes or recipes or ("imagenet", *OPS)
    all_counts = once(take(options.workers, worker_counts()))
    for name in once(arms):
        has_recipe = ARMS[name].backend is not None
        for index, recipe in enumerate(once(recipes) if has_recipe else (None,)):
            case = plan_case(ARMS[name], work, msgspec.structs.replace(base, recipe=recipe))
            counts = (0,) if case.fetched == () else all_counts  # what reads files itself needs no workers
            yield from (msgspec.structs.replace(case, num_workers=count) for count in counts)
            if index == 0 and has_recipe and case.fetched:
                threads = once(1 if count else None for count in counts)  # a worker has one
                yield from (
                    msgspec.structs.replace(case, without=s, fetch_threads=t) for s in case.stages or () for t in threads
                )
            if index == 0 and name in options.trained_arms:
                yield from (msgspec.structs.replace(case, num_workers=count, model=model) for count in counts)


def plan_case(arm: "Arm", work: "Work", base: Pipeline) -> Pipeline:
    """Return the case of an arm without workers: its stages and lane, or why the arm cannot run."""
    from augment import known_differences
    from bench.jobs.arms import recipe_ops
    from training.photofeed import feed_lane

    case = msgspec.structs.replace(base, decoder=arm.decoder, backend=arm.backend, augment_on=arm.augment_on)
    reason = arm.missing()
    if reason is None:
        try:
            ops = recipe_ops(case.recipe, work.image_size) if case.recipe else ()
            chain = arm.chain(replace(work, ops=ops))
        except ValueError as error:  # UnsupportedOp among them
            reason = one_line(error)
    if reason is not None:
        return msgspec.structs.replace(case, status="unsupported", reason=reason)
    if arm.backend is not None:
        lane = feed_lane(ops, arm.backend, on_device=arm.augment_on == "device")
        case = msgspec.structs.replace(case, lane=lane, differs=known_differences(ops, arm.backend))
    return msgspec.structs.replace(case, stages=chain.names, fetched=tuple(chain.fetch))
