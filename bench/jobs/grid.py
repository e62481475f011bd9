"""The grid: every op and recipe on every backend. ``plan`` lists all cases, the impossible ones with their reason.

Importing this module does not import torch: ``--help`` needs it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from msgspec.structs import replace

from bench.records import Speed, one_line

DTYPES = ("float32", "float16", "bfloat16", "uint8")
FULL_BATCH_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
FULL_IMAGE_SIZES = (32, 64, 128, 224, 512)
GROWN = ("crop_flip", "d2l")
GROWN_BATCH_SIZES = (64, 256, 4096, 16384, 65536)
# Libraries hold several float copies of a batch at once: the input, the sampled grid, intermediate colours, the result.
WORKING_COPIES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Choice of cases; None takes the default.

    Defaults: all subjects; eager backends (compiled ones too on an accelerator) that can run there; batch 256 of 32 x 32
    images, batch 16 of 256 x 320 photographs for the ``imagenet`` recipes. Image sizes are heights of photographs, which are a
    quarter wider than high.

    The extent ``full`` varies one size at a time from there (all batch sizes at the usual image size, all image sizes at the
    usual batch), because the product of both would take a day and show no more. ``gpu`` takes batch 1024, and for the recipes
    ``GROWN`` also compiled backends, and batches up to 65,536. Sizes that are given make a product.
    """

    devices: tuple[str, ...] = ("cpu",)
    backends: tuple[str, ...] | None = None
    ops: tuple[str, ...] | None = None
    recipes: tuple[str, ...] | None = None
    batch_sizes: tuple[int, ...] | None = None
    image_sizes: tuple[int, ...] | None = None
    dtype: str = "float32"
    extent: Literal["default", "full", "gpu"] = "default"


def plan(grid: Grid, *, memory_bytes: Callable[[str], int] | None = None) -> list[Speed]:
    """Return all cases of the grid, with status ``not_run`` or ``unsupported`` and its reason.

    Args:
        grid: the choice of cases.
        memory_bytes: bytes that a case may take on a device (default: what is free now).

    Raises:
        ValueError: in one line, for names, sizes and devices that do not exist.
    """
    import augment

    check_names("backend", grid.backends, augment.BACKENDS)
    check_names("op", grid.ops, augment.OPS)
    check_names("recipe", grid.recipes, augment.RECIPES)
    check_names("dtype", (grid.dtype,), DTYPES)
    for noun, sizes in (("batch size", grid.batch_sizes), ("image size", grid.image_sizes)):
        if sizes is not None and (not sizes or min(sizes) < 1):
            raise ValueError(f"{noun} must be at least 1, got {', '.join(map(str, sizes)) or 'none'}")
    for device in grid.devices:
        if augment.check_device(device).type == "meta":
            raise ValueError("device 'meta' cannot be used: nothing is computed there")
    free_bytes = {device: (memory_bytes or free_memory)(device) for device in grid.devices}
    return [_check_case(case, free_bytes[case.device]) for case in _cases(grid)]


def _cases(grid: Grid) -> Iterator[Speed]:
    from augment import OPS, RECIPES
    from augment.recipes import PHOTOGRAPH_RECIPES

    suites: dict[Literal["ops", "recipes"], Iterable[str]] = {
        "ops": OPS if grid.ops is None else grid.ops,
        "recipes": RECIPES if grid.recipes is None else grid.recipes,
    }
    return (
        Speed(
            status="not_run", suite=suite, subject=subject, backend=backend, device=device, batch_size=batch_size,
            image_size=image_size, image_width=image_size * 5 // 4 if subject in PHOTOGRAPH_RECIPES else None,
            dtype=grid.dtype,  # type: ignore[arg-type]  # checked by plan
        )
        for suite, subjects in suites.items()
        for device in grid.devices
        for subject in subjects
        for batch_size, image_size in _shapes(grid, subject)
        for backend in _backends(grid, device, subject, batch_size)
    )  # fmt: skip


