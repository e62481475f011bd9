"""What is measured: a ``Case`` is one cell of the grid, ``plan`` writes the whole grid down before anything runs.

Importing this module does not import torch: the report reads cases too.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Suite = Literal["ops", "recipes"]

DTYPES = ("float32", "float16", "bfloat16", "uint8")
FULL_BATCH_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
FULL_IMAGE_SIZES = (32, 64, 128, 224, 512)

# Libraries hold several float copies of a batch at once: the input, the sampled grid, intermediate colours, the result.
WORKING_COPIES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One cell of the grid: a subject on a backend, at a size, in a place.

    ``subject`` is an op's or a recipe's name; ``image_size`` the height of the input in pixels, and its width where
    ``image_width`` is None; ``dtype`` that of the result (ops with a float dtype also start from that dtype, recipes always
    start from uint8).
    """

    suite: Suite
    subject: str
    backend: str
    device: str
    batch_size: int
    image_size: int
    dtype: str
    image_width: int | None = None

    @property
    def width(self) -> int:
        """Of the input, in pixels."""
        return self.image_size if self.image_width is None else self.image_width

    @property
    def pixels(self) -> str:
        """Height and width as people write them: "32 x 32"."""
        return f"{self.image_size} x {self.width}"

    @property
    def id(self) -> str:
        """Unique name, as pytest's ``-k`` and the records use it."""
        side = str(self.image_size) if self.image_width is None else f"{self.image_size}x{self.image_width}"
        size = f"b{self.batch_size}-s{side}"
        return f"{self.suite}-{self.subject}-{self.backend}-{self.device}-{size}-{self.dtype}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCase:
    """A case of the grid before it runs: its lane, and why not if it cannot run."""

    case: Case
    draws: str | None
    status: Literal["planned", "unsupported"]
    reason: str | None = None
    differs: str | None = None
    """How the backend's op is known to differ from the definition; where it does, no ratio is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What the user asked for. None means the default: all subjects, eager backends (compiled ones too on an accelerator) that
    can run there,
    batch 256 of 32 x 32 images, batch 16 of 256 x 320 photographs for the ``imagenet`` recipes. Image sizes are heights of
    photographs, which are a quarter wider than high.

    ``full`` varies one size at a time from there (all batch sizes at the usual image size, all image sizes at the usual
    batch), because the product of both would take a day and show no more. Sizes that are given make a product.
    """

    devices: tuple[str, ...] = ("cpu",)
    backends: tuple[str, ...] | None = None
    ops: tuple[str, ...] | None = None
    recipes: tuple[str, ...] | None = None
    batch_sizes: tuple[int, ...] | None = None
    image_sizes: tuple[int, ...] | None = None
    dtype: str = "float32"
    full: bool = False


def plan(grid: Grid, *, memory_bytes: Callable[[str], int] | None = None) -> list[PlannedCase]:
    """All cases of the grid, the ones that cannot run among them with their reason.

    ``memory_bytes(device)`` says how much a case may take there (default: what is free now).
    Raises ValueError with one line for names, sizes and devices that do not exist.
    """
    import augment

    check_names("backend", grid.backends, augment.BACKENDS)
    check_names("op", grid.ops, augment.ROWS)
    check_names("recipe", grid.recipes, augment.RECIPES)
    check_names("dtype", (grid.dtype,), DTYPES)
    for what, sizes in (("batch size", grid.batch_sizes), ("image size", grid.image_sizes)):
        if sizes is not None and (not sizes or min(sizes) < 1):
            raise ValueError(f"{what} must be at least 1, got {', '.join(map(str, sizes)) or 'none'}")
    for device in grid.devices:
        check_device(device)
    room = {device: (memory_bytes or free_memory)(device) for device in grid.devices}
    return [_planned(case, room[case.device]) for case in _cases(grid, augment.BACKENDS)]


def _cases(grid: Grid, backends: Any) -> Iterator[Case]:
    from augment import RECIPES, ROWS
    from augment.recipes import PHOTOGRAPH_RECIPES

    ops = tuple(ROWS) if grid.ops is None else grid.ops
    recipes = tuple(RECIPES) if grid.recipes is None else grid.recipes
    suites: list[tuple[Suite, tuple[str, ...]]] = [("ops", ops), ("recipes", recipes)]
    for suite, subjects in suites:
        for device in grid.devices:
            for subject in subjects:
                for batch_size, image_size in _shapes(grid, subject):
                    for backend in _backends_on(device, grid, backends):
                        yield Case(
                            suite=suite,
                            subject=subject,
                            backend=backend,
                            device=device,
                            batch_size=batch_size,
                            image_size=image_size,
                            image_width=image_size * 5 // 4 if subject in PHOTOGRAPH_RECIPES else None,
                            dtype=grid.dtype,
                        )


