"""The clock against functions of known duration on a made clock, a device that must be waited for, and the compiler's watch."""

import itertools
import time
from collections.abc import Callable

import pytest
import torch

from bench.clock import Clock, CompilerWatch, Timing, device_seconds, measure, peak_bytes, sample


class FakeTime:
    """A clock whose time passes only where a function says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.queue: list[float] = []

    def clock(self) -> Clock:
        return Clock(synchronize=self.run_queue, now=lambda: self.now)

    def run_queue(self) -> None:
        while self.queue:
            self.now += self.queue.pop()

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_device_is_waited_for_inside_a_sample_and_before_it() -> None:
    """A call only queues its work, as a CUDA launch does; work queued earlier is not charged to the next call."""
    fake = FakeTime()
    timing = measure(lambda: fake.queue.append(0.25), clock=fake.clock(), seconds=1.0)
    assert timing.samples_s == (0.25,) * 4
    fake.queue.append(5.0)
    assert sample(lambda: None, 1, clock=fake.clock()) == [0.0]


@pytest.mark.parametrize(("seconds", "calls"), [(0.3125, 20), (0.001, 3), (1e6, 1000)])
def test_the_number_of_calls_follows_the_time_of_a_call(seconds: float, calls: int) -> None:
    fake = FakeTime()
    assert len(measure(lambda: fake.sleep(1 / 64), clock=fake.clock(), seconds=seconds).samples_s) == calls


def test_warm_up_is_outside_the_samples() -> None:
    fake, calls = FakeTime(), itertools.count()
    timing = measure(lambda: fake.sleep(0.5 if next(calls) == 0 else 0.125), clock=fake.clock(), seconds=1.0, warmup_s=0.0)
    assert (timing.warmup_calls, timing.warmup_s, timing.median_s) == (2, 0.625, 0.125)
    assert timing.compile_s == 0.375  # 0.625 s beyond two calls of 0.125 s


def test_warm_up_continues_until_the_compiler_is_idle() -> None:
    answers = iter([False, False, True])
    timing = measure(lambda: None, clock=Clock(), seconds=0.001, warmup_calls=2, warmup_s=0.0, is_warm=lambda: next(answers))
    assert timing.warmup_calls == 4


def test_an_op_that_skips_most_calls_is_planned_by_its_mean() -> None:
    """Every fourth call takes 1/64 s: 40 calls of the mean fit into 10/64 s (by the median 1000, by the slow ones 10)."""
    fake, calls = FakeTime(), itertools.count()
    work: Callable[[], object] = lambda: fake.sleep(1 / 64) if next(calls) % 4 == 0 else None  # noqa: E731
    assert len(measure(work, clock=fake.clock(), seconds=10 / 64, warmup_calls=13, warmup_s=0.0).samples_s) == 40


def test_threads_are_those_of_the_timed_region() -> None:
    before = torch.get_num_threads()

    def add_thread() -> None:
        if torch.get_num_threads() == before:
            torch.set_num_threads(before + 1)

    try:
        timing = measure(add_thread, clock=Clock(), seconds=0.001)
    finally:
        torch.set_num_threads(before)
    assert timing.threads == before + 1


def test_the_clock_of_a_cpu_is_the_wall_and_there_is_no_other() -> None:
    assert measure(lambda: time.sleep(0.01), clock=Clock(), seconds=0.05).median_s >= 0.01  # a sleep never ends early
    assert device_seconds(lambda: None, "cpu") is None


@pytest.mark.parametrize("calls", [1, 3])
def test_peak_bytes_counts_what_lives_at_one_moment(calls: int) -> None:
    megabyte = torch.zeros(2**18)

    def allocate() -> None:
        first = megabyte + 1
        second = first + 1
        del first
        _third = second + 1

    allocate()
    # Exact but for a few scalars that torch allocates beside (bytes, so 1 % is generous).
    assert peak_bytes(allocate, "cpu", calls=calls) == pytest.approx(2 * megabyte.nbytes, rel=0.01)


def test_the_compiler_is_watched() -> None:
    watch = CompilerWatch()

    def broken(x: torch.Tensor) -> torch.Tensor:
        x = x + 1
        torch._dynamo.graph_break()
        return x * 2

    # Backend "eager" traces as ever and generates no code, so that the test needs no C++ compiler and no half minute.
    whole = torch.compile(lambda x: x + 1, backend="eager", dynamic=False)
    whole(torch.zeros(2))
    assert [watch.is_idle(), watch.is_idle()] == [False, True]
    assert (watch.graph_breaks, watch.recompiles) == (0, 0)
    whole(torch.zeros(3))
    assert not watch.is_idle()
    assert (watch.graph_breaks, watch.recompiles) == (0, 1)
    torch.compile(broken, backend="eager")(torch.zeros(2))
    assert (watch.graph_breaks, watch.recompiles) == (1, 1)
    watch = CompilerWatch()
    assert (watch.graph_breaks, watch.recompiles) == (0, 0)


@pytest.mark.parametrize("fresh", [True, False])
def test_many_pipelines_of_one_code_are_all_compiled_only_if_each_has_its_own_watch(fresh: bool) -> None:
    def make(offset: int) -> Callable[[torch.Tensor], torch.Tensor]:
        return torch.compile(lambda x: x + offset, backend=backend, dynamic=False)

    compiled = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        nonlocal compiled
        compiled += 1
        return graph.forward

    CompilerWatch()
    for offset in range(12):
        if fresh:
            CompilerWatch()
        make(offset)(torch.zeros(2))
    assert compiled == 12 if fresh else compiled < 12


def test_a_timing_is_its_median_call() -> None:
    timing = Timing(samples_s=(1.0, 5.0, 2.0), warmup_calls=1, warmup_s=1.5, threads=1)
    assert (timing.median_s, timing.compile_s) == (2.0, 0.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_known_kernel_on_both_clocks() -> None:
    cycles = 20_000_000

    def kernel() -> None:
        torch.cuda._sleep(cycles)

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    kernel()
    start.record()
    for _ in range(10):
        kernel()
    end.record()
    torch.cuda.synchronize()
    expected_s = start.elapsed_time(end) / 1e4
    # Boost clocks move a spinning kernel by a few per cent; a clock that does not wait would read under 1 %.
    assert measure(kernel, clock=Clock("cuda"), seconds=0.2).median_s == pytest.approx(expected_s, rel=0.15)
    assert device_seconds(kernel, "cuda") == pytest.approx(expected_s, rel=0.15)
    assert device_seconds(lambda: time.sleep(0.01), "cuda") == pytest.approx(0.0, abs=2e-3)
