"""Replay: run a backend and learn which parameters each image of the batch got.

Each library has its own route (``replay_torchvision``, ``replay_kornia``, ``replay_fused``, ``replay_triton_augment``).
``TRACERS`` maps a library to its route, so a new library is one adapter. Where there is no route, ``NoRoute`` is raised and the
audit says ``unaudited``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from augment import catalog
from augment.audit.columns import NoRoute, Recorder
from augment.audit.replay_fused import trace_fused
from augment.audit.replay_kornia import KorniaRecorder
from augment.audit.replay_torchvision import torchvision_recorder
from augment.audit.replay_triton_augment import trace_triton_augment
from augment.audit.traced import Traced
from augment.compose import Pipeline, Step
from augment.ops import Op

RECORDERS: dict[str, Callable[[Op, Any], Recorder]] = {
    "pil": torchvision_recorder,
    "torchvision": torchvision_recorder,
    "kornia": KorniaRecorder,
}


def trace_steps(ops: Sequence[Op], backend: str, *, device: torch.device, num_classes: int) -> Traced:
    """The route of libraries that are built op by op."""
    chosen = catalog.find_backend(backend)
    catalog.check_supported(ops, backend)
    steps: list[Step] = [catalog.build_step(op, chosen.library, device, num_classes) for op in ops]
    run = chosen.compose(steps)
    recorders: list[Recorder | None] = []
    reasons: list[str] = []
    for op, step in zip(ops, steps, strict=True):
        try:
            recorders.append(RECORDERS[chosen.library](op, step.apply))
        except NoRoute as problem:
            recorders.append(None)
            reasons.append(str(problem))
    pipeline = Pipeline(
        ops=ops,
        backend=backend,
        draws=catalog.lane(ops, backend),
        mixes=any(step.mixes_labels for step in steps),
        run=run,
        dtype=torch.float32,
    )
    return Traced(pipeline, recorders, reasons)


TRACERS: dict[str, Callable[..., Traced]] = {
    "pil": trace_steps,
    "torchvision": trace_steps,
    "kornia": trace_steps,
    "fused": trace_fused,
    "triton_augment": trace_triton_augment,
}
"""Library -> how to watch its pipelines. A new library's adapter goes here."""


def trace(ops: Sequence[Op], backend: str, *, device: str | torch.device = "cpu", num_classes: int = 10) -> Traced:
    """A watched pipeline. Raises UnsupportedOp as ``build`` does, NoRoute for a library without a route."""
    chosen = catalog.find_backend(backend)
    if chosen.library not in TRACERS:
        raise NoRoute(f"no replay route for library {chosen.library}")
    if chosen.compiled:
        torch.compiler.reset()  # pipelines share code, and past eight compilations of it dynamo would run eager in silence
    return TRACERS[chosen.library](ops, backend, device=torch.device(device), num_classes=num_classes)