def _backends_on(device: str, grid: Grid, backends: Any) -> list[str]:
    if grid.backends is not None:
        # A loop over images on the CPU has no cell on an accelerator, unless there is no CPU column to put it in.
        return [name for name in grid.backends if backends[name].on_device or device == "cpu" or "cpu" not in grid.devices]
    import torch

    here = [name for name, backend in backends.items() if backend.why_not(torch.device(device)) is None]
    return [name for name in here if (not backends[name].compiled if device == "cpu" else backends[name].on_device)]


def _shapes(grid: Grid, subject: str) -> list[tuple[int, int]]:
    """(batch size, image size) pairs. ImageNet recipes crop 224 pixels, so they start from photographs larger than that."""
    from augment.recipes import PHOTOGRAPH_RECIPES

    batch, size, smallest = (16, 256, 224) if subject in PHOTOGRAPH_RECIPES else (256, 32, 1)
    if grid.batch_sizes or grid.image_sizes:
        sizes = [s for s in grid.image_sizes or () if s >= smallest] or [size]
        return [(b, s) for s in sizes for b in grid.batch_sizes or (batch,)]
    shapes = [(batch, size)]
    if grid.full:
        shapes += [(b, size) for b in FULL_BATCH_SIZES] + [(batch, s) for s in FULL_IMAGE_SIZES if s >= smallest]
    return list(dict.fromkeys(shapes))


def _planned(case: Case, room_bytes: int) -> PlannedCase:
    import torch

    from augment import BACKENDS, build
    from augment.catalog import known_differences

    if case.device != "cpu" and not BACKENDS[case.backend].on_device:
        reason = f"{case.backend} works image by image on the CPU: use --device cpu"
        return PlannedCase(case=case, draws=None, status="unsupported", reason=reason)
    try:
        dtype = getattr(torch, case.dtype)
        pipeline = build(case.subject, case.backend, device=case.device, dtype=dtype, image_size=case.image_size)
    except ValueError as error:  # UnsupportedOp among them; names were checked before
        return PlannedCase(case=case, draws=None, status="unsupported", reason=one_line(error))
    needs = WORKING_COPIES * 4 * 3 * case.batch_size * case.image_size * case.width
    if needs > room_bytes:
        reason = f"needs about {needs / 2**30:.1f} GiB, {case.device} has {room_bytes / 2**30:.1f} GiB to spare"
        return PlannedCase(case=case, draws=pipeline.draws, status="unsupported", reason=reason)
    differs = known_differences(pipeline.ops, case.backend)
    return PlannedCase(case=case, draws=pipeline.draws, status="planned", differs=differs)


def one_line(error: BaseException | str, limit: int = 300) -> str:
    """The first line that says something, for a table; an exception without words gives its type."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    message = lines[0] if lines else type(error).__name__
    return message if len(message) <= limit else message[: limit - 1] + "…"


def check_names(what: str, names: Sequence[str] | None, known: Iterable[str]) -> None:
    """Raises ValueError, with the known names, for the first that is not among them; None stands for the default."""
    for name in names or ():
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}; known: {', '.join(known)}")


def check_device(name: str) -> None:
    """Raises ValueError with one line unless tensors can be put on the device now."""
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    here = "cpu" + (f", {accelerator.type}" if accelerator else "")
    try:
        kind = torch.device(name).type
        if kind != "cpu" and (accelerator is None or kind != accelerator.type):
            raise RuntimeError(f"this torch sees no {kind} device")
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used ({one_line(error)}); here: {here}") from None


def default_devices() -> tuple[str, ...]:
    """The CPU, and the accelerator where there is one."""
    import torch

    if not torch.accelerator.is_available():
        return ("cpu",)
    accelerator = torch.accelerator.current_accelerator()
    return ("cpu",) if accelerator is None else ("cpu", accelerator.type)


def free_memory(device: str) -> int:
    """Bytes that a case may take on the device: what is free now, less a tenth."""
    import psutil
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0] * 9 // 10
    return int(psutil.virtual_memory().available) * 9 // 10  # MPS shares the CPU's memory
