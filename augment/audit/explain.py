"""Causes of pixel differences: known other ways to do an op, tried on the draws that were measured."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from augment.audit.parity import CLOSE, EXACT, Call, Errors, unit
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
    if op.mixes_labels:
        return ""
    for name, function in alternatives(op).items():
        errors = Errors()
        for setting, image, result, drawn in _single_draws(calls):
            expected = function(setting, image, drawn) if drawn["applied"] else image
            errors.add((result - expected)[None].abs() / unit([op]))
        # 8-bit results may land a step apart; what is left must be rounding
        if errors.values and errors.largest <= EXACT:
            return name
    if op.warps:
        return BORDER if _only_border(calls) else ""
    return _isolated(calls) if op.has_thresholds else ""


def _single_draws(calls: Sequence[Call]) -> Iterator[tuple[Op, Tensor, Tensor, dict[str, Any]]]:
    for call in calls:
        for image, result, drawn in zip(to_float(call.images), call.results, rows_of(call.columns), strict=True):
            yield call.op, image, result, drawn


def _expected(op: Op, image: Tensor, drawn: Mapping[str, Any]) -> Tensor:
    return op.oracle(image, drawn) if drawn["applied"] else image


def _isolated(calls: Sequence[Call]) -> str:
    """Return a cause if hardly any value differs: float32 in another order puts a value on the other side of a threshold."""
    off = values = 0
    for op, image, result, drawn in _single_draws(calls):
        error = (result - _expected(op, image, drawn)).abs() * 255
        off += int((error > EXACT).sum())
        values += error.numel()
    return f"{off} of {values} values, as rounding beside a threshold makes" if off <= ISOLATED * values else ""


def _only_border(calls: Sequence[Call]) -> bool:
    """Return whether the error inside the warped frame is rounding: where a white image stays white under the oracle."""
    errors = Errors()
    for op, image, result, drawn in _single_draws(calls):
        if drawn["applied"]:
            inside = op.oracle(torch.ones_like(image), drawn) > 1 - 1e-4
            if inside.any():
                errors.add(((result - op.oracle(image, drawn)).abs()[inside] * 255)[None])
    return errors.values > 0 and errors.mean <= CLOSE and errors.largest <= 3


def _explain_policy(calls: Sequence[Call]) -> str:
    """Name the policy's entries whose pixels differ, from images that got exactly one that is not the identity."""
    by_name: dict[str, Errors] = {}
    for op, image, result, drawn in _single_draws(calls):
        names = [name for name, _ in drawn["ops"] if name != "Identity"]
        if len(names) == 1:
            by_name.setdefault(names[0], Errors()).add((result - _expected(op, image, drawn))[None].abs() * 255)
    off = {name: errors for name, errors in sorted(by_name.items()) if errors.largest > EXACT}
    entries = ", ".join(f"{name} (mean {errors.mean:.2g}, max {errors.largest:.3g})" for name, errors in off.items())
    return f"pixels differ in {entries}" if entries else _isolated(calls)
