"""On what a run was measured, as plain facts: what must agree before numbers of two runs may meet. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the runs that a merged run was made of.

    ``place`` is what its devices are called there ("cpu of PLACE"), where not all runs are of one machine and one code; parts
    of the same ``group`` are, and their passes were joined. ``notes`` say what of it was left out because another run has it,
    a line each.
    """

    name: str
    path: Path
    group: int
    place: str | None
    environment: dict[str, Any]
    planned: int
    measured: int
    training: int
    audited: bool
    notes: list[str]


def part(value: Any) -> Mapping[str, Any]:
    """A nested object of a record; empty where there is none, or something else stands."""
    return value if isinstance(value, Mapping) else {}


def machine_facts(environment: Mapping[str, Any]) -> dict[str, str]:
    """What must agree for a ratio to be about the code: GPUs, driver, CPU, threads, versions, variables, dataset.

    augmark's own version is not among them: it is what one compares.
    """
    facts: dict[str, str] = {}
    gpus = environment.get("gpus")
    for index, gpu in enumerate(gpus if isinstance(gpus, list) else []):
        keys = ("name", "compute_capability", "multiprocessors", "driver", "max_sm_clock_mhz", "power_limit_w")
        facts |= {f"GPU {index} {key}": str(part(gpu).get(key)) for key in keys}
    cpu, data = part(environment.get("cpu")), part(environment.get("dataset"))
    for key in ("model", "cores", "logical_cores", "usable_cores", "capability", "threads", "interop_threads"):
        facts[f"CPU {key}"] = str(cpu.get(key))
    facts |= {key: str(environment.get(key)) for key in ("cuda", "cudnn", "python")}
    facts |= {name: str(version) for name, version in part(environment.get("packages")).items() if name != "augmark"}
    facts |= {f"variable {name}": str(value) for name, value in part(environment.get("variables")).items()}
    return facts | {f"dataset {key}": str(data.get(key)) for key in ("name", "fingerprint")}


def code_facts(environment: Mapping[str, Any]) -> dict[str, str]:
    """Which augmark measured, on which host and system."""
    commit = part(environment.get("commit"))
    known = {"machine": environment.get("machine"), "platform": environment.get("platform")}
    known |= {"augmark": part(environment.get("packages")).get("augmark")}
    known["commit"] = str(commit.get("id"))[:12] + (" with changes" if commit.get("dirty") else "")
    return {name: str(value) for name, value in known.items()}


def differences(a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    """Such as "torch 2.11.0 -> 2.12.0", one a fact that is not the same in both."""
    names = list(dict.fromkeys([*a, *b]))
    return [f"{n} {a.get(n, 'none')} -> {b.get(n, 'none')}" for n in names if a.get(n) != b.get(n)]
