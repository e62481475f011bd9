"""Drawn parameters as the audit handles them: a column a parameter, a row an image, in the units of ``augment.ops``."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

Columns = dict[str, np.ndarray]
"""What was drawn: name -> one entry an image (numbers, small arrays, or objects for policies); ``applied`` is always there."""


WITHOUT_PARAMETERS = frozenset(
    {"HorizontalFlip", "VerticalFlip", "Resize", "CenterCrop", "Grayscale", "Solarize", "Posterize", "Equalize", "AutoContrast"}
    | {"Invert", "Sharpness", "Normalize", "DefaultResize"}
)
"""Ops that draw nothing but whether they are applied."""
DRAWN_AS = {
    "DefaultRotate": "Rotate",
    "DefaultRandomResizedCrop": "RandomResizedCrop",
    "DefaultBrightness": "Brightness",
    "DefaultContrast": "Contrast",
    "DefaultSaturation": "Saturation",
}
"""Libraries' defaults -> the op that draws the same parameters by the same laws; what is done with them is another matter."""
POLICIES = frozenset({"AutoAugment", "RandAugment", "TrivialAugmentWide"})
MIXES = frozenset({"MixUp", "CutMix"})


class NoRoute(LookupError):
    """The parameters that a backend drew cannot be read."""


class Recorder(Protocol):
    """Attached to one built op: what it drew."""

    def clear(self) -> None:
        """Forget what was recorded."""

    def columns(self, count: int) -> Columns:
        """The draws of ``count`` images since ``clear``, in the order of the images."""

    def sample(self, count: int, shape: tuple[int, int], *, shared: bool) -> Columns:
        """``count`` independent draws for images of ``shape`` (height, width), without transforming any."""


def stack_draws(draws: Sequence[Mapping[str, Any]]) -> Columns:
    """Draws of single images to columns; what an image that is left alone has not drawn is NaN (None for objects)."""
    full = next((draw for draw in draws if draw["applied"]), draws[0])
    result: Columns = {}
    for name, example in full.items():
        values = [draw.get(name) for draw in draws]
        if isinstance(example, list):
            result[name] = np.empty(len(draws), dtype=object)
            result[name][:] = values
        else:
            blank = np.full(np.shape(example), np.nan)
            result[name] = np.array([blank if value is None else value for value in values])
    result["applied"] = result["applied"].astype(bool)
    return result


def rows_of(columns: Columns) -> list[dict[str, Any]]:
    """Columns to one mapping an image."""
    return [{name: values[i] for name, values in columns.items()} for i in range(len(columns["applied"]))]
