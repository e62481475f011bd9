"""What a report opens with: on what it was measured, what must be warned of, and the answer."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.measurements import Measurement, finite
from bench.report.arms import Arm, ceiling, settings, share_of
from bench.report.blocks import Block, Bullets, Code, Heading, Inline, Strong, Table, Text, Warning
from bench.report.context import Context
from bench.report.lanes import LANES, LaneTable, lane_tables, passes, rate
from bench.report.parity import summary
from bench.report.quantities import UNKNOWN, counted, percent, rounded, spread, word
from bench.report.runs import FEWEST_SEEDS, interval, number_of_epochs

COMMON_RECIPES = ("crop_flip", "flip", "d2l", "imagenet")
PACKAGES = ("augbench", "torch", "torchvision", "kornia", "numpy", "pillow", "triton")


# ---- title and facts --------------------------------------------------------------------------------------------------


def title(context: Context) -> list[Block]:
    """Heading, facts and warnings."""
    here = context.run.environment
    heading = f"Image augmentation on {word(here, 'machine', context.run.name)}: {devices_words(context)}"
    facts = [[[Strong(name)], text] for name, text in _facts(context)]
    return [Heading(text=heading, level=1), *warnings(context), Table(header=["", ""], rows=facts)]


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
    return [
        ("Run", [Code(context.run.name)]),
        ("Date", word(here, "time")),
        ("Machine", ", ".join(filter(None, (word(here, "machine"), word(here, "platform", ""))))),
        ("CPU", _cpu_words(_mapping(here.get("cpu")))),
        ("GPU", "; ".join(map(_gpu_words, _mappings(here.get("gpus")))) or "none"),
        ("Images", "; ".join(datasets(context)) or UNKNOWN),
        ("Versions", ", ".join(versions) or UNKNOWN),
        ("Variables", ", ".join(f"{name}={value}" for name, value in variables.items()) or "none that change speed"),
        ("Commit", _commit_words(here.get("commit"))),
    ]


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


# ---- the answer -------------------------------------------------------------------------------------------------------


def answer(context: Context) -> list[Block]:
    """A few sentences from the data: how fast, what it costs in training, what it gives in accuracy."""
    items = [*_fastest(context), *_cost(context), *_gain(context), summary(context)]
    return [Heading(text="In short"), Bullets(items)]


def _fastest(context: Context) -> list[Text]:
    tables = [table for table in lane_tables(context.run.measurements, "recipes") if table.lane in ("per_image", "per_batch")]
    measured = dict.fromkeys(subject for table in tables for subject in table.subjects if table.ok(subject))
    recipe = next((name for name in (*COMMON_RECIPES, *measured) if name in measured), None)
    if recipe is None:
        return ["Images per second of recipes: not measured."]
    return [_fastest_of_lane(context, tables, recipe, lane) for lane in ("per_image", "per_batch")]


def _fastest_of_lane(context: Context, tables: Sequence[LaneTable], recipe: str, lane: str) -> Text:
    cells = [cell for table in tables if table.lane == lane for cell in table.ok(recipe)]
    equal = [cell for cell in cells if (recipe, cell.case.backend) not in (context.differences or {})]
    ranked = sorted(equal, key=lambda cell: -(rate(cell) or 0))
    if not ranked:
        return [Code(recipe), f" with {LANES[lane]}: not measured."]
    case = ranked[0].case
    shape = f"batch {case.batch_size}, {case.image_size} x {case.image_size} pixels"
    text: list[Inline] = [Code(recipe), f" with {LANES[lane]} ({shape}): fastest is ", *_speed(ranked[0])]
    for device in dict.fromkeys(cell.case.device for cell in ranked if cell.case.device != case.device):
        text += [f"; on {device} ", *_speed(next(cell for cell in ranked if cell.case.device == device))]
    return [*text, *(["; slowest ", *_speed(ranked[-1])] if len(ranked) > 1 else []), "."]


def _speed(cell: Measurement) -> list[Inline]:
    values = passes(cell)
    sure = ", ".join(filter(None, (spread(values), counted(len(values), "pass", "passes"))))
    return [Code(cell.case.backend), f" on {cell.case.device}, {rounded(rate(cell) or 0)} images/s ({sure})"]


def _cost(context: Context) -> list[Text]:
    groups = [arms for arms in settings(context.run.training, "throughput") if ceiling(arms)]
    if not groups:
        return ["What placement costs in training: not measured."]
    arms = max(groups, key=len)
    top = ceiling(arms)
    recipes = dict.fromkeys(word(arm.first, "recipe") for arm in arms if not arm.is_ceiling)
    recipe = next((name for name in (*COMMON_RECIPES, *recipes) if name in recipes), None)
    if top is None or recipe is None:
        return ["What placement costs in training: not measured."]
    ours = [arm for arm in arms if not arm.is_ceiling and word(arm.first, "recipe") == recipe and arm.median("examples_per_s")]
    items: list[Text] = [f"Training {word(top.first, 'model')} without augmentation reaches {_trained(top)}."]
    for lane in LANES:
        ranked = sorted((arm for arm in ours if arm.lane == lane), key=lambda arm: -(arm.median("examples_per_s") or 0))
        if not ranked:
            continue
        worst = f"; slowest {_placed(ranked[-1], top)}." if len(ranked) > 1 else "."
        items.append(["Training with ", Code(recipe), f", {LANES[lane]}: fastest is {_placed(ranked[0], top)}{worst}"])
    return items


def _trained(arm: Arm) -> str:
    values = arm.values("examples_per_s")
    sure = ", ".join(filter(None, (spread(values), counted(len(values), "round"))))
    return f"{rounded(statistics.median(values))} examples/s ({sure})"


def _placed(arm: Arm, top: Arm) -> str:
    return f"{arm.label} at {percent(share_of(arm, top) or 0, 0)} of that, {_trained(arm)}"


def _gain(context: Context) -> list[Text]:
    groups = settings(context.run.training, "accuracy")
    scored: Sequence[Arm] = [arm for arm in max(groups, key=len, default=[]) if arm.values("test_accuracy")]
    if not scored:
        return ["Accuracy: not measured."]
    ranked = sorted(scored, key=lambda arm: -statistics.fmean(arm.values("test_accuracy")))
    bare = next((arm for arm in scored if word(arm.first, "recipe") == "none"), None)
    shown = [arm for arm in ranked if arm in (ranked[0], ranked[-1], bare)]
    first = ranked[0].first
    epochs = counted(number_of_epochs(ranked[0]), "epoch")
    text: list[Inline] = [f"Test accuracy of {word(first, 'model')} on {word(first, 'dataset')} after {epochs}: "]
    for index, arm in enumerate(shown):
        values = arm.values("test_accuracy")
        name = "best " if arm is ranked[0] else "worst " if arm is ranked[-1] else ""
        text += ["; " if index else "", name, Code(word(arm.first, "recipe")), " "]
        text.append(f"{percent(statistics.fmean(values))}{interval(values)} ({counted(len(values), 'seed')})")
    few = min(len(arm.values("test_accuracy")) for arm in shown) < FEWEST_SEEDS
    text.append("; too few seeds for a confidence interval, so treat differences as hints." if few else ".")
    return [text]
