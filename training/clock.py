"""How long training stood still for want of a batch."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")


class WaitClock:
    """Measures the wait for batches inside an epoch.

    On a CPU the wait is the time that the training process was blocked until it had the next batch: fetching, and augmenting
    where that happens in this process or in workers that are too slow.

    An accelerator works on while the host is blocked, so that only what it stood idle counts: for each step, the smaller
    of the host's blocked time and the gap on the device's own clock between the end of the last step and the start of this one.
    (Subtracting the host's time would hide the device's work under the wait, and promise a speed that no loader can give.)

    The events are read once, in ``total_s``; nothing synchronises in between.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._blocked_s: list[float] = []
        self._events: list[tuple[torch.Event, torch.Event]] = []
        self._last_blocked_s = 0.0

    def waiting_for(self, batches: Iterable[T]) -> Iterator[T]:
        """Pass batches on. What the caller does with one until it asks for the next is the step."""
        start = time.perf_counter()
        iterator = iter(batches)  # starts the workers, which is waited for too
        while True:
            try:
                batch = next(iterator)
            except StopIteration:
                self._last_blocked_s += time.perf_counter() - start
                return
            self._blocked_s.append(time.perf_counter() - start)
            began = self._mark()
            yield batch
            ended = self._mark()
            if began is not None and ended is not None:
                self._events.append((began, ended))
            start = time.perf_counter()

    def total_s(self) -> float:
        """Seconds waited so far. The device must have been synchronised."""
        if not self._events:
            return sum(self._blocked_s) + self._last_blocked_s
        # Before the first step the device has nothing to do: all of the host's time counts.
        exposed = self._blocked_s[0]
        for blocked_s, (_, ended), (began, _) in zip(self._blocked_s[1:], self._events, self._events[1:], strict=False):
            exposed += min(blocked_s, ended.elapsed_time(began) / 1000)
        return exposed

    def _mark(self) -> torch.Event | None:
        if self._device.type == "cpu":
            return None
        event = torch.Event(self._device, enable_timing=True)
        event.record(torch.accelerator.current_stream(self._device))
        return event
