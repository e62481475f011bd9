"""What a report opens with: what must be warned of, the answer, and on what it was measured."""

import re
from collections.abc import Mapping
from typing import Any

from bench.records.measurements import finite
from bench.report.blocks import Block, Code, Facts, Heading, Inline, Strong, Text, Warning
from bench.report.context import Context
from bench.report.lead import lead
from bench.report.parity import verdict_words
from bench.report.quantities import UNKNOWN, counted, word

PACKAGES = ("augmark", "torch", "torchvision", "kornia", "numpy", "pillow", "triton")


# ---- title and facts --------------------------------------------------------------------------------------------------


def title(context: Context) -> list[Block]:
    """Heading, warnings, the answer and the facts."""
    here = context.run.environment
    several = len({one.group for one in context.run.parts}) > 1  # whose devices bear the names of their runs
    what = counted(len(context.run.parts), "run") if several else devices_words(context)
    heading = f"Image augmentation on {word(here, 'machine', context.run.name)}: {what}"
    return [Heading(text=heading, level=1), *warnings(context), lead(context), Facts(_facts(context))]


def devices_words(context: Context) -> str:
    """The devices of the run, by the names of the hardware where they were told."""
    here = context.run.environment
    names = list(dict.fromkeys(one.case.device for one in context.run.measurements))
    names += [d for r in context.run.training if isinstance(d := r.get("device"), str) and d not in (*names, "auto")]
    gpus, cpu = _mappings(here.get("gpus")), _mapping(here.get("cpu"))
    words = []
    for name in dict.fromkeys(names):
        if name == "cpu":
            words.append(f"cpu ({word(cpu, 'model')})" if cpu.get("model") else "cpu")
        elif gpus and name.startswith("cuda"):
            words.append(f"{name} ({word(gpus[0], 'name')})")
        else:
            words.append(name)
    return ", ".join(words) or "nothing measured"


def _facts(context: Context) -> list[tuple[str, Text]]:
    here = context.run.environment
    packages = _mapping(here.get("packages"))
    versions = [f"{name} {packages[name]}" for name in PACKAGES if name in packages]
    versions += [f"{name} {here[key]}" for name, key in (("CUDA", "cuda"), ("Python", "python")) if here.get(key)]
    variables = _mapping(here.get("variables"))
    if len({one.group for one in context.run.parts}) > 1:  # no processor, version or commit speaks for all
        return [
            ("Audit", verdict_words(context)),
            ("Runs", f"{len(context.run.parts)} of several machines, versions or commits: a row each below"),
            ("Date", date_words(word(here, "time"))),
            ("Machines", word(here, "machine")),
            ("Images", "; ".join(datasets(context)) or UNKNOWN),
        ]
    return [
        ("Audit", verdict_words(context)),
        ("Images", "; ".join(datasets(context)) or UNKNOWN),
        ("Machine", ", ".join(filter(None, (word(here, "machine"), word(here, "platform", ""))))),
        ("CPU", _cpu_words(_mapping(here.get("cpu")))),
        ("GPU", "; ".join(map(_gpu_words, _mappings(here.get("gpus")))) or "none"),
        ("Versions", ", ".join(versions) or UNKNOWN),
        ("Variables", ", ".join(f"{name}={value}" for name, value in variables.items()) or "none that change speed"),
        ("Commit", _commit_words(here.get("commit"))),
        ("Date", date_words(word(here, "time"))),
        ("Run", [Code(context.run.name)]),
    ]


def date_words(time: str) -> str:
    """Such as "2026-11-24 11:17 UTC" from a time in ISO 8601; anything else as it is."""
    return re.sub(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(?::\d\d(?:\.\d+)?)?(?:\+00:00|Z)", r"\1 \2 UTC", time)


def _cpu_words(cpu: Mapping[str, Any]) -> str:
    if not cpu:
        return UNKNOWN
    words = [word(cpu, "model"), f"{word(cpu, 'usable_cores')} usable of {word(cpu, 'logical_cores')} logical cores"]
    words.append(f"torch threads: {word(cpu, 'threads')}")
    memory, load = cpu.get("memory_bytes"), cpu.get("load_1min")
    words += [f"{memory / 2**30:.0f} GiB"] if isinstance(memory, int | float) and finite(memory) else []
    words += [f"load {load:.1f} at the start"] if isinstance(load, int | float) and finite(load) else []
    return ", ".join(words)


def _gpu_words(gpu: Mapping[str, Any]) -> str:
    words = [word(gpu, "name")]
    memory = gpu.get("memory_bytes")
    words += [f"{memory / 2**30:.0f} GiB"] if isinstance(memory, int | float) and finite(memory) else []
    named = (
        *(("driver", "driver ", ""), ("sm_clock_mhz", "SM clock ", " MHz"), ("max_sm_clock_mhz", "at most ", " MHz")),
        *(("power_limit_w", "limit ", " W"), ("temperature_c", "", " °C")),
    )
    return ", ".join([*words, *(f"{before}{gpu[name]}{unit}" for name, before, unit in named if gpu.get(name) is not None)])


def _commit_words(commit: Any) -> Text:
    if not isinstance(commit, dict):
        return UNKNOWN
    changed = commit.get("dirty")
    state: Inline = Strong("with uncommitted changes") if changed else "clean" if changed is False else "changes not known"
    return [Code(word(commit, "id")[:12]), ", ", state]


def datasets(context: Context) -> list[str]:
    """The image sets of the run, each with its fingerprint and what it was used for."""
    used: dict[tuple[str, str], list[str]] = {}
    for what, data in _datasets(context):
        uses = used.setdefault((word(data, "name"), word(data, "fingerprint")), [])
        if what not in uses:
            uses.append(what)
    return [f"{name} (fingerprint {print_}; {', '.join(uses)})" for (name, print_), uses in used.items()]


def _datasets(context: Context) -> list[tuple[str, Mapping[str, Any]]]:
    found = []
    data = _mapping(context.run.environment.get("dataset"))
    if data:
        found.append(("benchmarks", data))
    for record in context.run.training:
        if record.get("dataset"):
            found.append((word(record, "kind", "training"), {**record, "name": record["dataset"]}))
    return found


def warnings(context: Context) -> list[Block]:
    """What a reader must know before any number: a substitute data set, records that could not be read."""
    blocks: list[Block] = []
    sets = _datasets(context)
    for reason in dict.fromkeys(str(data["fallback"]) for _, data in sets if data.get("fallback")):
        blocks.append(Warning([Strong("Not a real data set."), f" {reason}. Accuracies say nothing about CIFAR-10."]))
    if not blocks and any("synthetic" in word(data, "name").lower() for _, data in sets):
        words = " These images are drawn shapes; accuracies say nothing about CIFAR-10."
        blocks.append(Warning([Strong("Synthetic data set."), words]))
    if context.run.problems:
        words = f" {counted(len(context.run.problems), 'part')} of it could not be read; see the section on what is missing."
        blocks.append(Warning([Strong("This report is not of the whole run."), words]))
    return blocks


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
