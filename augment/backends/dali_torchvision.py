"""DALI's API after torchvision's (``nvidia.dali.experimental.torchvision``): a graph of operators, a draw for each image.

``Compose`` builds a DALI pipeline at its first batch, [B, 3, H, W] on the CPU or CUDA. Batches lack its jitter and greyscale,
which take interleaved images only: PIL images, one by one. Nothing converts bytes to floats, so means are scaled. A pipeline is
seeded by PyTorch's generator when it is built, and never again. Without a GPU, DALI 2.4 asks PyTorch for a CUDA stream all the
same (docs/upstream.md), and gets None here.
"""

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from augment.backends import StepBackend
from augment.backends.dali import BYTES, PACKAGE
from augment.op import Cell, Op, Read
from augment.pipeline import Runner, Step
from augment.replay import Columns, Recorder

NAME = "dali_torchvision"
RANDOM = ("coin_flip", "uniform")
"""DALI's random operators that the API uses; their results are recorded."""
SAMPLED = 128
"""Images of a batch whose draws are sampled."""


@functools.cache
def library() -> Any:
    """Return the API. Raises ImportError without DALI."""
    return importlib.import_module("nvidia.dali.experimental.torchvision")


@dataclass
class DaliOperator:
    """An op as a class ``kind`` of the API; ``drawn``, if ``watched``: random numbers of the last batch, and its ramps."""

    op: Op
    kind: str
    arguments: Callable[[Any, float], Mapping[str, Any]]
    watched: bool = False
    drawn: dict[str, np.ndarray] = field(default_factory=dict)

    def build(self, images: Tensor) -> Any:
        """Return the operator for images like these."""
        white = BYTES if images.dtype == torch.uint8 else 1.0
        device = "gpu" if images.is_cuda else "cpu"
        return getattr(library(), self.kind)(**self.arguments(self.op, white), device=device)


def dali_torchvision(
    kind: str, arguments: Callable[[Any, float], Mapping[str, Any]] = lambda op, white: {}, /, **reads: Read
) -> dict[str, Cell]:
    """Return a cell: a class of the API and its arguments, (op, value of white) -> arguments.

    ``reads`` are "0", "1" ... in the order of the drawn numbers, or functions of them and of "x" and "y": coordinates of pixels
    after the operator, [B, h, w], with what the operator drew.
    """
    return {NAME: Cell(lambda op: DaliOperator(op, kind, arguments), reads)}


PIL_ONLY = {NAME: Cell(lambda op: None, {}, lambda op: "DALI's class takes PIL images only, one by one, and no batches")}
"""Cell of an op whose class takes interleaved images."""


def draw_seed() -> int:
    """Draw a seed for a graph from PyTorch's generator."""
    return int(torch.randint(2**31 - 1, ()))


@contextlib.contextmanager
def without_stream() -> Iterator[None]:
    """Answer None where DALI asks for a stream on a machine without CUDA."""
    if torch.cuda.is_available():
        yield
    else:
        with mock.patch.object(torch.cuda, "current_stream", return_value=None):
            yield


def build_graph(operators: Sequence[Any], images: Tensor, seed: int) -> Callable[[Tensor], Any]:
    """Return a ``Compose`` for batches of this many images at most."""
    device = images.device.index or 0 if images.is_cuda else None
    options = {"batch_size": len(images), "num_threads": torch.get_num_threads(), "device_id": device, "seed": seed}
    graph: Callable[[Tensor], Any] = library().Compose(operators, **options)
    return graph


def run_composed(steps: Sequence[Step]) -> Runner:
    """Return a runner of all ops as one graph, which is built for every type and number of images."""
    return run_operators([cast(DaliOperator, step.apply) for step in steps])


