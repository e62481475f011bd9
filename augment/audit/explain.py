"""Why pixels differ: known other ways to do an op, tried on the draws that were measured."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from augment.audit.columns import POLICIES, rows_of
from augment.audit.oracle import ORACLES, alternatives, oracle
from augment.audit.parity import CLOSE, EXACT, Errors, Kept, unit
from augment.compose import to_float
from augment.ops import Op

ISOLATED = 1e-4
WITH_THRESHOLDS = frozenset({"Solarize", "Posterize", "Equalize", "AugMix"})
BORDER = "border pixels (the blend with the black outside)"


def _single_draws(kept: Sequence[Kept]) -> Iterator[tuple[Op, Tensor, Tensor, dict[str, Any]]]:
    for one in kept:
        for image, got, draw in zip(to_float(one.images), one.results, rows_of(one.columns), strict=True):
            yield one.op, image, got, draw


def explain(op: Op, kept: Sequence[Kept]) -> str:
    """The name of the known other way that the backend's pixels agree with, by measurement; "" where none does.

    ``kept`` holds the draws, each with the setting of the op that made it.
    """
    if op.name in POLICIES:
        return _explain_policy(kept)
    if op.name not in ORACLES:
        return ""
    for name, other in alternatives(op).items():
        errors = Errors()
        for setting, image, got, draw in _single_draws(kept):
            wanted = other(setting, image, draw) if draw["applied"] else image
            errors.add((got - wanted)[None].abs() / unit([op]))
        # 8-bit results may land a step apart; what is left must be rounding
        if errors.values and errors.largest <= EXACT:
            return name
    if op.name in {"Rotate", "Affine", "Perspective"}:
        return BORDER if _only_border(kept) else ""
    return _isolated(kept) if op.name in WITH_THRESHOLDS else ""


def _isolated(kept: Sequence[Kept]) -> str:
    """Whether hardly any value differs: float32 in another order puts a value on the other side of a threshold."""
    off = values = 0
    for setting, image, got, draw in _single_draws(kept):
        error = (got - oracle(setting, image, draw)).abs() * 255
        off += int((error > EXACT).sum())
        values += error.numel()
    return f"{off} of {values} values, as rounding beside a threshold makes" if off <= ISOLATED * values else ""


def _only_border(kept: Sequence[Kept]) -> bool:
    """Whether the error inside the warped frame is rounding: where a white image stays white under the oracle."""
    errors = Errors()
    for setting, image, got, draw in _single_draws(kept):
        if draw["applied"]:
            inside = oracle(setting, torch.ones_like(image), draw) > 1 - 1e-4
            if inside.any():
                errors.add(((got - oracle(setting, image, draw)).abs()[inside] * 255)[None])
    return errors.values > 0 and errors.mean <= CLOSE and errors.largest <= 3


def _explain_policy(kept: Sequence[Kept]) -> str:
    """The policy's entries whose pixels differ, from images that got exactly one that is not the identity."""
    by_name: dict[str, Errors] = {}
    for setting, image, got, draw in _single_draws(kept):
        names = [name for name, _ in draw["ops"] if name != "Identity"]
        if len(names) == 1:
            by_name.setdefault(names[0], Errors()).add((got - oracle(setting, image, draw))[None].abs() * 255)
    off = {name: errors for name, errors in sorted(by_name.items()) if errors.largest > EXACT}
    entries = ", ".join(f"{name} (mean {errors.mean:.2g}, max {errors.largest:.3g})" for name, errors in off.items())
    return f"pixels differ in {entries}" if entries else _isolated(kept)
