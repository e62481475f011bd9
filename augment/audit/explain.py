"""Causes of pixel differences: known other ways to do an op, tried on the draws that were measured."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from augment.audit.parity import CLOSE, EXACT, Call, errors_of
from augment.op import Op
from augment.pipeline import to_float
from augment.replay import rows_of

ISOLATED = 1e-4
BORDER = "border pixels (the blend with the black outside)"
EIGHT_BITS = "8-bit arithmetic"


def _on_bytes(op: Op, image: Tensor, drawn: Mapping[str, Any]) -> Tensor:
    """Apply the oracle to a uint8 image: what torchvision computes when it is handed bytes."""
    return op.oracle(image.mul(255).round_().to(torch.uint8), drawn) / 255


def alternatives(op: Op) -> dict[str, Callable[..., Tensor]]:
    """Return named other ways to do an op, 8-bit arithmetic among them where torchvision has the op for bytes."""
    return {**op.alternatives, **({} if "torchvision" in op.needs_float else {EIGHT_BITS: _on_bytes})}


def explain(op: Op, calls: Sequence[Call]) -> str:
    """Return the name of the other way that the backend's pixels agree with, by measurement; "" if none does.

    Each call knows the setting of the op that made it.
    """
    if any("ops" in call.columns for call in calls):
        return _explain_policy(calls)
    if op.mixes_labels or not calls:
        return ""
    for name, function in alternatives(op).items():
        # 8-bit results may land a step apart; what is left must be rounding
        if all(float(draw.error.max()) <= EXACT for draw in _draws(calls, function)):
            return name
    if op.warps:
        return BORDER if _differs_at_border(calls) else ""
    return _isolated(calls) if op.has_thresholds else ""


class Draw(NamedTuple):
    """One image of a call, and the error of its result in 1/255."""

    op: Op
    image: Tensor
    drawn: Mapping[str, Any]
    error: Tensor


def _oracle(op: Op, image: Tensor, drawn: Mapping[str, Any]) -> Tensor:
    return op.oracle(image, drawn)


def _draws(calls: Sequence[Call], function: Callable[..., Tensor] = _oracle) -> Iterator[Draw]:
    """Yield the errors of single images against a way to do the op."""
    for call in calls:
        for image, result, drawn in zip(to_float(call.images), call.results, rows_of(call.columns), strict=True):
            expected = function(call.op, image, drawn) if drawn["applied"] else image
            yield Draw(call.op, image, drawn, errors_of(result, expected, [call.op]))


def _isolated(calls: Sequence[Call]) -> str:
    """Return a cause if hardly any value differs: float32 in another order puts a value on the other side of a threshold."""
    errors = torch.cat([draw.error.flatten() for draw in _draws(calls)])
    off, values = int((errors > EXACT).sum()), len(errors)
    return f"{off} of {values} values, as rounding beside a threshold makes" if off <= ISOLATED * values else ""


def _differs_at_border(calls: Sequence[Call]) -> bool:
    """Return whether the error inside the warped frame is rounding: where a white image stays white under the oracle."""
    inside = [
        draw.error[draw.op.oracle(torch.ones_like(draw.image), draw.drawn) > 1 - 1e-4]
        for draw in _draws(calls)
        if draw.drawn["applied"]
    ]
    errors = torch.cat([torch.empty(0), *inside])
    return len(errors) > 0 and float(errors.mean()) <= CLOSE and float(errors.max()) <= 3


def _explain_policy(calls: Sequence[Call]) -> str:
    """Name the policy's entries whose pixels differ, from images that got exactly one that is not the identity."""
    by_name = defaultdict[str, list[Tensor]](list)
    for draw in _draws(calls):
        names = [name for name, _ in draw.drawn["ops"] if name != "Identity"]
        if len(names) == 1:
            by_name[names[0]].append(draw.error.flatten())
    errors = {name: torch.cat(by_name[name]) for name in sorted(by_name)}
    off = [f"{name} (mean {e.mean():.2g}, max {e.max():.3g})" for name, e in errors.items() if e.max() > EXACT]
    return f"pixels differ in {', '.join(off)}" if off else _isolated(calls)
