"""The clock against things whose time is known: sleeps, a planted slowdown, a device that must be waited for."""

import itertools
import random
import statistics
import time
from collections.abc import Callable

import pytest
import torch

from bench.grid.timing import Clock, CompilerWatch, device_seconds, measure, peak_bytes, sample

SLEEP_S = 0.01


def test_a_known_sleep_is_measured() -> None:
    timing = measure(lambda: time.sleep(SLEEP_S), clock=Clock(), seconds=0.2)
    # A sleep never ends early; how late it ends is the scheduler's: half of it again is far more than an idle machine adds,
    # and the fastest call of many was hardly held up.
    assert timing.median_s >= SLEEP_S
    assert min(timing.samples_s) < 1.5 * SLEEP_S


def test_a_planted_slowdown_of_ten_percent_shows_in_interleaved_passes() -> None:
    workloads: dict[str, Callable[[], object]] = {
        "base": lambda: time.sleep(SLEEP_S),
        "again": lambda: time.sleep(SLEEP_S),
        "slower": lambda: time.sleep(1.1 * SLEEP_S),
    }
    samples: dict[str, list[float]] = {name: [] for name in workloads}
    shuffled = random.Random(0)
    for _ in range(5):
        for name in shuffled.sample(sorted(workloads), len(workloads)):
            timing = measure(workloads[name], clock=Clock(), seconds=0.08, warmup_calls=1, warmup_s=0.0)
            samples[name] += timing.samples_s
    median = {name: statistics.median(values) for name, values in samples.items()}
    # Lateness of a sleep (0.1 ms here) adds to both and shrinks the ratio of 1.10 a little; a machine under load moves the
    # medians of 40 interleaved calls by well under the 4 % that are left on either side.
    assert median["slower"] / median["base"] > 1.05
    assert 0.96 < median["again"] / median["base"] < 1.04


def test_the_device_is_waited_for_inside_the_sample() -> None:
    queued: list[float] = []

    def run_queue() -> None:
        while queued:
            time.sleep(queued.pop())

    # The call only queues its work, as a CUDA kernel launch does: without waiting it would take microseconds.
    timing = measure(lambda: queued.append(SLEEP_S), clock=Clock(synchronize=run_queue), seconds=0.05)
    assert min(timing.samples_s) >= SLEEP_S


def test_work_queued_before_a_sample_is_not_charged_to_it() -> None:
    queued = [5 * SLEEP_S]

    def run_queue() -> None:
        while queued:
            time.sleep(queued.pop())

    assert sample(lambda: None, 1, clock=Clock(synchronize=run_queue))[0] < SLEEP_S


def test_the_number_of_calls_follows_the_time_of_a_call() -> None:
    ticks = itertools.count()
    clock = Clock(now=lambda: next(ticks) * 0.01)  # each reading is 10 ms after the last: every call takes 10 ms

    def rounds(seconds: float, min_calls: int) -> int:
        return len(measure(lambda: None, clock=clock, seconds=seconds, min_calls=min_calls).samples_s)

    assert rounds(0.2, 3) == 20
    assert rounds(0.001, 3) == 3
    assert rounds(1e6, 3) == 1000


def test_warm_up_is_outside_the_samples() -> None:
    calls = itertools.count()
    timing = measure(lambda: time.sleep(0.05 if next(calls) == 0 else 0.001), clock=Clock(), seconds=0.02, warmup_s=0.0)
    assert timing.warmup_calls == 2
    assert timing.warmup_s >= 0.051
    assert statistics.median(timing.samples_s) < 0.025
    # 51 ms of warm-up beyond two calls of 1 ms; late sleeps make it vary by some ms.
    assert timing.compile_s == pytest.approx(0.049, abs=0.02)


def test_warm_up_goes_on_until_the_compiler_is_done() -> None:
    answers = iter([False, False, True])
    timing = measure(lambda: None, clock=Clock(), seconds=0.001, warmup_calls=2, warmup_s=0.0, settled=lambda: next(answers))
    assert timing.warmup_calls == 4


def test_an_op_that_skips_most_calls_is_planned_by_its_mean() -> None:
    calls = itertools.count()
    timing = measure(
        lambda: time.sleep(SLEEP_S) if next(calls) % 4 == 0 else None, clock=Clock(), seconds=0.1, warmup_calls=13, warmup_s=0.0
    )
    # A call takes 2.5 ms on average, so about 40 fit; planned by the median there would be the 1000 that are allowed, and
    # planned by the slow calls 10. Twice the time on a busy machine would still give 20.
    assert 15 <= len(timing.samples_s) <= 60


def test_threads_are_those_of_the_timed_region() -> None:
    before = torch.get_num_threads()

    def one_more() -> None:
        if torch.get_num_threads() == before:
            torch.set_num_threads(before + 1)

    try:
        timing = measure(one_more, clock=Clock(), seconds=0.001)
    finally:
        torch.set_num_threads(before)
    assert timing.threads == before + 1


def test_a_failure_in_a_call_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        measure(lambda: 1 / 0, clock=Clock(), seconds=0.1)


def test_peak_bytes_counts_what_lives_at_one_moment() -> None:
    megabyte = torch.zeros(2**18)

    def two_at_once_of_three() -> None:
        first = megabyte + 1
        second = first + 1
        del first
        _third = second + 1

    two_at_once_of_three()
    # Exact but for a few scalars that torch allocates beside (bytes, so 1 % is generous).
    assert peak_bytes(two_at_once_of_three, "cpu") == pytest.approx(2 * megabyte.nbytes, rel=0.01)
    assert peak_bytes(two_at_once_of_three, "cpu", calls=3) == pytest.approx(2 * megabyte.nbytes, rel=0.01)


def test_a_cpu_has_no_other_clock() -> None:
    assert device_seconds(lambda: None, "cpu") is None


def test_the_compiler_is_watched() -> None:
    watch = CompilerWatch()

    def broken(x: torch.Tensor) -> torch.Tensor:
        x = x + 1
        torch._dynamo.graph_break()
        return x * 2

    # Backend "eager" traces as ever and generates no code, so that the test needs no C++ compiler and no half minute.
    whole = torch.compile(lambda x: x + 1, backend="eager", dynamic=False)
    whole(torch.zeros(2))
    assert not watch.settled()
    assert watch.settled()
    assert (watch.graph_breaks, watch.recompiles) == (0, 0)
    whole(torch.zeros(3))
    assert not watch.settled()
    assert (watch.graph_breaks, watch.recompiles) == (0, 1)
    torch.compile(broken, backend="eager")(torch.zeros(2))
    assert watch.graph_breaks == 1
    assert CompilerWatch().graph_breaks == 0


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
