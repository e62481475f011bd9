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
from training.clock import PARTS, StepClock
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

    clock = StepClock(torch.device("cpu"))
    for _ in clock.waiting_for(slow()):
        time.sleep(2 * SLEEP_S)
    assert 4 * SLEEP_S <= clock.wait_s() < 4 * (SLEEP_S + SLACK_S)  # with the steps it would be at least 12 SLEEP_S


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
    clock = StepClock(torch.device("cuda"))
    marks = iter([_Event(at) for step in device_ms for at in step])
    monkeypatch.setattr(clock, "_mark", lambda: next(marks))
    for _ in clock.waiting_for(range(3)):
        pass
    clock._blocked_s = [1.0] * 3
    assert clock.wait_s() == pytest.approx(exposed_s)


def test_the_wait_for_a_step_in_which_the_caller_leaves_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = StepClock(torch.device("cuda"))
    marks = iter([_Event(at) for at in (0, 10, 1010, 1020, 2020)])  # the third step begins, and nobody asks when it ends
    monkeypatch.setattr(clock, "_mark", lambda: next(marks))
    for step in clock.waiting_for(range(10)):
        if step == 2:
            break
    clock._blocked_s = [1.0] * 3
    assert clock.wait_s() == pytest.approx(3.0)


def test_parts_of_a_step_are_told_apart_on_the_host() -> None:
    clock = StepClock(torch.device("cpu"), split=True)
    for _ in clock.waiting_for(range(3)):
        for part, count in (("copy", 0), ("augment", 1), ("forward_backward", 3), ("optimizer", 2)):
            time.sleep(count * SLEEP_S)
            clock.passed(part)  # type: ignore[arg-type]
        time.sleep(SLEEP_S)  # is nobody's part
    spent = clock.split_s()
    assert list(spent) == ["wait", "copy", "augment", "forward_backward", "optimizer"]
    for part, count in (("wait", 0), ("copy", 0), ("augment", 1), ("forward_backward", 3), ("optimizer", 2)):
        assert 3 * count * SLEEP_S <= spent[part] < 3 * (count * SLEEP_S + SLACK_S)


def test_parts_of_a_step_are_on_the_devices_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    # (began, after the copy, augmentation, forward and backward, optimizer, ended): milliseconds on the device.
    steps = [(0, 1, 3, 13, 14, 14), (20, 22, 25, 35, 37, 40)]
    clock = StepClock(torch.device("cuda"), split=True)
    marks = iter([_Event(at) for step in steps for at in step])
    monkeypatch.setattr(clock, "_mark", lambda: next(marks))
    for _ in clock.waiting_for(range(2)):
        for part in PARTS:
            clock.passed(part)
    clock._blocked_s = [0.5, 0.001]
    assert clock.split_s() == pytest.approx(
        # Before the first step all of the host's time; then the host was blocked for 1 ms of the device's gap of 6.
        {"wait": 0.5 + 0.001, "copy": 0.001 + 0.002, "augment": 0.002 + 0.003, "forward_backward": 0.020, "optimizer": 0.003}
    )


def test_without_a_split_no_moment_within_a_step_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = StepClock(torch.device("cpu"))
    for _ in clock.waiting_for(range(2)):
        monkeypatch.setattr(clock, "_mark", lambda: pytest.fail("a moment was noted"))
        clock.passed("copy")
        monkeypatch.undo()
    assert set(clock.split_s().values()) - {clock.wait_s()} == {0.0}


@pytest.mark.parametrize("augment_on", ["device", "workers"])
@pytest.mark.usefixtures("_slow_pipelines")
def test_the_split_of_a_run_adds_up_and_shows_where_augmentation_runs(
    augment_on: Placement, tiny: TrainConfig, shapes: Dataset
) -> None:
    result = measure_throughput(dataclasses.replace(tiny, augment_on=augment_on), shapes, steps=6)
    assert sum(result.split_s.values()) == pytest.approx(result.wall_s)
    assert all(seconds > 0 for seconds in result.split_s.values())
    assert (result.split_s["augment"] >= 6 * SLEEP_S) is (augment_on == "device")
    assert (result.split_s["wait"] >= 6 * SLEEP_S) is (augment_on == "workers")
    assert result.split_s["wait"] == result.wait_s
    # What is left is metrics and the clock itself: no more than a share of a step that does so little.
    assert result.split_s["other"] < 0.3 * result.wall_s
    record = result.as_record()
    assert record["split_s"] == result.split_s
    if not torch.cuda.is_available():
        unknown = ("gpu_utilisation", "power_w", "energy_j", "energy_j_per_1000_examples")
        assert [record[name] for name in unknown] == [None] * 4


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
