"""Settings without randomness, whose draws are known from the op alone: nothing is read from the backend."""

import dataclasses
from typing import Any

import numpy as np

from augment.audit.columns import DRAWN_AS, Columns
from augment.ops import Op


def pinned_draw(op: Any, shape: tuple[int, int]) -> dict[str, Any] | None:
    """The draw of an op without randomness, from the op alone; None where it is random."""
    ranges = [value for value in dataclasses.astuple(op) if isinstance(value, tuple) and len(value) == 2]
    if getattr(op, "p", 1.0) != 1.0 or (op.name not in {"Affine"} and any(low != high for low, high in ranges)):
        return None
    height, width = shape
    name = DRAWN_AS.get(op.name, op.name)
    known: dict[str, dict[str, Any]] = {
        "RandomCrop": {"top": 0, "left": 0},
        "RandomResizedCrop": {"top": 0, "left": 0, "height": height, "width": width},
        "Rotate": {"angle": getattr(op, "degrees", (0,))[0]},
        "GaussianBlur": {"sigma": getattr(op, "sigma", (0,))[0]} if op.name == "GaussianBlur" else {},
    }
    if name in {"Brightness", "Contrast", "Saturation", "Hue"}:
        return {"applied": True, "factor": op.low} if op.low == op.high else None
    if op.name == "Affine":
        pinned = op.degrees[0] == op.degrees[1] and op.translate == (0.0, 0.0) and op.scale[0] == op.scale[1]
        draw = {"applied": True, "angle": op.degrees[0], "dx": 0, "dy": 0, "scale": op.scale[0], "shear": op.shear[0]}
        return draw if pinned and op.shear[0] == op.shear[1] else None
    return {"applied": True, **known.get(name, {})}


def pinned_columns(op: Op, shape: tuple[int, int], count: int) -> Columns | None:
    """``pinned_draw`` for a batch."""
    draw = pinned_draw(op, shape)
    return None if draw is None else {name: np.full(count, value) for name, value in draw.items()}
