"""Meters against known gaps on a device's clock, an NVML of our own, FLOPs by hand, and planted losses."""

import dataclasses
import math
import sys
import time
import types
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import augment
from augment import Pipeline
from training import feed, meters, models
from training.config import MODELS, Placement, TrainConfig
from training.data import Dataset
from training.distributed import Ranks
from training.loop import measure_throughput, train
from training.meters import (
    LOOK_EVERY,
    PHASES,
    PowerMeter,
    StepClock,
    Totals,
    Watch,
    count_flops,
    flops_per_example,
    summarise,
)

# ---- time ---------------------------------------------------------------------------------------------------------------


class _Host:
    """A host's clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> _Host:
    host = _Host()
    monkeypatch.setattr(meters, "time", host)
    return host


def test_on_a_cpu_waits_and_phases_are_separated(host: _Host) -> None:
    def slow() -> Iterator[int]:
        for i in range(4):
            host.sleep(0.5)
            yield i

    clock = StepClock(torch.device("cpu"), split=True)
    for _ in clock.time_waits(slow()):
        for phase, seconds in zip(PHASES, (0.0, 1.0, 3.0, 2.0), strict=True):
            host.sleep(seconds)
            clock.mark_phase(phase)
        host.sleep(1.0)  # belongs to no phase
    assert clock.split_s() == {"wait": 2.0, "copy": 0.0, "augment": 4.0, "forward_backward": 12.0, "optimizer": 8.0}


class _Event:
    """Stands in for a device's event: a time on the device's clock, in ms."""

    def __init__(self, at_ms: float) -> None:
        self.at_ms = at_ms

    def elapsed_time(self, later: "_Event") -> float:
        return later.at_ms - self.at_ms


def _device_clock(times_ms: list[float], monkeypatch: pytest.MonkeyPatch, *, split: bool = False) -> StepClock:
    clock, events = StepClock(torch.device("cuda"), split=split), map(_Event, times_ms)
    monkeypatch.setattr(clock, "_now", lambda: next(events))
    return clock


@pytest.mark.parametrize(
    ("times_ms", "exposed_s"),
    [
        # (start, end) of each step. The host is blocked for 1 s before each of three steps.
        ([0, 10, 1010, 1020, 2020, 2030], 1 + 1 + 1),  # the device stood idle each time
        ([0, 900, 1010, 1910, 2020, 2920], 1 + 0.11 + 0.11),  # it worked on meanwhile, but not long enough
        ([0, 1500, 1500, 3000, 3000, 4500], 1 + 0 + 0),  # it never ran dry
        ([0, 10, 5010, 5020, 9020, 9030], 1 + 1 + 1),  # idle for other reasons too: those are no wait
        ([0, 10, 1010, 1020, 2020], 1 + 1 + 1),  # the caller leaves in the middle of the third step
    ],
)
def test_on_an_accelerator_only_its_idle_time_counts(
    times_ms: list[float], exposed_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = _device_clock(times_ms, monkeypatch)
    for step in clock.time_waits(range(3)):
        if step == 2 and len(times_ms) == 5:
            break
    clock._blocked_s = [1.0] * 3
    assert clock.wait_s() == pytest.approx(exposed_s)


def test_phases_of_a_step_are_on_the_devices_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    # (began, after the copy, augmentation, forward and backward, optimizer, ended): milliseconds on the device.
    clock = _device_clock([0, 1, 3, 13, 14, 14, 20, 22, 25, 35, 37, 40], monkeypatch, split=True)
    for _ in clock.time_waits(range(2)):
        for phase in PHASES:
            clock.mark_phase(phase)
    clock._blocked_s = [0.5, 0.001]
    assert clock.split_s() == pytest.approx(
        # Before the first step all of the host's time; then the host was blocked for 1 ms of the device's gap of 6.
        {"wait": 0.5 + 0.001, "copy": 0.001 + 0.002, "augment": 0.002 + 0.003, "forward_backward": 0.020, "optimizer": 0.003}
    )


def test_without_a_split_no_moment_within_a_step_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _device_clock([0.0, 1.0, 2.0, 3.0], monkeypatch)  # two steps' beginnings and ends, and none more
    for _ in clock.time_waits(range(2)):
        clock.mark_phase("copy")
    clock._blocked_s = [0.0, 0.0]
    assert set(clock.split_s().values()) == {0.0}


SLEEP_S = 0.05


@pytest.fixture
def _slow_pipelines(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*args: Any, **kwargs: Any) -> Pipeline:
        pipeline = augment.build(*args, **kwargs)
        run = pipeline._run

        def slowly(images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
            time.sleep(SLEEP_S)
            return run(images, labels)

        pipeline._run = slowly
        return pipeline

    monkeypatch.setattr(feed, "build", build)


@pytest.mark.parametrize("augment_on", ["device", "workers"])
@pytest.mark.usefixtures("_slow_pipelines")
def test_the_split_of_a_run_adds_up_and_shows_where_augmentation_runs(
    augment_on: Placement, tiny: TrainConfig, shapes: Dataset
) -> None:
    config = dataclasses.replace(tiny, augment_on=augment_on)
    result = measure_throughput(config, shapes, steps=8)
    assert sum(result.split_s.values()) == pytest.approx(result.wall_s)
    assert result.split_s["wait"] == result.wait_s
    slow, fast = ("augment", "wait") if augment_on == "device" else ("wait", "augment")
    assert result.split_s[slow] >= 8 * SLEEP_S  # a sleep is never shorter
    assert result.split_s[slow] > result.split_s[fast]
    # 5 steps of warm-up: the clock starts at the 2nd batch of the second epoch, of 48, 48, 48 and 16 images.
    assert (result.steps, result.examples) == (8, 2 * (48 + 48 + 48 + 16))
    assert result.examples_per_s == pytest.approx(result.examples / result.wall_s)
    assert result.examples_per_s_without_wait == pytest.approx(result.examples / (result.wall_s - result.wait_s))
    if not torch.cuda.is_available():
        assert (result.gpu_utilisation, result.power_w, result.energy_j, result.energy_j_per_1000_examples) == (None,) * 4
    (stats,) = train(dataclasses.replace(config, epochs=1), shapes).epochs
    assert (stats.wait_s >= 4 * SLEEP_S) is (augment_on == "workers")
    assert stats.wall_s >= 4 * SLEEP_S  # the pipeline is inside the wall time in either place


# ---- power --------------------------------------------------------------------------------------------------------------


class _NVMLError(Exception):
    pass


class _Driver(types.ModuleType):
    """Two GPUs; the first keeps count of its energy, in steps of a millijoule."""

    NVMLError = _NVMLError

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.counts = iter([1_000, 26_000])

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> str:
        return uuid.decode()

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if handle != "GPU-a":
            raise _NVMLError("not supported")
        return next(self.counts)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        return types.SimpleNamespace(gpu={"GPU-a": 90, "GPU-b": 40}[handle])


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> _Driver:
    driver, uuids = _Driver(), {0: "a", 1: "b"}
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda d: types.SimpleNamespace(uuid=uuids[d.index]))
    monkeypatch.setattr(meters, "SAMPLE_INTERVAL_S", 0.005)
    return driver


@pytest.mark.parametrize(("gpus", "utilisation", "energy_j"), [([0], 0.9, 25), ([1], 0.4, None), ([0, 1], 0.65, None)])
@pytest.mark.usefixtures("driver")
def test_energy_is_the_difference_of_counters_that_all_devices_have(
    gpus: list[int], utilisation: float, energy_j: float | None
) -> None:
    with PowerMeter([torch.device("cuda", index) for index in gpus]) as meter:
        time.sleep(0.05)
    assert meter.utilisation == pytest.approx(utilisation)
    assert meter.energy_j == energy_j


@pytest.mark.parametrize("lacks", ["gpu", "driver", "library"])
def test_where_nvml_reports_nothing_power_is_unknown_and_nothing_is_printed(
    lacks: str, driver: _Driver, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise _NVMLError("driver not loaded")

    if lacks == "driver":
        monkeypatch.setattr(driver, "nvmlInit", fail)
    elif lacks == "library":
        monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it raises ImportError
    with PowerMeter([torch.device("cpu" if lacks == "gpu" else "cuda:0")]) as meter:
        pass
    assert (meter.utilisation, meter.energy_j, *capfd.readouterr()) == (None, None, "", "")


# ---- FLOPs --------------------------------------------------------------------------------------------------------------


def test_small_nets_by_hand() -> None:
    """Two operations a multiply-add; forward, weights' gradient, inputs' gradient; the images need none."""
    assert count_flops(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), 8) == 2 * (2 * 192 * 10)
    # 8 * 8 places * 4 channels * (3 * 3 * 3); of stride 2, 4 * 4 * 6 * (4 * 3 * 3); norm, activation and mean count nothing.
    first, second, last = 8 * 8 * 4 * 27, 4 * 4 * 6 * 36, 6 * 5
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip
    assert count_flops(model, 8) == 2 * (2 * first + 3 * second + 3 * last)
    model[0].requires_grad_(False)  # then nothing before the second convolution needs a gradient, but the norm's scale does
    assert count_flops(model, 8) == 2 * (first + 3 * second + 3 * last)


def test_resnet18_by_hand() -> None:
    """Count multiply-adds forward on 32 x 32 pixels: stem, four 3x3 convolutions of 64 channels, three stages, head.

    Each stage halves the side and doubles the channels: half a convolution, three whole ones and a shortcut of 1x1.
    """
    stem, whole = 32 * 32 * 64 * 27, 32 * 32 * 64 * 64 * 9
    stage = whole // 2 + 3 * whole + whole // 2 // 9
    forward = stem + 4 * whole + 3 * stage + 512 * 10
    assert forward == 555_422_720
    assert flops_per_example("resnet18", 10, 64, 32) == 2 * (3 * forward - stem)  # the images need no gradient


def test_counting_changes_nothing() -> None:
    model = models.create("resnet8", 10, 8).eval()
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    stream = torch.get_rng_state()
    flops_per_example.cache_clear()
    assert count_flops(model, 32) == flops_per_example("resnet8", 10, 8, 32)
    assert torch.equal(torch.get_rng_state(), stream)
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    after = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(after, gradients, strict=True))


def test_every_network_is_counted_and_the_uncountable_is_none() -> None:
    assert all(flops_per_example(name, 10, 8, 32) for name in MODELS)
    assert count_flops(nn.Sequential(nn.Flatten(), nn.Linear(1, 1)), 8) is None  # of another size
    assert count_flops(nn.BatchNorm2d(3), 8) is None  # no matrix product in it


# ---- losses and gradients -----------------------------------------------------------------------------------------------


def _add(totals: Totals, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, gradients: Any = None) -> None:
    totals.add(*summarise(loss, logits, targets, gradients or [loss]), len(logits))


def test_totals_are_exact_and_name_the_first_bad_step() -> None:
    totals = Totals()
    steps = [(0.5, 2), (2.0, 1), (math.inf, 2), (math.nan, 1)]
    for loss, size in steps[:2]:
        _add(totals, torch.tensor(loss), torch.eye(3)[:size], torch.zeros(size, dtype=torch.int64))
    assert totals.read(Ranks()) == ((2 * 0.5 + 1 * 2.0) / 3, 2 / 3, 3)  # of classes 0, 1 and 0, all said to be 0
    assert totals.first_not_finite(Ranks()) is None
    for loss, size in steps[2:]:
        _add(totals, torch.tensor(loss), torch.eye(3)[:size], torch.zeros(size, dtype=torch.int64))
    assert totals.first_not_finite(Ranks()) == 3


def test_accuracy_with_mixed_targets_is_against_the_largest() -> None:
    totals = Totals()
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    _add(totals, torch.tensor(1.5), logits, torch.tensor([[0.6, 0.4, 0.0], [0.0, 0.7, 0.3]]))
    assert totals.read(Ranks()) == (1.5, 0.5, 2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_bad_gradient_of_a_step_is_the_last_parameters(bad: float) -> None:
    totals = Totals()
    for step in range(1, 31):
        gradients = [torch.ones(3), torch.ones(2, 2), torch.ones(1)]
        if step >= 28:
            gradients[0][1] = gradients[1][0, 1] = bad  # the way back comes to parameter 1 before parameter 0
        _add(totals, torch.tensor(1.0), torch.eye(3), torch.arange(3), gradients)
        assert totals.first_bad_gradient() == ((28, 1) if step >= 28 else None)


def test_totals_keep_nothing_that_a_loader_worker_sent() -> None:
    totals, labels = Totals(), torch.zeros(3, dtype=torch.int64)
    sent = weakref.ref(labels)
    _add(totals, torch.tensor(1.0), torch.eye(3), labels)
    del labels
    assert sent() is None  # kept, each would hold a file open, and an epoch has more batches than a process may open files


def _steps_until_seen(device: torch.device, bad_step: int) -> int:
    totals = Totals()
    watch = Watch(totals, Ranks(device=device))
    logits, labels = torch.eye(3, device=device), torch.arange(3, device=device)
    losses = [torch.full((), math.nan if step == bad_step else 1.0, device=device) for step in range(1, 100)]
    for step, loss in enumerate(losses, start=1):
        _add(totals, loss, logits, labels)
        if not watch.is_finite():
            return step
    raise AssertionError("not seen")


@pytest.mark.parametrize("bad_step", [1, 9, 10, 11, 20])
def test_a_look_sees_every_loss_since_the_last_one(bad_step: int) -> None:
    assert _steps_until_seen(torch.device("cpu"), bad_step) == -(-bad_step // LOOK_EVERY) * LOOK_EVERY


@pytest.mark.parametrize("bad_step", [1, 10, 11])
def test_the_answer_of_a_device_is_waited_for_at_the_next_look(bad_step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: a device's answer is a number that is there once its event has been waited for."""
    looks, waited, answer = list[Any](), list[tuple[int, int]](), Totals.any_not_finite

    def copy(bad: Any) -> tuple[torch.Tensor, Any]:
        looks.append(bad)
        look = len(looks)
        return bad.value, types.SimpleNamespace(synchronize=lambda: waited.append((look, len(looks))))

    def ask(totals: Totals, steps: int) -> Any:
        return types.SimpleNamespace(device=torch.device("cuda"), value=answer(totals, steps))

    monkeypatch.setattr(Totals, "any_not_finite", ask)
    monkeypatch.setattr(meters, "_copy_to_host", copy)
    assert _steps_until_seen(torch.device("cpu"), bad_step) == (-(-bad_step // LOOK_EVERY) + 1) * LOOK_EVERY
    assert waited == [(look - 1, look) for look in range(2, len(looks) + 1)], "at each look for the answer of the one before"


@pytest.mark.gpu
@pytest.mark.parametrize("bad_step", [1, 10, 11])
def test_on_a_gpu_a_look_is_read_at_the_next_and_nothing_else_is_waited_for(bad_step: int) -> None:
    torch.cuda.set_sync_debug_mode("error")
    try:
        seen = _steps_until_seen(torch.device("cuda", 0), bad_step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert seen == (-(-bad_step // LOOK_EVERY) + 1) * LOOK_EVERY


@pytest.mark.gpu
def test_on_a_gpu_the_split_adds_up_and_nvml_reports_energy(tiny: TrainConfig, shapes: Dataset) -> None:
    config = dataclasses.replace(tiny, device="cuda:0", backend="fused", graph="off")  # a graph has no phases
    result = measure_throughput(config, shapes, seconds=2)
    assert sum(result.split_s.values()) == pytest.approx(result.wall_s)
    assert all(result.split_s[phase] > 0 for phase in PHASES)
    # Metrics, and the host between two steps: on the device's clock, never less than nothing but for rounding.
    assert result.split_s["other"] > -0.01 * result.wall_s
    if result.energy_j is not None and result.power_w is not None:
        assert result.power_w == pytest.approx(result.energy_j / result.wall_s)
        assert 10 < result.power_w < 2000  # no card takes less at work, and none takes more
