"""Reading back what a backend drew: each backend records its draws as columns of numbers for ``augment.audit``.

Columns are named as the parameters of ``augment.distributions``, in the units of ``augment.ops``. What a batch looks up in
tables is recorded as its meaning: policies as ``ops``, a list of (name, magnitude) for each image; AugMix as ``chains``, a list
of such lists, and ``weights`` (of the image, then of the chains). A jitter has its factors by name, and ``order``; mixing ops
have ``partner``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from augment.pipeline import Pipeline

Columns = dict[str, np.ndarray]
"""Draws by name, one entry for each image: numbers, small arrays, or lists. ``applied`` (bool) is always there."""


class NoRoute(LookupError):
    """The parameters that a backend drew cannot be read."""


class Recorder(Protocol):
    """Record of what one built op draws."""

    draws_singly: bool
    """True if the library draws once per batch, so each independent draw costs a call."""

    def clear(self) -> None:
        """Discard what was recorded."""

    def columns(self, count: int) -> Columns:
        """Return the draws of ``count`` images since ``clear``, in the order of the images."""

    def sample(self, count: int, shape: tuple[int, int]) -> Columns:
        """Return ``count`` independent draws for images of ``shape`` (height, width), without transforming any."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Results of one call, and the draws of each op (None where they cannot be read)."""

    outputs: Tensor
    targets: Tensor | None
    columns: tuple[Columns | None, ...]


@dataclass(frozen=True)
class Traced:
    """A pipeline as ``augment.build`` makes it, with a recorder on each op (None, and a reason, where there is no route)."""

    pipeline: "Pipeline"
    recorders: Sequence[Recorder | None]
    reasons: Sequence[str] = ()

    def __call__(self, images: Tensor, labels: Tensor | None = None) -> Trace:
        for recorder in self.recorders:
            if recorder is not None:
                recorder.clear()
        if labels is None:
            outputs, targets = self.pipeline(images), None
        else:
            outputs, targets = self.pipeline(images, labels)
        columns = tuple(None if recorder is None else recorder.columns(len(images)) for recorder in self.recorders)
        return Trace(outputs=outputs, targets=targets, columns=columns)


def stack_draws(draws: Sequence[Mapping[str, Any]]) -> Columns:
    """Return draws of single images as columns; parameters that an image did not draw are NaN (None for lists)."""
    full = next((draw for draw in draws if draw["applied"]), draws[0])
    columns: Columns = {}
    for name, example in full.items():
        values = [draw.get(name) for draw in draws]
        if isinstance(example, list):
            columns[name] = np.empty(len(draws), dtype=object)
            columns[name][:] = values
        else:
            blank = np.full(np.shape(example), np.nan)
            columns[name] = np.array([blank if value is None else value for value in values])
    columns["applied"] = columns["applied"].astype(bool)
    return columns


def rows_of(columns: Columns) -> list[dict[str, Any]]:
    """Return columns as one mapping for each image."""
    return [{name: values[i] for name, values in columns.items()} for i in range(len(columns["applied"]))]
