"""Facts of machine and code that must agree before numbers of two runs may meet. No torch here."""

from collections.abc import Mapping
from typing import Any

import msgspec

from bench.records.structs import Environment


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
