"""Parity: the same parameters through a backend and through the oracle."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from augment.audit.columns import MIXES, Columns, rows_of
from augment.audit.oracle import mix_oracle, oracle
from augment.audit.traced import Traced
from augment.audit.verdicts import Class, Parity
from augment.compose import to_float
from augment.ops import Normalize, Op

EXACT = 1.0 + 1e-3
"""Largest error of ``exact`` in 1/255. The thousandth is float32's: a rounding difference of a full step must stay inside."""
CLOSE = 1.0
ROUNDING = 2.0
"""Largest mean error in 1/255 that bytes between a recipe's ops may cause: half a step for each of four or five ops."""
TARGETS = 1e-4
"""Largest error of a label's weight; float32 arithmetic stays below 1e-6."""
NUM_CLASSES = 10


@dataclass
class Errors:
    """Absolute errors in 1/255 as they come in; sums in double precision."""

    largest: float = 0.0
    total: float = 0.0
    values: int = 0
    targets: float = 0.0
    draws: int = 0

    def add(self, error: Tensor) -> None:
        error = error.nan_to_num(nan=255.0, posinf=255.0)  # as wrong as can be
        self.largest = max(self.largest, float(error.max()))
        self.total += float(error.double().sum())
        self.values += error.numel()
        self.draws += len(error)

    @property
    def mean(self) -> float:
        return self.total / max(self.values, 1)

    def parity(self, images: str, size: int, setting: str) -> Parity:
        return Parity(
            images=images, size=size, setting=setting, draws=self.draws, max_error=self.largest, mean_error=self.mean,
            target_error=self.targets,
        )  # fmt: skip


def classify(parity: Sequence[Parity]) -> Class:
    """The class that the worst setting and size deserve, before any cause is looked for.

    The mean that decides on ``close`` is taken over photographs and noise together.
    """
    if any(p.target_error > TARGETS for p in parity):
        return "different"
    if all(p.max_error <= EXACT for p in parity):
        return "exact"
    return "close" if all(mean <= CLOSE for mean in means(parity)) else "different"


def means(parity: Sequence[Parity]) -> list[float]:
    """The mean errors of each size and setting, images of all kinds together."""
    together: dict[tuple[int, str], list[Parity]] = {}
    for measured in parity:
        together.setdefault((measured.size, measured.setting), []).append(measured)
    return [sum(p.mean_error * p.draws for p in group) / sum(p.draws for p in group) for group in together.values()]


def unit(ops: Sequence[Op]) -> Tensor:
    """What 1/255 of an image's scale becomes after the ops: 1/255, divided by std once normalised. [3, 1, 1]."""
    std = next((op.std for op in ops if isinstance(op, Normalize)), (1.0, 1.0, 1.0))
    return 1 / (255 * torch.tensor(std)).view(3, 1, 1)


def expected(
    ops: Sequence[Op], images: Tensor, labels: Tensor | None, columns: Sequence[Columns | None]
) -> tuple[Tensor, Tensor | None]:
    """The oracle's result for a batch of float images, op after op."""
    targets: Tensor | None = labels
    for op, drawn in zip(ops, columns, strict=True):
        assert drawn is not None
        draws = rows_of(drawn)
        if op.name in MIXES:
            assert labels is not None
            images, targets = mix_oracle(op, images, labels, draws, NUM_CLASSES)
        else:
            images = torch.stack([oracle(op, image, draw) for image, draw in zip(images, draws, strict=True)])
    return images, targets


def labels_for(traced: Traced, count: int, device: torch.device) -> Tensor | None:
    """Labels where the pipeline wants them."""
    return torch.arange(count, device=device) % NUM_CLASSES if traced.pipeline.mixes else None


@dataclass(frozen=True)
class Kept:
    """One call of one op: uint8 images, the float results and what was drawn."""

    op: Op
    images: Tensor
    results: Tensor
    columns: Columns


@dataclass
class Replay:
    """One setting's errors, and the draws that made them, so that other explanations can be tried."""

    errors: Errors = field(default_factory=Errors)
    kept: list[Kept] = field(default_factory=list)


def replay(
    traced: Traced, images: Tensor, *, calls: int, into: Replay | None = None, known: Columns | None = None,
    as_bytes: bool = False,
) -> Replay:  # fmt: skip
    """``calls`` batches through the backend and the oracle. ``images``: uint8 [N, 3, H, W], cut into equal batches.

    ``into`` collects several pipelines' errors; ``known`` are parameters that need not be read; ``as_bytes`` hands the
    backend uint8 as training does, else float.
    """
    result = into or Replay()
    ops = traced.pipeline.ops
    scale = unit(ops).to(images.device)
    for batch in images.chunk(calls):
        labels = labels_for(traced, len(batch), batch.device)
        traced_call = traced(batch if as_bytes else to_float(batch), labels)
        columns = traced_call.columns if known is None else ({n: v[: len(batch)] for n, v in known.items()},)
        wanted, targets = expected(ops, to_float(batch).cpu(), None if labels is None else labels.cpu(), columns)
        got = traced_call.outputs.cpu()
        if got.shape != wanted.shape:
            result.errors.add(torch.full((len(batch), 1), 255.0))  # another shape: as wrong as can be
            continue
        result.errors.add((got - wanted).abs() / scale.cpu())
        if targets is not None and traced.pipeline.mixes:
            assert traced_call.targets is not None
            off = float((traced_call.targets.cpu() - targets).abs().max())
            result.errors.targets = max(result.errors.targets, off)
        if len(ops) == 1 and columns[0] is not None:
            result.kept.append(Kept(ops[0], batch.cpu(), got, columns[0]))
    return result
