"""Meters of a training run: time of a step by phase, GPU power, FLOPs, and the losses and gradients kept on the device."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from training import models
from training.distributed import Ranks

T = TypeVar("T")
Moment = float | torch.Event
"""The host's clock in seconds on a CPU, else an event on the device's stream."""
Phase = Literal["copy", "augment", "forward_backward", "optimizer"]
PHASES: tuple[Phase, ...] = ("copy", "augment", "forward_backward", "optimizer")
"""Phases of a step in order; ``training.results.Throughput`` defines them."""
SAMPLE_INTERVAL_S = 0.1
"""NVML renews utilisation every 0.02 to 1 s, depending on the board."""
FLOP_IMAGES = 2
"""Batch norms refuse a single value a channel."""
LOOK_EVERY = 10  # steps; a look is a handful of small kernels, with several processes an exchange of one number

# ---- time ---------------------------------------------------------------------------------------------------------------


class StepClock:
    """Clock of the wait for batches inside an epoch and, with ``split``, the phases of its steps.

    On a CPU the wait is the time that the training process was blocked until it had the next batch: fetching, and augmenting
    where that happens in this process or in workers that are too slow.

    An accelerator works on while the host is blocked, so that only its idle time counts: for each step, the smaller of the
    host's blocked time and the gap on the device's own clock between the end of the last step and the start of this one.
    (Subtracting the host's time would hide the device's work under the wait, and promise a speed that no loader can give.)

    Phases of a step follow one another without gaps: each lasts from the end of the one before it. They are on the device's
    clock too, along the stream that trains. ``wait_s`` and ``split_s`` read the events, once, and need a synchronised device;
    nothing synchronises before.
    """

    def __init__(self, device: torch.device, *, split: bool = False) -> None:
        self._device, self._split = device, split
        self._blocked_s: list[float] = []
        self._last_blocked_s = 0.0
        self._began: list[Moment] = []
        self._ended: list[Moment] = []  # one fewer if the caller left in the middle of a step
        self._phases: list[tuple[Phase, Moment, Moment]] = []
        self._phase_began: Moment = 0.0

    def time_waits(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches; the caller's work between two of them is a step."""
        start = time.perf_counter()
        iterator = iter(batches)  # starts the workers, which is waited for too
        while True:
            try:
                batch = next(iterator)
            except StopIteration:
                self._last_blocked_s += time.perf_counter() - start
                return
            self._blocked_s.append(time.perf_counter() - start)
            self._phase_began = self._now()
            self._began.append(self._phase_began)
            yield batch
            self._ended.append(self._now())
            start = time.perf_counter()

    def mark_phase(self, phase: Phase) -> None:
        """Note the end of a phase of the step."""
        if self._split:
            began, self._phase_began = self._phase_began, self._now()
            self._phases.append((phase, began, self._phase_began))

    def wait_s(self) -> float:
        """Return the seconds waited so far."""
        if self._device.type == "cpu" or not self._began:
            return sum(self._blocked_s) + self._last_blocked_s
        # Before the first step the device has nothing to do: all of the host's time counts.
        exposed = self._blocked_s[0]
        for blocked_s, ended, began in zip(self._blocked_s[1:], self._ended, self._began[1:], strict=False):
            exposed += min(blocked_s, _seconds(ended, began))
        return exposed

    def split_s(self) -> dict[str, float]:
        """Return the seconds so far of the wait and of each phase."""
        spent: dict[str, float] = {"wait": self.wait_s(), **dict.fromkeys(PHASES, 0.0)}
        for phase, began, ended in self._phases:
            spent[phase] += _seconds(began, ended)
        return spent

    def _now(self) -> Moment:
        if self._device.type == "cpu":
            return time.perf_counter()
        event = torch.Event(self._device, enable_timing=True)
        event.record(torch.accelerator.current_stream(self._device))
        return event


def _seconds(since: Moment, until: Moment) -> float:
    if isinstance(since, float):
        assert isinstance(until, float)
        return until - since
    assert not isinstance(until, float)
    return float(since.elapsed_time(until)) / 1000


# ---- power --------------------------------------------------------------------------------------------------------------


