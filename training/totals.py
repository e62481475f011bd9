"""What a training step leaves to count, kept on the device until the epoch has ended; and an eye on the losses meanwhile."""

import math

import torch
from torch import Tensor

from training.distributed import Ranks

LOOK_EVERY = 10  # steps; a look is a handful of small kernels, with several processes an exchange of one number


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

    def any_not_finite(self, steps: int) -> Tensor:
        """Whether a loss of the last so many steps is not finite: 1 or 0, on the device."""
        return torch.stack(self._losses[-steps:]).isfinite().logical_not().any().float()

    def first_not_finite(self, ranks: Ranks) -> int | None:
        """The first step, counted from 1, whose loss was not finite on any rank; None where there is none."""
        bad = torch.stack(self._losses).cpu().isfinite().logical_not().nonzero()
        mine = float(bad[0]) + 1 if len(bad) else math.inf
        (earliest,) = ranks.largest(-mine)
        return None if math.isinf(earliest) else round(-earliest)


class Watch:
    """Tells within twice ``LOOK_EVERY`` steps that the loss of a step was not finite on a rank, to all ranks at the same step.

    The device is never waited for at the step at hand: on CUDA the answer of a look travels to the host beside the training,
    and is read at the next look, when it has long come unless the host is more than ``LOOK_EVERY`` steps ahead. Elsewhere it
    is read at once, which on a CPU costs nothing.
    """

    def __init__(self, totals: Totals, ranks: Ranks) -> None:
        self._totals, self._ranks, self._steps = totals, ranks, 0
        self._asked: tuple[Tensor, torch.Event] | None = None

    def all_well(self) -> bool:
        """Asked after each step: False once a loss is known not to be finite."""
        self._steps += 1
        if self._steps % LOOK_EVERY:
            return True
        bad = self._ranks.sum(self._totals.any_not_finite(LOOK_EVERY))
        if bad.device.type != "cuda":
            return not bool(bad)
        before, self._asked = self._asked, _on_its_way(bad)
        if before is None:
            return True
        answer, arrived = before
        arrived.synchronize()
        return not bool(answer)


def _on_its_way(value: Tensor) -> tuple[Tensor, torch.Event]:
    """A number of the device in the host's memory, and the event after which it is there."""
    answer = torch.empty((), dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)
    arrived = torch.Event(value.device)
    arrived.record(torch.accelerator.current_stream(value.device))
    return answer, arrived
