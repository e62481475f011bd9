"""Parity: the same parameters through a backend and through the oracle on the CPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from augment.audit.record import Class, Parity
from augment.op import Op
from augment.ops.mixing import MixingOp
from augment.pipeline import to_float
from augment.replay import Columns, Traced, rows_of

EXACT = 1.0 + 1e-3
"""Largest error of ``exact`` in 1/255. The thousandth is float32's: a rounding difference of a full step must stay inside."""
CLOSE = 1.0
ROUNDING = 2.0
"""Largest mean error in 1/255 that bytes between a recipe's ops may cause: half a step for each of four or five ops."""
TARGETS = 1e-4
"""Largest error of a label's weight; float32 arithmetic stays below 1e-6."""
NUM_CLASSES = 10


def classify(parity: Sequence[Parity]) -> Class:
    """Return the class of the worst setting and size, before any cause is looked for.

    The mean that decides on ``close`` is taken over photographs and noise together.
    """
    if any(p.target_error > TARGETS for p in parity):
        return "different"
    if all(p.max_error <= EXACT for p in parity):
        return "exact"
    return "close" if worst_mean(parity) <= CLOSE else "different"


def worst_mean(parity: Sequence[Parity]) -> float:
    """Return the largest mean error of any size and setting, images of all kinds together."""
    groups: dict[tuple[int, str], list[Parity]] = {}
    for measured in parity:
        groups.setdefault((measured.size, measured.setting), []).append(measured)
    return max(sum(p.mean_error * p.draws for p in group) / sum(p.draws for p in group) for group in groups.values())


def is_normalised(ops: Sequence[Op]) -> bool:
    """Return whether results are divided by a standard deviation."""
    return any(hasattr(op, "std") for op in ops)


def unit(ops: Sequence[Op]) -> Tensor:
    """Return what 1/255 of an image's scale becomes after the ops: 1/255, divided by std once normalised. [3, 1, 1]."""
    std = next((op.std for op in ops if hasattr(op, "std")), (1.0, 1.0, 1.0))
    return 1 / (255 * torch.tensor(std)).view(3, 1, 1)


def apply_oracles(
    ops: Sequence[Op], images: Tensor, labels: Tensor | None, columns: Sequence[Columns | None]
) -> tuple[Tensor, Tensor | None]:
    """Return images and targets of the oracles, op after op, for a batch of float images on the CPU."""
    targets = labels
    for op, drawn in zip(ops, columns, strict=True):
        assert drawn is not None
        draws = rows_of(drawn)
        if isinstance(op, MixingOp):
            assert labels is not None
            images, targets = op.mix_oracle(images, labels, draws, NUM_CLASSES)
        else:
            images = torch.stack(
                [op.oracle(image, draw) if draw["applied"] else image for image, draw in zip(images, draws, strict=True)]
            )
    return images, targets


def labels_for(traced: Traced, count: int, device: torch.device) -> Tensor | None:
    """Return labels [count] where the pipeline mixes them."""
    return torch.arange(count, device=device) % NUM_CLASSES if traced.pipeline.mixes else None


class Draw(NamedTuple):
    """One image through one op: float image and result, and the drawn parameters, all on the CPU."""

    op: Op
    image: Tensor
    result: Tensor
    drawn: Mapping[str, Any]


@dataclass
class Replay:
    """Absolute errors of one setting in 1/255, and the draws of single ops, on which explanations are tried."""

    errors: list[Tensor] = field(default_factory=list)
    target_errors: list[float] = field(default_factory=list)
    draws: list[Draw] = field(default_factory=list)

    def parity(self, images: str, size: int, setting: str) -> Parity:
        """Return the largest and the mean error over all draws."""
        values = torch.cat([error.flatten() for error in self.errors]).double()
        return Parity(
            images=images, size=size, setting=setting, draws=sum(map(len, self.errors)), max_error=float(values.max()),
            mean_error=float(values.mean()), target_error=max(self.target_errors, default=0.0),
        )  # fmt: skip


def errors_of(result: Tensor, expected: Tensor, ops: Sequence[Op]) -> Tensor:
    """Return absolute errors of images [..., 3, H, W] in 1/255; what is no number is as wrong as can be."""
    return ((result - expected).abs() / unit(ops)).nan_to_num(nan=255.0, posinf=255.0)


def replay(
    traced: Traced, images: Tensor, device: torch.device, *, calls: int = 1, into: Replay | None = None,
    draw: Mapping[str, float] | None = None, as_bytes: bool = False,
) -> Replay:  # fmt: skip
    """Put ``calls`` batches through the backend on ``device`` and through the oracle on the CPU.

    Args:
        traced: the backend's pipeline.
        images: uint8 [N, 3, H, W], cut into equal batches.
        device: where the backend runs.
        calls: number of batches.
        into: collects the errors of several pipelines.
        draw: parameters of every image, which need not be read from the backend.
        as_bytes: hand the backend uint8 as training does, else float.
    """
    result = into or Replay()
    ops = traced.pipeline.ops
    for batch in images.cpu().chunk(calls):
        labels = labels_for(traced, len(batch), torch.device("cpu"))
        floats = to_float(batch)
        trace = traced((batch if as_bytes else floats).to(device, copy=True), None if labels is None else labels.to(device))
        columns = trace.columns
        if draw is not None:
            columns = ({name: np.full(len(batch), value) for name, value in draw.items()},)
        expected, expected_targets = apply_oracles(ops, floats, labels, columns)
        outputs = trace.outputs.cpu()
        if outputs.shape != expected.shape:
            result.errors.append(torch.full((len(batch), 1), 255.0))
            continue
        result.errors.append(errors_of(outputs, expected, ops))
        if trace.targets is not None and expected_targets is not None:
            result.target_errors.append(float((trace.targets.cpu() - expected_targets).abs().nan_to_num(nan=1.0).max()))
        if len(ops) == 1 and columns[0] is not None:
            result.draws += [Draw(ops[0], *row) for row in zip(floats, outputs, rows_of(columns[0]), strict=True)]
    return result
