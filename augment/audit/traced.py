"""A pipeline that is watched while it runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from augment.audit.columns import Columns, Recorder
from augment.compose import Pipeline


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What came out of one call, and what each op drew for each image (None where it cannot be read)."""

    outputs: Tensor
    targets: Tensor | None
    columns: tuple[Columns | None, ...]


class Traced:
    """A pipeline as ``augment.build`` makes it, whose ops are watched."""

    def __init__(self, pipeline: Pipeline, recorders: Sequence[Recorder | None], reasons: Sequence[str]) -> None:
        self.pipeline = pipeline
        self.recorders = tuple(recorders)
        self.reasons = tuple(reason for reason in reasons if reason)

    def __call__(self, images: Tensor, labels: Tensor | None = None) -> Trace:
        for recorder in self.recorders:
            if recorder is not None:
                recorder.clear()
        targets: Tensor | None = None
        if labels is not None:
            outputs, targets = self.pipeline(images, labels)
        else:
            outputs = self.pipeline(images)
        columns = tuple(None if recorder is None else recorder.columns(len(images)) for recorder in self.recorders)
        return Trace(outputs=outputs, targets=targets, columns=columns)
