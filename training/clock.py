"""Where the time of a training step goes, and how long training stood still for want of a batch."""

import time
from collections.abc import Iterable, Iterator
from typing import Literal, TypeVar

import torch

T = TypeVar("T")
Mark = float | torch.Event
"""A moment: of the host's clock in seconds on a CPU, else an event on the device's stream."""
Part = Literal["copy", "augment", "forward_backward", "optimizer"]
PARTS: tuple[Part, ...] = ("copy", "augment", "forward_backward", "optimizer")
"""What a step does, in this order; ``training.results.Throughput`` says what each is."""


class StepClock:
    """Measures the wait for batches inside an epoch and, with ``split``, the parts of its steps.

    On a CPU the wait is the time that the training process was blocked until it had the next batch: fetching, and augmenting
    where that happens in this process or in workers that are too slow.

    An accelerator works on while the host is blocked, so that only what it stood idle counts: for each step, the smaller
    of the host's blocked time and the gap on the device's own clock between the end of the last step and the start of this one.
    (Subtracting the host's time would hide the device's work under the wait, and promise a speed that no loader can give.)

    Parts of a step follow one another without gaps: each lasts from the end of the one before it. They are on the device's
    clock too, along the stream that trains. The events are read once, in ``wait_s`` and ``split_s``, before which the device
    must have been synchronised; nothing synchronises in between.
    """

    def __init__(self, device: torch.device, *, split: bool = False) -> None:
        self._device, self._split = device, split
        self._blocked_s: list[float] = []
        self._last_blocked_s = 0.0
        self._began: list[Mark] = []
        self._ended: list[Mark] = []  # one fewer where the caller left in the middle of a step
        self._parts: list[tuple[Part, Mark, Mark]] = []
        self._at: Mark = 0.0  # where the part that runs began

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
            self._at = self._mark()
            self._began.append(self._at)
            yield batch
            self._ended.append(self._mark())
            start = time.perf_counter()

    def passed(self, part: Part) -> None:
        """The step has come to the end of a part."""
        if self._split:
            began, self._at = self._at, self._mark()
            self._parts.append((part, began, self._at))

    def wait_s(self) -> float:
        """Seconds waited so far."""
        if self._device.type == "cpu" or not self._began:
            return sum(self._blocked_s) + self._last_blocked_s
        # Before the first step the device has nothing to do: all of the host's time counts.
        exposed = self._blocked_s[0]
        for blocked_s, ended, began in zip(self._blocked_s[1:], self._ended, self._began[1:], strict=False):
            exposed += min(blocked_s, _seconds(ended, began))
        return exposed

    def split_s(self) -> dict[str, float]:
        """Seconds so far of the wait and of each part."""
        spent: dict[str, float] = {"wait": self.wait_s(), **dict.fromkeys(PARTS, 0.0)}
        for part, began, ended in self._parts:
            spent[part] += _seconds(began, ended)
        return spent

    def _mark(self) -> Mark:
        if self._device.type == "cpu":
            return time.perf_counter()
        event = torch.Event(self._device, enable_timing=True)
        event.record(torch.accelerator.current_stream(self._device))
        return event


def _seconds(since: Mark, until: Mark) -> float:
    if isinstance(since, float):
        assert isinstance(until, float)
        return until - since
    assert not isinstance(until, float)
    return float(since.elapsed_time(until)) / 1000