class PowerMeter:
    """Watches CUDA devices between entering and leaving, from a thread that wakes ten times a second.

    ``utilisation`` is the mean share of the time with a kernel, ``energy_j`` the total of all devices by NVML's own counter.
    Both are None on other devices, and where NVML reports nothing.
    """

    utilisation: float | None = None
    energy_j: float | None = None

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self._handles = [handle for device in devices if (handle := find_handle(device)) is not None]
        self._utilisations: list[float | None] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PowerMeter:
        self._before_j = self._read_energy_j()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        after_j = self._read_energy_j()
        self._over.set()
        self._thread.join()
        reported = [share for share in self._utilisations if share is not None]
        self.utilisation = statistics.fmean(reported) if reported else None
        self.energy_j = None if self._before_j is None or after_j is None else after_j - self._before_j

    def _read_energy_j(self) -> float | None:
        """Return joules since the driver was loaded, all devices together; None if one has no counter."""
        counts = [count for handle in self._handles if (count := query(_energy_j, handle)) is not None]
        return sum(counts) if counts and len(counts) == len(self._handles) else None

    def _watch(self) -> None:
        while self._handles and not self._over.wait(SAMPLE_INTERVAL_S):
            self._utilisations += [query(_utilisation, handle) for handle in self._handles]


def find_handle(device: torch.device) -> Any | None:
    """Return NVML's handle of a device, by UUID: NVML numbers all GPUs of the machine, torch the visible ones; None without."""
    if device.type != "cuda":
        return None
    with contextlib.suppress(Exception):  # no driver, no NVML, a virtual GPU: its errors are many, and power is an extra
        import pynvml

        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode())
    return None


def query(question: Callable[[Any, Any], T], handle: Any) -> T | None:
    """Return NVML's answer, None if this board has none."""
    import pynvml

    try:
        return question(pynvml, handle)
    except pynvml.NVMLError:
        return None


def _energy_j(nvml: Any, handle: Any) -> float:
    return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3  # from millijoules


def _utilisation(nvml: Any, handle: Any) -> float:
    return float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100


# ---- FLOPs --------------------------------------------------------------------------------------------------------------


@functools.cache
def flops_per_example(model: str, num_classes: int, width: int, image_size: int) -> int | None:
    """Return the operations to train a network of ``training.models`` on one image, forward and back; None if uncountable.

    Counted as in Chowdhery et al. 2022 (PaLM), appendix B: the operations that a forward and a backward pass must do, without
    what an implementation repeats. Matrix products and convolutions count, two operations a multiply-add; norms, activations,
    the loss, the optimizer and augmentation do not. Runs on the CPU and leaves all random streams as they are.
    """
    with torch.random.fork_rng(devices=[]):
        return count_flops(models.create(model, num_classes, width), image_size)


def count_flops(model: nn.Module, image_size: int) -> int | None:
    """Count, as ``flops_per_example`` does, for any module that takes images [B, 3, image_size, image_size].

    The module stays as it is, buffers and gradients too. Tensors without gradient (a layer that is not trained, the images) add
    no backward operations.
    """
    own = copy.deepcopy(model).cpu().train()
    try:
        with FlopCounterMode(display=False) as counter:
            own(torch.zeros(FLOP_IMAGES, 3, image_size, image_size)).sum().backward()
    except (NotImplementedError, RuntimeError, ValueError):  # images of another size, an operation that cannot be counted
        return None
    return counter.get_total_flops() // FLOP_IMAGES or None


# ---- losses and gradients -----------------------------------------------------------------------------------------------

Summary = tuple[Tensor, Tensor, Sequence[Tensor] | Tensor]
"""Loss, hits [B] or their number, and L1 norm of each gradient of a step."""


def hits(logits: Tensor, targets: Tensor) -> Tensor:
    """Return which images [B] the largest logit got right: against the label, or the largest of soft targets [B, C]."""
    return logits.argmax(1) == (targets.argmax(1) if targets.ndim == 2 else targets)


