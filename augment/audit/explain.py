"""Causes of pixel differences: known other ways to do an op, tried on the draws that were measured."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from augment.audit.parity import CLOSE, EXACT, Draw, errors_of
from augment.op import Op

ISOLATED = 1e-4
BORDER = "border pixels (the blend with the black outside)"
EIGHT_BITS = "8-bit arithmetic"


def _on_bytes(op: Op, image: Tensor, drawn: Mapping[str, Any]) -> Tensor:
    """Apply the oracle to a uint8 image: what torchvision computes when it is handed bytes."""
    return op.oracle(image.mul(255).round_().to(torch.uint8), drawn) / 255


def explain(draws: Sequence[Draw]) -> str:
    """Return the name of the other way to do an op that its pixels agree with, by measurement; "" if none does.

    Each draw knows the setting of the op that made it.
    """
    if any("ops" in draw.drawn for draw in draws):
        return _explain_policy(draws)
    if not draws or (op := draws[0].op).mixes_labels:
        return ""
    on_bytes = {} if "torchvision" in op.needs_float else {EIGHT_BITS: _on_bytes}
    for name, function in {**op.alternatives, **on_bytes}.items():
        # 8-bit results may land a step apart; what is left must be rounding
        if all(float(error.max()) <= EXACT for error in _errors(draws, function)):
            return name
    if op.warps:
        return BORDER if _differs_at_border(draws) else ""
    return explain_isolated(list(_errors(draws))) if op.has_thresholds else ""


def _oracle(op: Op, image: Tensor, drawn: Mapping[str, Any]) -> Tensor:
    return op.oracle(image, drawn)


def _errors(draws: Sequence[Draw], function: Callable[..., Tensor] = _oracle) -> Iterator[Tensor]:
    """Yield the errors of single images in 1/255 against a way to do the op."""
    for op, image, result, drawn in draws:
        yield errors_of(result, function(op, image, drawn) if drawn["applied"] else image, [op])


def explain_isolated(errors: Sequence[Tensor]) -> str:
    """Return a cause if hardly any value differs: float32 in another order puts a value on the other side of a threshold."""
    off, values = sum(int((error > EXACT).sum()) for error in errors), sum(error.numel() for error in errors)
    return f"{off} of {values} values, as rounding beside a threshold makes" if off <= ISOLATED * values else ""


def _differs_at_border(draws: Sequence[Draw]) -> bool:
    """Return whether the error inside the warped frame is rounding: where a white image stays white under the oracle."""
    applied = [draw for draw in draws if draw.drawn["applied"]]
    inside = [_oracle(op, torch.ones_like(image), drawn) > 1 - 1e-4 for op, image, _, drawn in applied]
    errors = torch.cat([torch.empty(0), *(error[frame] for error, frame in zip(_errors(applied), inside, strict=True))])
    return len(errors) > 0 and float(errors.mean()) <= CLOSE and float(errors.max()) <= 3


def _explain_policy(draws: Sequence[Draw]) -> str:
    """Name the policy's entries whose pixels differ, from images that got exactly one that is not the identity."""
    by_name = defaultdict[str, list[Tensor]](list)
    for draw, error in zip(draws, _errors(draws), strict=True):
        names = [name for name, _ in draw.drawn["ops"] if name != "Identity"]
        if len(names) == 1:
            by_name[names[0]].append(error.flatten())
    errors = {name: torch.cat(by_name[name]) for name in sorted(by_name)}
    off = [f"{name} (mean {e.mean():.2g}, max {e.max():.3g})" for name, e in errors.items() if e.max() > EXACT]
    return f"pixels differ in {', '.join(off)}" if off else explain_isolated(list(_errors(draws)))
