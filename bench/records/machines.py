"""environment.json: where a run was measured, and what must agree before numbers of two runs may meet. No torch here."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bench.records.base import Amount, Count, Positive, Size, Strict


class Cpu(Strict, frozen=True, kw_only=True):
    """Processor, threads and memory of a machine."""

    model: str
    usable_cores: Size
    threads: Size
    cores: Count | None = None
    logical_cores: Count | None = None
    max_mhz: Amount | None = None
    capability: str | None = None
    interop_threads: Count | None = None
    memory_bytes: Count | None = None
    load_1min: Amount | None = None
    """Load average over a minute, at the start."""


class Gpu(Strict, frozen=True, kw_only=True):
    """One GPU, as torch and NVML describe it."""

    name: str
    memory_bytes: Count | None = None
    compute_capability: str | None = None
    multiprocessors: Count | None = None
    driver: str | None = None
    sm_clock_mhz: Amount | None = None
    max_sm_clock_mhz: Amount | None = None
    memory_clock_mhz: Amount | None = None
    power_limit_w: Amount | None = None
    temperature_c: float | None = None


class Commit(Strict, frozen=True, kw_only=True):
    """Commit of the project's own repository."""

    id: Annotated[str, Meta(pattern="^[0-9a-f]{7,64}$")]
    dirty: bool | None = None
    """Uncommitted changes to files; None: not known."""


class DataSet(Strict, frozen=True, kw_only=True):
    """Images that were used."""

    name: str
    fingerprint: str
    source: str | None = None
    fallback: str | None = None
    """Reason why drawn shapes stood in for real images."""


class Environment(Strict, frozen=True, kw_only=True):
    """environment.json: where and with what a run was measured."""

    time: Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}")]
    """Start of the run, with its offset from UTC."""
    machine: str
    platform: str
    cpu: Cpu
    gpus: tuple[Gpu, ...] = ()
    cuda: str | None = None
    cudnn: Count | None = None
    python: str
    packages: dict[str, str]
    """Versions."""
    variables: dict[str, str] = {}
    """Environment variables that change speed."""
    commit: Commit | None = None
    dataset: DataSet | None = None
    copy_bytes_per_s: dict[str, Amount | None] = {}
    """Bytes read and written a second by a copy on each device."""
    matmul_flops_per_s: dict[str, dict[str, Positive]] = {}
    """Operations a second of a large matrix product on each device, by precision."""
    note: str | None = None
    """Note for readers of this run; the report prints it first."""


# ---- what must agree -----------------------------------------------------------------------------------------------------


def machine_facts(environment: Environment | None) -> dict[str, str]:
    """Return what must agree for a ratio to be about the code: GPUs, driver, CPU, threads, versions, variables, dataset.

    augmark's own version is not among them: it is what one compares.
    """
    stored: dict[str, Any] = msgspec.to_builtins(environment) if environment else {}
    facts: dict[str, str] = {}
    for index, gpu in enumerate(stored.get("gpus", ())):
        keys = ("name", "compute_capability", "multiprocessors", "driver", "max_sm_clock_mhz", "power_limit_w")
        facts |= {f"GPU {index} {key}": str(gpu.get(key)) for key in keys}
    cpu, data = stored.get("cpu", {}), stored.get("dataset") or {}
    for key in ("model", "cores", "logical_cores", "usable_cores", "capability", "threads", "interop_threads"):
        facts[f"CPU {key}"] = str(cpu.get(key))
    facts |= {key: str(stored.get(key)) for key in ("cuda", "cudnn", "python")}
    facts |= {name: version for name, version in stored.get("packages", {}).items() if name != "augmark"}
    facts |= {f"variable {name}": value for name, value in stored.get("variables", {}).items()}
    return facts | {f"dataset {key}": str(data.get(key)) for key in ("name", "fingerprint")}


def code_facts(environment: Environment | None) -> dict[str, str]:
    """Return which augmark measured, on which host and system."""
    commit = environment.commit if environment else None
    facts = {
        "machine": environment.machine if environment else None,
        "platform": environment.platform if environment else None,
        "augmark": environment.packages.get("augmark") if environment else None,
        "commit": str(commit.id if commit else None)[:12] + (" with changes" if commit and commit.dirty else ""),
    }
    return {name: str(value) for name, value in facts.items()}


def differences(a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    """Return a phrase for each fact that differs, such as "torch 2.11.0 -> 2.12.0"."""
    names = list(dict.fromkeys([*a, *b]))
    return [f"{n} {a.get(n, 'none')} -> {b.get(n, 'none')}" for n in names if a.get(n) != b.get(n)]
