"""Power and energy: a driver of our own making, whose answers are known."""

import sys
import time
import types
from typing import Any

import pytest
import torch

from training import power
from training.power import PowerMeter


class _NVMLError(Exception):
    pass


class _Driver(types.ModuleType):
    """Two GPUs, which take 100 W and 50 W; the first keeps count of its energy, in steps of a millijoule."""

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

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return {"GPU-a": 100_000, "GPU-b": 50_000}[handle]

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        return types.SimpleNamespace(gpu={"GPU-a": 90, "GPU-b": 40}[handle])


@pytest.fixture
def _driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _Driver())
    uuids = {0: "a", 1: "b"}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda d: types.SimpleNamespace(uuid=uuids[d.index]))
    monkeypatch.setattr(power, "SAMPLE_EVERY_S", 0.005)


@pytest.mark.usefixtures("_driver")
def test_energy_is_the_counters_difference_or_power_times_time() -> None:
    with PowerMeter([torch.device("cuda", 0)]) as first:
        time.sleep(0.05)
    assert first.power.energy_j == 25  # (26,000 - 1,000) mJ, whatever the sampled power
    assert first.power.utilisation == pytest.approx(0.9)
    start = time.perf_counter()
    with PowerMeter([torch.device("cuda", 1)]) as second:
        time.sleep(0.05)
    most = 50 * (time.perf_counter() - start)
    assert second.power.energy_j is not None
    assert 50 * 0.05 <= second.power.energy_j <= most
    assert second.power.utilisation == pytest.approx(0.4)


@pytest.mark.usefixtures("_driver")
def test_gpus_are_taken_together() -> None:
    with PowerMeter([torch.device("cuda", 0), torch.device("cuda", 1)]) as meter:
        time.sleep(0.05)
    assert meter.power.energy_j is not None
    assert meter.power.energy_j >= 25 + 50 * 0.05
    assert meter.power.utilisation == pytest.approx((0.9 + 0.4) / 2)


def test_where_no_driver_tells_anything_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    with PowerMeter([torch.device("cpu")]) as meter:
        pass
    assert (meter.power.utilisation, meter.power.energy_j) == (None, None)

    def none(*_: Any) -> Any:
        raise _NVMLError("driver not loaded")

    driver = _Driver()
    monkeypatch.setattr(driver, "nvmlInit", none)
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    with PowerMeter([torch.device("cuda", 0)]) as meter:
        pass
    assert (meter.power.utilisation, meter.power.energy_j) == (None, None)


def test_without_the_drivers_library_nothing_is_known_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it raises ImportError
    for _ in range(2):
        with PowerMeter([torch.device("cuda", 0)]) as meter:
            pass
        assert (meter.power.utilisation, meter.power.energy_j) == (None, None)
    assert capfd.readouterr() == ("", "")
    assert len(recwarn) == 0
