"""Environment of a run: machine, devices, versions, threads, commit, data. No names of users, no paths."""

import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil
import torch

from bench.records import Environment, machine_name
from training.cpus import usable_cpus, usable_memory

ROOT = Path(__file__).resolve().parent.parent
TRACKED = "bench/environment.py"
"""This file as the project's own repository tracks it."""
ARCHIVED = "bench/commit.txt"
"""Commit of an archive: git fills it in (.gitattributes: export-subst)."""
PACKAGES = (
    *("augmark", "torch", "torchvision", "kornia", "kornia_rs", "numpy", "pillow", "pillow-simd", "triton", "triton-augment"),
    *("nvidia-dali-cuda130", "albumentations", "opencv-python-headless", "pytest", "pytest-benchmark", "scipy", "msgspec"),
    "airbench",
)
# They change speed without being seen in code; the values of other variables are private.
SPEED_VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY"),
    *("OMP_PROC_BIND", "OMP_PLACES", "KMP_AFFINITY", "GOMP_CPU_AFFINITY", "MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
    *("PYTORCH_ENABLE_MPS_FALLBACK", "TORCH_COMPILE_DISABLE", "TORCHINDUCTOR_MAX_AUTOTUNE", "TORCHINDUCTOR_FREEZING"),
    *("NVIDIA_TF32_OVERRIDE", "PYTHONHASHSEED"),
)


def environment(dataset: Mapping[str, Any] | None = None, **measured: Any) -> Environment:
    """Return what a reader must know to judge or repeat a measurement; unknown values are None.

    Args:
        dataset: name, fingerprint, source and fallback of the images.
        measured: limits of the machine that were measured with the run, such as ``copy_bytes_per_s``.
    """
    values = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine_name(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "gpus": _gpus(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "variables": {name: os.environ[name] for name in SPEED_VARIABLES if name in os.environ},
        "commit": commit(),
        "dataset": dict(dataset) if dataset else None,
    }
    return msgspec.convert(values | measured, Environment)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> dict[str, Any]:
    frequency = load = None
    with contextlib.suppress(OSError, NotImplementedError, RuntimeError):  # unavailable in many containers
        frequency = psutil.cpu_freq()
    with contextlib.suppress(OSError):
        load = psutil.getloadavg()[0]
    return {
        "model": _cpu_model(),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "usable_cores": usable_cpus(),
        "max_mhz": (frequency.max or None) if frequency else None,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "memory_bytes": usable_memory(psutil.virtual_memory().total),
        "load_1min": load,
    }


def _cpu_model() -> str:
    with contextlib.suppress(OSError):  # /proc is Linux's
        if sys.platform == "darwin":
            return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    return [
        {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            **_driver_facts(torch.device("cuda", index)),
        }
        for index, properties in enumerate(map(torch.cuda.get_device_properties, range(torch.cuda.device_count())))
    ]


def _driver_facts(device: torch.device) -> dict[str, Any]:
    """Return driver version, clocks (MHz), power limit (W) and temperature by NVML; None for what it does not report."""
    from training.meters import find_handle, query

    questions: dict[str, Callable[[Any, Any], Any]] = {
        "driver": lambda nvml, handle: nvml.nvmlSystemGetDriverVersion(),
        "sm_clock_mhz": lambda nvml, handle: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "max_sm_clock_mhz": lambda nvml, handle: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
        "memory_clock_mhz": lambda nvml, handle: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
        "power_limit_w": lambda nvml, handle: nvml.nvmlDeviceGetPowerManagementLimit(handle) / 1e3,
        "temperature_c": lambda nvml, handle: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
    }
    handle = find_handle(device)
    return {} if handle is None else {name: query(question, handle) for name, question in questions.items()}


def commit(root: Path = ROOT) -> dict[str, Any] | None:
    """Return the commit of the running code and whether files differ from it.

    Returns:
        ``id`` and ``dirty``; of an archive that git made, the commit that it holds. None for other copies: unpacked or
        installed inside another repository, that repository's commit says nothing about the code.
    """
    git = ("git", "-C", str(root))
    if _output(*git, "ls-files", "--full-name", "--", TRACKED) != TRACKED:
        archived = root / ARCHIVED
        text = archived.read_text(encoding="utf-8").strip() if archived.exists() else ""
        return {"id": text, "dirty": False} if re.fullmatch("[0-9a-f]{40,64}", text) else None
    revision, status = _output(*git, "rev-parse", "HEAD"), _output(*git, "status", "--porcelain", "--", "*.py", "*.c", "*.h")
    return None if revision is None else {"id": revision, "dirty": None if status is None else bool(status)}


def _output(*command: str) -> str | None:
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() if process.returncode == 0 else None