class Totals:
    """Losses, hits and gradient norms of an epoch, kept on the device and read at its end.

    A step costs a few small kernels: its loss stays a number on the device, beside its hits and the L1 norm of each gradient.
    The sums are made when they are read, the loss in float64, so that the first step with a loss or gradient that is not finite
    is known afterwards. (Labels are not kept to be compared later: those of a loader worker hold a file open.)
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._hits: list[Tensor] = []
        self._sizes: list[int] = []
        self._norms: deque[Sequence[Tensor] | Tensor] = deque(maxlen=2 * LOOK_EVERY)  # a bad one spoils the next step's loss

    def add(self, loss: Tensor, right: Tensor, norms: Sequence[Tensor] | Tensor, size: int) -> None:
        """Note a step on so many images by its Summary."""
        self._losses.append(loss)
        self._hits.append(right)
        self._norms.append(norms)
        self._sizes.append(size)

    def read(self, ranks: Ranks) -> tuple[float, float, int]:
        """Return (mean loss, share of hits, examples) over all ranks; waits for the device."""
        sizes = torch.tensor(self._sizes, dtype=torch.float64)
        total = float(torch.stack(self._losses).cpu().double() @ sizes)
        loss, right, examples = ranks.total(total, int(torch.cat(self._hits).sum()), float(sizes.sum()))
        return loss / examples, right / examples, round(examples)

    def any_not_finite(self, steps: int) -> Tensor:
        """Return 1 on the device if a loss of the last so many steps is not finite, else 0."""
        return torch.stack(self._losses[-steps:]).isfinite().logical_not().any().float()

    def first_not_finite(self, ranks: Ranks) -> int | None:
        """Return the first step, counted from 1, whose loss was not finite on any rank; None if all were finite."""
        bad = torch.stack(self._losses).cpu().isfinite().logical_not().nonzero()
        own = float(bad[0]) + 1 if len(bad) else math.inf
        (earliest,) = ranks.largest(-own)
        return None if math.isinf(earliest) else round(-earliest)

    def first_bad_gradient(self) -> tuple[int, int] | None:
        """Return (step from 1, index of the parameter) of the first gradient that was not finite; None if all were finite.

        A backward pass goes from the last parameter to the first: of one step the last is named.
        """
        for step, norms in enumerate(self._norms, start=len(self._losses) - len(self._norms) + 1):
            bad = torch.stack(tuple(norms)).isfinite().logical_not().nonzero()
            if len(bad):
                return step, int(bad[-1])
        return None


def summarise(loss: Tensor, logits: Tensor, targets: Tensor, gradients: Sequence[Tensor]) -> Summary:
    """Return a step's Summary from its loss, logits [B, C], labels [B] or soft targets [B, C], and gradients by parameter."""
    return loss.detach(), hits(logits.detach(), targets), torch._foreach_norm(list(gradients), 1)


class Watch:
    """Tells all ranks at the same step, within twice ``LOOK_EVERY`` steps, that the loss of a step was not finite on a rank.

    The device is never waited for at the current step: on CUDA the answer of a look travels to the host beside the training,
    and is read at the next look, when it has long arrived unless the host is more than ``LOOK_EVERY`` steps ahead. Elsewhere it
    is read at once, which on a CPU costs nothing.
    """

    def __init__(self, totals: Totals, ranks: Ranks) -> None:
        self._totals, self._ranks, self._steps = totals, ranks, 0
        self._pending: tuple[Tensor, torch.Event] | None = None

    def is_finite(self) -> bool:
        """Return False once a loss is known not to be finite; to be called after each step."""
        self._steps += 1
        if self._steps % LOOK_EVERY:
            return True
        bad = self._ranks.sum(self._totals.any_not_finite(LOOK_EVERY))
        if bad.device.type != "cuda":
            return not bool(bad)
        before, self._pending = self._pending, _copy_to_host(bad)
        if before is None:
            return True
        answer, arrived = before
        arrived.synchronize()
        return not bool(answer)


def _copy_to_host(value: Tensor) -> tuple[Tensor, torch.Event]:
    """Return a number of the device in pinned memory, and the event after which it is there."""
    answer = torch.empty((), dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)
    arrived = torch.Event(value.device)
    arrived.record(torch.accelerator.current_stream(value.device))
    return answer, arrived
