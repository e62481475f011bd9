"""``augment.fused``: torchvision's ops with a draw for each image, the recipe planned as a whole; eager and compiled.

It draws first and applies afterwards, so the recorder keeps what is handed from one to the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augment import fused
from augment.backends import Backend, PlanRecorder, check_supported
from augment.distributions import Choice, Distribution, Jitter, Params, Rectangle
from augment.op import Op
from augment.pipeline import Runner
from augment.policies import SPACES, UNSIGNED
from augment.replay import Columns, Traced


def _numbers(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()


def _read_chains(distribution: Distribution, params: Params, shape: tuple[int, int]) -> np.ndarray:
    """Return drawn ops, bins and signs [...] as lists of (op, magnitude), an object array without the last dimension."""
    space = SPACES[distribution.policy]
    tables = {op: scale(space.bins, *shape).tolist() for op, scale in space.magnitudes.items()}
    chosen, bins, negative = (params[key].cpu().numpy() for key in ("op", "bin", "negative"))
    has_identity = isinstance(distribution, Choice)  # elsewhere Identity marks a place where nothing happens
    chains = np.empty(chosen.shape[:-1], dtype=object)
    for index in np.ndindex(*chains.shape):
        drawn = [
            (space.names[op], bin, sign) for op, bin, sign in zip(chosen[index], bins[index], negative[index], strict=True)
        ]
        chains[index] = [
            (op, (-1.0 if sign and op not in UNSIGNED else 1.0) * tables[op][bin] + 0.0)
            for op, bin, sign in drawn
            if op != "Identity" or has_identity
        ]
    return chains


def read(op: Op, params: Params, count: int, shape: tuple[int, int]) -> Columns:
    """Return the parameters of one op, drawn for ``count`` images of ``shape``, as columns."""
    columns: Columns = {"applied": np.ones(count, dtype=bool)}
    policy = next((distribution for distribution in op.draws if distribution.policy), None)
    if policy is not None:
        chains = _read_chains(policy, params, shape)
        if chains.ndim == 1:
            return {**columns, "ops": chains}
        grouped = np.empty(count, dtype=object)
        grouped[:] = [list(row) for row in chains]
        return {**columns, "chains": grouped, "weights": _numbers(params["weights"])}
    columns |= {name: _numbers(values) for name, values in params.items()}
    columns["applied"] = columns["applied"].astype(bool)
    for distribution in op.draws:
        if isinstance(distribution, Rectangle):
            columns["applied"] = columns["height"] > 0
        if isinstance(distribution, Jitter):
            columns |= dict(zip(distribution.fields, columns.pop("factors").T, strict=True))
    if op.mixes_labels:
        columns["partner"] = np.roll(np.arange(count), 1)
    return columns


def _recorder(op: Op, device: torch.device) -> PlanRecorder:
    def draw(count: int, shape: tuple[int, int]) -> Any:
        return fused.plan([op]).sample(count, *shape, device=device)[0], shape

    return PlanRecorder(lambda call, count: read(op, call[0], count, call[1]), draw)


@dataclass(frozen=True, kw_only=True)
class FusedBackend(Backend):
    """A backend that plans a recipe as a whole; ops say by ``fused`` how it does them."""

    def cell(self, op: Op) -> Any:
        return op.fused

    def refuses(self, op: Op) -> str | None:
        return None

    def compose(self, ops: Sequence[Op], **options: Any) -> Runner:
        return fused.compose(ops, compile=self.compiled, **options)

    def trace(self, ops: Sequence[Op], *, device: torch.device, num_classes: int) -> Traced:
        check_supported(ops, self.name)
        plan = fused.plan(ops)
        execute = plan.run if self.compiled else fused.prepare_run(plan, device, torch.float32)[0]
        recorders = [_recorder(op, device) for op in ops]

        def run(images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
            height, width = images.shape[2:]
            params = plan.sample(len(images), height, width, None, images.device)
            for op, recorder, drawn in zip(ops, recorders, params, strict=True):
                recorder.call = drawn, (height, width)
                height, width = op.output_size(height, width)
            targets = None if labels is None else plan.targets(labels, params, num_classes)
            return execute(images, params)[0], targets

        return Traced(self.pipeline(ops, run), recorders)


BACKENDS = (
    FusedBackend(
        name="fused", library="fused", lane="per_image", order=80,
        about="ours: torchvision's ops with a draw for each image, the recipe planned as a whole",
    ),
    FusedBackend(
        name="fused_compiled", library="fused", lane="per_image", order=90, compiled=True,
        about="the fused backend through torch.compile",
    ),
)  # fmt: skip
