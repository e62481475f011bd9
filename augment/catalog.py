"""The table: which library does which op, and how.

One row an op (``ROWS``, written in ``augment.rows`` by theme), one line a backend (``BACKENDS``); recipes stand in
``augment.recipes``; an absent cell *is* "unsupported". Parameters are equal in every cell and each default in which the
libraries differ is pinned; where a library cannot do the canonical op but users meet its version, the cell stands and
``Row.differs`` names the difference. ``Default`` rows are the exception: they give a library only what it must be given, so
that its own defaults are met.

Adding an op: a dataclass in ``augment.ops`` and a row of its theme. Adding a backend: a line in ``BACKENDS`` and its cells.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from augment import compose, fused, triton_augment
from augment.compose import Pipeline, Runner, Step
from augment.ops import Op
from augment.recipes import RECIPES
from augment.rows import colour, defaults, erasing, geometry, mixing, policies
from augment.rows.row import Draws, Library, Row, UnsupportedOp

ROWS: dict[str, Row] = {
    **geometry.ROWS,
    **colour.ROWS,
    **erasing.ROWS,
    **policies.ROWS,
    **mixing.ROWS,
    **defaults.ROWS,
}

# Two backends plan a recipe as a whole, so that their cells are the ops themselves.
for _name in fused.SUPPORTED:
    ROWS[_name] = replace(ROWS[_name], build={**ROWS[_name].build, "fused": lambda op, *_: op})
for _name in triton_augment.PARTS:
    ROWS[_name] = replace(ROWS[_name], build={**ROWS[_name].build, "triton_augment": triton_augment.accepted})


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A library and a way of driving it. ``on_device`` says whether it can take a batch on an accelerator.

    ``compose`` makes a runner of ops built one by one; a backend with ``plan`` takes the ops themselves, all at once, and
    draws from ``generator`` itself. ``why_not`` says why it cannot run on a device of this machine, None where it can.
    """

    name: str
    library: Library
    draws: Draws
    compose: Callable[[Sequence[Step]], Runner] = compose.batched
    plan: Callable[..., Runner] | None = None
    compiled: bool = False
    on_device: bool = True
    why_not: Callable[[torch.device], str | None] = lambda device: None
    about: str = ""


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            name="pil", library="pil", draws="per_image", compose=compose.on_pil_images, on_device=False,
            about="torchvision on PIL images, one by one, as in loader workers",
        ),
        Backend(
            name="torchvision_loop", library="torchvision", draws="per_image", compose=compose.image_by_image, on_device=False,
            about="torchvision v2 on tensors, one by one",
        ),
        Backend(
            name="torchvision", library="torchvision", draws="per_batch", compose=compose.batched,
            about="torchvision v2 on the whole batch: every image gets the same draw",
        ),
        Backend(
            name="kornia", library="kornia", draws="per_image", compose=compose.batched,
            about="Kornia on the whole batch, a draw for each image",
        ),
        Backend(
            name="kornia_shared", library="kornia", draws="per_batch", compose=compose.shared_draws,
            about="Kornia with same_on_batch: one draw for the batch",
        ),
        Backend(
            name="torchvision_compiled", library="torchvision", draws="per_batch", compose=compose.compiled, compiled=True,
            about="the torchvision backend through torch.compile",
        ),
        Backend(
            name="kornia_compiled", library="kornia", draws="per_image", compose=compose.compiled, compiled=True,
            about="the kornia backend through torch.compile",
        ),
        Backend(
            name="fused", library="fused", draws="per_image", plan=fused.compose,
            about="ours: torchvision's ops with a draw for each image, the recipe planned as a whole",
        ),
        Backend(
            name="fused_compiled", library="fused", draws="per_image", plan=partial(fused.compose, compile=True), compiled=True,
            about="the fused backend through torch.compile",
        ),
        Backend(
            name="triton_augment", library="triton_augment", draws="per_image", plan=triton_augment.compose,
            why_not=triton_augment.why_not, about="the package triton-augment: ops in its order are one fused kernel, on CUDA",
        ),
    )
}  # fmt: skip

FLOAT_LIBRARIES: Collection[str] = ("kornia", "triton_augment")
"""Libraries that refuse integer images in every op."""


def resolve(subject: str | Op | Sequence[Op], image_size: int = 32) -> tuple[Op, ...]:
    """The ops that a recipe's name, an op's name, an op or several ops stand for. ValueError for an unknown name."""
    if isinstance(subject, str):
        if subject in RECIPES:
            return RECIPES[subject](image_size)
        if subject in ROWS:
            return (ROWS[subject].at(image_size),)
        raise ValueError(f"unknown recipe or op {subject!r}; known: {', '.join((*RECIPES, *ROWS))}")
    return (subject,) if isinstance(subject, Op) else tuple(subject)


def find_backend(name: str) -> Backend:
    """The backend of that name. ValueError for an unknown one."""
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}; known: {', '.join(BACKENDS)}")
    return BACKENDS[name]


