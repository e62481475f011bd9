"""What a training step leaves to count: loss and hits, kept on the device until the epoch has ended."""

import math

import torch
from torch import Tensor

from training.distributed import Ranks


def hits(logits: Tensor, targets: Tensor) -> Tensor:
    """Which images [B] the largest logit got right: against the label, or the largest of soft targets [B, C]."""
    return logits.argmax(1) == (targets.argmax(1) if targets.ndim == 2 else targets)


class Totals:
    """Loss and hits of an epoch.

    A step costs two small kernels: its loss is kept as it is, a number on the device, beside its hits, and all are summed when
    they are read, the loss in float64. So it is known afterwards which step had the first loss that is not finite. (Labels are
    not kept to be compared later: those of a loader worker hold a file open.)
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._hits: list[Tensor] = []

    def add(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Take note of a step: its mean loss, logits [B, C], and labels [B] or soft targets [B, C]."""
        self._losses.append(loss.detach())
        self._hits.append(hits(logits.detach(), targets))

    def read(self, ranks: Ranks) -> tuple[float, float, int]:
        """(mean loss, share of hits, examples) over all ranks; waits for the device."""
        sizes = torch.tensor([len(step) for step in self._hits], dtype=torch.float64)
        total = float(torch.stack(self._losses).cpu().double() @ sizes)
        loss, right, examples = ranks.total(total, int(torch.cat(self._hits).sum()), float(sizes.sum()))
        return loss / examples, right / examples, round(examples)

    def first_not_finite(self, ranks: Ranks) -> int | None:
        """The first step, counted from 1, whose loss was not finite on any rank; None where there is none."""
        bad = torch.stack(self._losses).cpu().isfinite().logical_not().nonzero()
        mine = float(bad[0]) + 1 if len(bad) else math.inf
        (earliest,) = ranks.largest(-mine)
        return None if math.isinf(earliest) else round(-earliest)