def _backends(grid: Grid, device: str, subject: str, batch_size: int) -> list[str]:
    import torch

    from augment import BACKENDS

    if grid.backends is not None:
        # A loop over images on the CPU has no cell on an accelerator, unless there is no CPU column to put it in.
        return [name for name in grid.backends if BACKENDS[name].on_device or device == "cpu" or "cpu" not in grid.devices]
    runnable = [backend for backend in BACKENDS.values() if backend.why_not(torch.device(device)) is None]
    compiled = device != "cpu" and (grid.extent != "gpu" or (subject in GROWN and batch_size not in GROWN_BATCH_SIZES))
    return [b.name for b in runnable if (compiled or not b.compiled) and (b.on_device or device == "cpu")]


def _shapes(grid: Grid, subject: str) -> list[tuple[int, int]]:
    """List (batch size, image size) pairs. ImageNet recipes crop 224 pixels, so they start from larger photographs."""
    from augment.recipes import PHOTOGRAPH_RECIPES

    batch, size, smallest = (16, 256, 224) if subject in PHOTOGRAPH_RECIPES else (256, 32, 1)
    if grid.batch_sizes or grid.image_sizes:
        sizes = [s for s in grid.image_sizes or () if s >= smallest] or [size]
        return [(b, s) for s in sizes for b in grid.batch_sizes or (batch,)]
    if grid.extent == "gpu" and size == 32:
        return [(b, size) for b in (1024, *(GROWN_BATCH_SIZES if subject in GROWN else ()))]
    shapes = [(batch, size)]
    if grid.extent == "full":
        shapes += [(b, size) for b in FULL_BATCH_SIZES] + [(batch, s) for s in FULL_IMAGE_SIZES if s >= smallest]
    return list(dict.fromkeys(shapes))


def build_case(case: Speed) -> Any:
    """Build the pipeline of a case."""
    import torch

    from augment import build

    dtype = getattr(torch, case.dtype)
    return build(str(case.subject), str(case.backend), device=case.device, dtype=dtype, image_size=case.image_size or 32)


def _check_case(case: Speed, free_bytes: int) -> Speed:
    from augment import BACKENDS, known_differences

    backend = str(case.backend)
    if case.device != "cpu" and not BACKENDS[backend].on_device:
        reason = f"{backend} works image by image on the CPU: use --device cpu"
        return replace(case, status="unsupported", reason=reason)
    try:
        pipeline = build_case(case)
    except ValueError as error:  # UnsupportedOp among them; names were checked before
        return replace(case, status="unsupported", reason=one_line(error))
    case = replace(case, lane=pipeline.lane, differs=known_differences(pipeline.ops, backend))
    needed_bytes = WORKING_COPIES * 4 * 3 * (case.batch_size or 0) * (case.image_size or 0) * case.width
    if needed_bytes > free_bytes:
        reason = f"needs about {needed_bytes / 2**30:.1f} GiB, {case.device} has {free_bytes / 2**30:.1f} GiB to spare"
        return replace(case, status="unsupported", reason=reason)
    return case


def check_names(noun: str, names: Sequence[str] | None, valid: Iterable[str]) -> None:
    """Raise ValueError, listing ``valid``, for the first name that is not in it; None stands for the default."""
    for name in names or ():
        if name not in valid:
            raise ValueError(f"unknown {noun} {name!r}; known: {', '.join(valid)}")


def default_devices() -> tuple[str, ...]:
    """Return the CPU, and the accelerator if there is one."""
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return ("cpu",) if accelerator is None else ("cpu", accelerator.type)


def free_memory(device: str) -> int:
    """Return the bytes that a case may take on the device: what is free now, less a tenth."""
    import psutil
    import torch

    from training.cpus import usable_memory

    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0] * 9 // 10
    return usable_memory(psutil.virtual_memory().available) * 9 // 10  # MPS shares the CPU's memory