def place(backend: str, wanted: torch.device) -> torch.device:
    """Where to run a backend when its results are wanted and not its speed: elsewhere only if it cannot use that device.

    That is the CPU for a backend that is not for accelerators, and CUDA for one that runs nowhere else.
    """
    chosen = find_backend(backend)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    if not chosen.on_device:
        return cpu
    return cuda if chosen.why_not(wanted) is not None and chosen.why_not(cuda) is None else wanted


def eager_backends(wanted: torch.device) -> list[str]:
    """The backends that are not compiled and can run in their ``place``."""
    return [b.name for b in BACKENDS.values() if not b.compiled and b.why_not(place(b.name, wanted)) is None]


def lane(ops: Sequence[Op], backend: str) -> Draws:
    """Whether a backend draws these ops' parameters per image or per batch, some so and some so, or nothing is drawn."""
    chosen = find_backend(backend)
    rows = [ROWS[op.name] for op in ops]
    lanes = {row.draws.get(chosen.library, chosen.draws) for row in rows if row.random}
    if not lanes:
        return "fixed"
    return lanes.pop() if len(lanes) == 1 else "mixed"


def known_differences(ops: Sequence[Op], backend: str) -> str | None:
    """How the backend's version of these ops differs from their definitions, None where it is not known to."""
    library = find_backend(backend).library
    named = {op.name: ROWS[op.name].differs.get(library) for op in ops}
    return "; ".join(f"{name}: {difference}" for name, difference in named.items() if difference) or None


def check_supported(
    ops: Sequence[Op], backend: str, dtype: torch.dtype = torch.float32, device: str | torch.device | None = None
) -> None:
    """Raises UnsupportedOp for the first op that the backend lacks, or cannot do with its parameters or in that dtype.

    With a ``device``, also where the backend cannot run on it here.
    """
    chosen = find_backend(backend)
    library = chosen.library
    reason = None if device is None else chosen.why_not(torch.device(device))
    for op in ops:
        row = ROWS[op.name]
        if library not in row.build:
            raise UnsupportedOp(op.name, backend)
        if chosen.plan is not None:
            row.build[library](op)  # the op itself, or UnsupportedOp for its parameters
        if dtype == torch.uint8 and (library in FLOAT_LIBRARIES or library in row.needs_float):
            raise UnsupportedOp(op.name, backend, "it needs float images")
        if reason is not None:
            raise UnsupportedOp(op.name, backend, reason)


def build(
    subject: str | Op | Sequence[Op],
    backend: str,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    image_size: int = 32,
    num_classes: int = 10,
    generator: torch.Generator | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Pipeline:
    """Build a recipe (by name), an op (by name or value) or a sequence of ops for a backend.

    Args:
        device: where batches will be; the library's parameters are put there.
        dtype: of the result. Recipes end normalised, single ops in [0, 1] (or uint8, 0..255).
        image_size: side of the square input images, from which named subjects take their sizes.
        num_classes: length of the soft targets of MixUp and CutMix.
        generator: source of randomness; without one the libraries draw from torch's global generator of the device. A pipeline
            that is given one cannot be traced by ``torch.compile(fullgraph=True)``, which takes no generators.
        memory_format: of the result: torch.contiguous_format or torch.channels_last.

    Raises:
        UnsupportedOp: the backend has no such op, not with these parameters, in this dtype or on this device.
        ValueError: unknown recipe, op or backend; a dtype that is no image's; no classes.
    """
    if dtype != torch.uint8 and not dtype.is_floating_point:
        raise ValueError(f"dtype must be a float type, or torch.uint8, got {dtype}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    ops = resolve(subject, image_size)
    chosen = find_backend(backend)
    check_supported(ops, backend, dtype, device)
    again = partial(
        build,
        ops,
        backend,
        device=device,
        dtype=dtype,
        num_classes=num_classes,
        generator=generator,
        memory_format=memory_format,
    )
    if chosen.plan is not None:
        run = chosen.plan(
            ops, num_classes=num_classes, generator=generator, device=torch.device(device), dtype=dtype,
            memory_format=memory_format,
        )  # fmt: skip
        generator = None  # the runner has it: the global one is neither seeded nor restored
    else:
        run = chosen.compose([build_step(op, chosen.library, torch.device(device), num_classes) for op in ops])
    return Pipeline(
        ops=ops,
        backend=backend,
        draws=lane(ops, backend),
        mixes=any(ROWS[op.name].mixes_labels for op in ops),
        run=run,
        dtype=dtype,
        generator=generator,
        memory_format=memory_format,
        again=again,
    )


def build_step(op: Op, library: Library, device: torch.device, num_classes: int) -> Step:
    """One op as a library builds it, on the device; ``num_classes`` is for ops that mix labels."""
    row = ROWS[op.name]
    apply = row.build[library](op, num_classes) if row.mixes_labels else row.build[library](op)
    if isinstance(apply, nn.Module):
        apply = apply.to(device)
    needs_float = library in FLOAT_LIBRARIES or library in row.needs_float
    return Step(apply=apply, mixes_labels=row.mixes_labels, needs_float=needs_float)
