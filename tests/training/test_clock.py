"""The wait: known sleeps on the host, known gaps on a device's clock. (The one place with assertions on wall time.)"""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from augment import catalog
from augment.compose import Pipeline
from training import feed
from training.clock import WaitClock
from training.config import Placement, TrainConfig
from training.data import Dataset
from training.loop import measure_throughput, train
from training.results import rates

SLEEP_S = 0.05
SLACK_S = 0.04  # a busy machine wakes a sleeper late


def test_on_a_cpu_the_wait_is_what_fetching_takes_and_not_what_the_step_takes() -> None:
    def slow() -> Iterator[int]:
        for i in range(4):
            time.sleep(SLEEP_S)
            yield i

    clock = WaitClock(torch.device("cpu"))
    for _ in clock.waiting_for(slow()):
        time.sleep(2 * SLEEP_S)
    assert 4 * SLEEP_S <= clock.total_s() < 4 * (SLEEP_S + SLACK_S)  # with the steps it would be at least 12 SLEEP_S


class _Event:
    """Stands in for a device's event: a time on the device's clock, in ms."""

    def __init__(self, at_ms: float) -> None:
        self.at_ms = at_ms

    def elapsed_time(self, later: "_Event") -> float:
        return later.at_ms - self.at_ms


@pytest.mark.parametrize(
    ("device_ms", "exposed_s"),
    [
        # (start, end) of each step. The host is blocked for 1 s before each of three steps.
        ([(0, 10), (1010, 1020), (2020, 2030)], 1 + 1 + 1),  # the device stood idle each time
        ([(0, 900), (1010, 1910), (2020, 2920)], 1 + 0.11 + 0.11),  # it worked on meanwhile, but not long enough
        ([(0, 1500), (1500, 3000), (3000, 4500)], 1 + 0 + 0),  # it never ran dry
        ([(0, 10), (5010, 5020), (9020, 9030)], 1 + 1 + 1),  # idle for other reasons too: those are no wait
    ],
)
def test_on_an_accelerator_only_what_it_stood_idle_counts(
    device_ms: list[tuple[float, float]], exposed_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = WaitClock(torch.device("cuda"))
    marks = iter([_Event(at) for step in device_ms for at in step])
    monkeypatch.setattr(clock, "_mark", lambda: next(marks))
    for _ in clock.waiting_for(range(3)):
        pass
    clock._blocked_s = [1.0] * 3
    assert clock.total_s() == pytest.approx(exposed_s)


@pytest.fixture
def _slow_pipelines(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*args: Any, **kwargs: Any) -> Pipeline:
        pipeline = catalog.build(*args, **kwargs)
        run = pipeline._run

        def slowly(images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
            time.sleep(SLEEP_S)
            return run(images, labels)

        pipeline._run = slowly
        return pipeline

    monkeypatch.setattr(feed, "build", build)


@pytest.mark.usefixtures("_slow_pipelines")
def test_augmentation_in_the_loader_is_waited_for_and_on_the_device_it_is_not(tiny: TrainConfig, shapes: Dataset) -> None:
    steps = 4  # 160 images by 48
    placements: tuple[tuple[Placement, bool], ...] = (("workers", True), ("device", False))
    for augment_on, waits in placements:
        (stats,) = train(dataclasses.replace(tiny, epochs=1, augment_on=augment_on), shapes).epochs
        assert stats.wall_s >= steps * SLEEP_S  # the pipeline is inside the wall time in either place
        assert (stats.wait_s >= steps * SLEEP_S) is waits
        assert stats.wait_s <= stats.wall_s


@pytest.mark.usefixtures("_slow_pipelines")
def test_throughput_counts_steps_and_both_rates(tiny: TrainConfig, shapes: Dataset) -> None:
    result = measure_throughput(dataclasses.replace(tiny, augment_on="workers"), shapes, steps=8)
    assert result.steps == 8
    # 5 steps of warm-up: the clock starts at the 2nd batch of the second epoch, of 48, 48, 48 and 16 images.
    assert result.examples == 2 * (48 + 48 + 48 + 16)
    assert result.wait_s >= 8 * SLEEP_S
    assert result.examples_per_s == pytest.approx(result.examples / result.wall_s)
    assert result.examples_per_s_without_wait == pytest.approx(result.examples / (result.wall_s - result.wait_s))
    timed = measure_throughput(tiny, shapes, seconds=0.3)
    assert 0.3 <= timed.wall_s < 0.3 + 10 * SLACK_S + SLEEP_S
    assert timed.steps > 1


def test_rates_of_known_numbers() -> None:
    assert rates(1000, 10.0, 2.0) == {"examples_per_s": 100, "examples_per_s_without_wait": 125, "wait_share": 0.2}
