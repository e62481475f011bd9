"""What a row of the catalog is, and how a cell says that its library cannot do an op."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torchvision.transforms import v2

from augment.ops import Op

Library = Literal["pil", "torchvision", "kornia", "fused", "triton_augment"]
Draws = Literal["per_image", "per_batch", "mixed", "fixed"]
"""The lane: parameters drawn for each image, once a batch, some ops this and some that way, or nothing is drawn at all."""

BILINEAR = v2.InterpolationMode.BILINEAR
PIL_BORDER = "the border is not blended with the black outside"
PIL_POLICY = f"{PIL_BORDER}; 8-bit arithmetic"
PIL_HUE = "8-bit arithmetic, the hue on PIL's 8-bit wheel"


class UnsupportedOp(ValueError):
    """The backend has no such op (or not with these parameters, or not here); known before anything runs."""

    def __init__(self, op: str, backend: str, reason: str = "") -> None:
        super().__init__(f"{op} is not supported by backend {backend}" + (f": {reason}" if reason else ""))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One op of the catalog.

    ``at(image_size)`` is the benchmarked setting for square images of that side, ``pinned_at`` a setting without randomness on
    which all backends must agree (None where there is none). ``build`` maps a library to a builder of the op; builders of
    rows that mix labels take the number of classes as well. ``draws`` overrides a backend's lane where the library does not
    keep to it in this op, ``differs`` names known differences from the definition.
    """

    at: Callable[[int], Op]
    pinned_at: Callable[[int], Op] | None = None
    build: Mapping[Library, Callable[..., Any]]
    random: bool = True
    mixes_labels: bool = False
    needs_float: Collection[str] = ()
    draws: Mapping[Library, Draws] = field(default_factory=dict)
    differs: Mapping[Library, str] = field(default_factory=dict)


def torchvision(builder: Callable[..., Any]) -> dict[Library, Callable[..., Any]]:
    """Cells for PIL images and for tensors: torchvision's v2 classes take both."""
    return {"pil": builder, "torchvision": builder}
