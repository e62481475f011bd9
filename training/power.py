"""Utilisation, power and energy of GPUs while something runs, as NVIDIA's driver tells them (NVML)."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch

SAMPLE_EVERY_S = 0.1
"""The driver renews what it tells of utilisation and power every 0.02 to 1 s, depending on the board."""


@dataclass(frozen=True, kw_only=True)
class Power:
    """Of a process's GPUs: the mean share of the time in which a kernel ran, and what all took in joules; None: not told."""

    utilisation: float | None
    energy_j: float | None


class PowerMeter:
    """Watches CUDA devices between entering and leaving, from a thread that wakes ten times a second.

    Energy is the difference of the driver's own counter (Volta and later), else the mean of the sampled power times the time.
    On other devices, and where the driver tells nothing, ``power`` has only None.
    """

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self._handles = [handle for device in devices if (handle := _handle(device)) is not None]
        self._utilisation: list[float] = []
        self._power_w: list[list[float]] = [[] for _ in self._handles]
        self._counters: list[float | None] = []
        self._began = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.power = Power(utilisation=None, energy_j=None)

    def __enter__(self) -> PowerMeter:
        if self._handles:
            self._counters = [_ask(_energy_j, handle) for handle in self._handles]
            self._began = time.perf_counter()
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._handles:
            return
        seconds = time.perf_counter() - self._began
        energies = [
            self._energy(number, before, _ask(_energy_j, handle), seconds)
            for number, (handle, before) in enumerate(zip(self._handles, self._counters, strict=True))
        ]
        self._over.set()
        self._thread.join()
        known = [energy for energy in energies if energy is not None]
        self.power = Power(
            utilisation=statistics.fmean(self._utilisation) if self._utilisation else None,
            energy_j=sum(known) if len(known) == len(energies) else None,
        )

    def _energy(self, number: int, before: float | None, after: float | None, seconds: float) -> float | None:
        if before is not None and after is not None:
            return after - before
        return statistics.fmean(self._power_w[number]) * seconds if self._power_w[number] else None

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_EVERY_S):
            for handle, powers in zip(self._handles, self._power_w, strict=True):
                utilisation, power_w = _ask(_utilisation, handle), _ask(_power_w, handle)
                if utilisation is not None:
                    self._utilisation.append(utilisation)
                if power_w is not None:
                    powers.append(power_w)


def _handle(device: torch.device) -> Any | None:
    """The driver's name for a device. NVML numbers all GPUs of the machine, torch the visible ones: it is found by its UUID."""
    if device.type != "cuda":
        return None
    with contextlib.suppress(Exception):  # no driver, no NVML, a virtual GPU: its errors are many, and power is an extra
        import pynvml

        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode())
    return None


def _ask(question: Callable[[Any, Any], float], handle: Any) -> float | None:
    """The driver's answer, None where this board has none."""
    import pynvml

    try:
        return question(pynvml, handle)
    except pynvml.NVMLError:
        return None


def _energy_j(nvml: Any, handle: Any) -> float:
    return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3  # told in millijoules


def _power_w(nvml: Any, handle: Any) -> float:
    return float(nvml.nvmlDeviceGetPowerUsage(handle)) / 1e3  # told in milliwatts


def _utilisation(nvml: Any, handle: Any) -> float:
    return float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