def run_operators(operators: Sequence[DaliOperator]) -> Runner:
    """Return a runner of the operators: as one graph, or as a graph of each if one is watched."""
    runs: dict[Any, Callable[[Tensor], Tensor]] = {}

    def run(images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        images = (images if images.dtype == torch.uint8 else images.to(torch.float32)).contiguous()
        is_watched = any(operator.watched for operator in operators)
        for operator in operators:
            operator.op.output_size(*images.shape[2:])  # a ValueError for images that are too small
        with without_stream():
            for index, group in enumerate([[operator] for operator in operators] if is_watched else [operators]):
                key = (index, images.device, images.dtype, len(images))
                if group and key not in runs:
                    seed = draw_seed()
                    built = [operator.build(images) for operator in group]
                    runs[key] = watch(group[0], built[0], images, seed) if is_watched else build_graph(built, images, seed)
                images = runs[key](images) if group else images
        return images, labels

    return run


# ---- what is drawn ----------------------------------------------------------------------------------------------------


@dataclass
class Outputs:
    """Last operator of a graph: adds the random numbers to its outputs."""

    device: str
    nodes: list[Any] = field(default_factory=list)

    def _invoke(self, data: Any) -> Any:
        return (data, *self.nodes)


def watch(operator: DaliOperator, built: Any, images: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
    """Return a graph of one operator that records what it draws: random numbers, and ramps through a graph of equal seed."""
    outputs = Outputs(built.device)
    graph = build_graph([built, outputs], images, seed)
    twin = build_graph([operator.build(images.float()), Outputs(built.device)], images, seed)
    dali = importlib.import_module("nvidia.dali")

    def keep(name: str) -> Callable[..., Any]:
        original = getattr(dali.fn.random, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            node = original(*args, **kwargs)
            outputs.nodes.append(node)
            return node

        return cast(Callable[..., Any], dali.pipeline.do_not_convert(call))

    def run(images: Tensor) -> Tensor:
        with contextlib.ExitStack() as stack:
            for name in RANDOM if not outputs.nodes else ():
                stack.enter_context(mock.patch.object(dali.fn.random, name, keep(name)))
            results = graph(images)
        result, *drawn = results if isinstance(results, tuple) else (results,)
        x, y = torch.meshgrid(*(torch.arange(float(side)) for side in reversed(images.shape[2:])), indexing="xy")
        ramps = twin(torch.stack([x, y, y]).to(images.device).expand(len(images), -1, -1, -1).contiguous())
        values = {"x": ramps[:, 0], "y": ramps[:, 1], **{str(i): value.flatten() for i, value in enumerate(drawn)}}
        operator.drawn = {name: value.cpu().numpy().astype(float) for name, value in values.items()}
        return result.clone()

    return run


def read_window(axis: str, *, extent: bool) -> Callable[[Mapping[str, Any]], np.ndarray]:
    """Return a read of where a resized window starts along an axis, or of its extent, in pixels."""

    def read(drawn: Mapping[str, Any]) -> np.ndarray:
        ramp = drawn[axis][:, 0] if axis == "x" else drawn[axis][:, :, 0]
        size = ramp.shape[1]
        first, last = size // 4, size - 1 - size // 4  # away from the borders, where the filter is cut
        step = (ramp[:, last] - ramp[:, first]) / (last - first)
        start = ramp[:, first] + 0.5 - (first + 0.5) * step
        return np.round(step * size if extent else start)

    return read


WINDOW: dict[str, Read] = {
    "top": read_window("y", extent=False), "left": read_window("x", extent=False),
    "height": read_window("y", extent=True), "width": read_window("x", extent=True),
}  # fmt: skip


class DaliOperatorRecorder(Recorder):
    """Record of what an operator drew."""

    def __init__(self, op: Op, operator: DaliOperator) -> None:
        self._op, self._operator = op, operator
        operator.watched = True

    def columns(self, count: int) -> Columns:
        cell: Cell = self._op.cells[NAME]
        drawn = self._operator.drawn
        applied = cell.read(["applied"], drawn)["applied"] > 0.5 if "applied" in cell.reads else np.ones(count, dtype=bool)
        return {"applied": applied, **cell.read(self._op.drawn_names, drawn)}

    def sample(self, count: int, shape: tuple[int, int]) -> Columns:
        # In parts: a graph holds several float copies of its batch, and ten thousand photographs do not fit into memory.
        run, images = run_operators([self._operator]), torch.zeros(SAMPLED, 3, *shape, dtype=torch.uint8)
        parts: list[Columns] = []
        for _ in range(0, count, SAMPLED):
            run(images, None)
            parts.append(self.columns(SAMPLED))
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}


BACKENDS = (
    StepBackend(
        name=NAME, library=NAME, lane="per_image", order=56, recorder=DaliOperatorRecorder, run_steps=run_composed,
        why_not=PACKAGE.why_not, forks=False, reseeds=False,
        about="DALI's API after torchvision's: one graph for the batch, a draw for each image",
    ),
)  # fmt: skip
