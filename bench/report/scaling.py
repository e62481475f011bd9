"""Training on several processes: examples/s, how well they scale, who is slowest, and that nobody drew what another drew."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt

from bench.report.arms import MANNER, SETTING, Arm, Record, gathered, setting_words, succeeded, with_spread
from bench.report.blocks import Block, Code, Heading, Paragraph, Table, Text, Warning
from bench.report.context import Context
from bench.report.failures import failed_section
from bench.report.figures import save
from bench.report.quantities import UNKNOWN, counted, listed, number, percent, rounded, word
from bench.report.style import INK, QUIET, series_look, short
from bench.report.tax import ratios

TITLE = "Training on several processes"
SHARED = tuple(name for name in (*SETTING, *MANNER) if name != "batch_size")
"""What all jobs of one table have in common: the batch is what scaling changes."""
JOB = ("processes", "scaling", "parallel", "batch_size")
HOW = {"ddp": "DDP, a process for each", "data_parallel": "DataParallel, one process", "none": "one process"}
MEANING = (
    "examples/s of all processes together, over the wall time of the slowest; median of the rounds, ± half the range between "
    "them. Strong scaling keeps the batch of all together, weak scaling that of each. "
)
ON_DEVICES = "Efficiency is the speed-up over one process, divided by the number of devices."
ON_CPU = (
    "On a CPU the processes share its cores, each with an equal part of the threads, so that efficiency is the speed-up "
    "itself: no hardware comes along."
)
SLOWEST = (
    "The slowest rank is told from what each reaches in a bare loop of its own while the others run theirs: with gradients "
    "exchanged, all wait for it. That no two ranks drew the same was seen from the first augmented batches of each, made from "
    "one image in all places."
)


def scaling_section(context: Context) -> list[Block]:
    """A table and a figure for each setting; nothing where scaling was not measured."""
    groups = gathered(succeeded(context.run.training, "scaling"), SHARED)
    alike = [r for r in context.run.training if r.get("kind") == "scaling" and r.get("shared_draws")]
    if not groups and not alike:
        return failed_section(context, "scaling", TITLE)
    blocks: list[Block] = [Heading(text=TITLE)]
    for reason in dict.fromkeys(word(record, "reason") for record in alike):
        blocks.append(Warning(f"{reason}: that job was not training on independent draws, and its speed is left out."))
    for index, records in enumerate(groups, start=1):
        arms = [Arm(records=group) for group in gathered(records, JOB)]
        blocks += _jobs(context, sorted(arms, key=lambda arm: (processes(arm), *_sort(arm))), index)
    return blocks


def scaling_findings(context: Context) -> list[Text]:
    """A sentence for each setting: what the most processes of each sort reach, against one."""
    items: list[Text] = []
    for records in gathered(succeeded(context.run.training, "scaling"), SHARED):
        arms = [Arm(records=group) for group in gathered(records, JOB)]
        alone = next((arm for arm in arms if processes(arm) == 1 and arm.median("examples_per_s")), None)
        told = most_processes(arms)
        if told:
            first = f"Training {word(told[0].first, 'model')} on several processes: "
            single = f"; one process {with_spread(alone, 'examples_per_s')}" if alone else ""
            items.append(f"{first}{'; '.join(speed_words(arm, alone) for arm in told)}{single}.")
    return items


def most_processes(arms: Sequence[Arm]) -> list[Arm]:
    """Of each sort of scaling the arm with the most processes that has a speed; at least two."""
    several = [arm for arm in arms if processes(arm) > 1 and arm.median("examples_per_s")]
    return [max((arm for arm in several if _sort(arm) == sort), key=processes) for sort in dict.fromkeys(map(_sort, several))]


def speed_words(arm: Arm, alone: Arm | None) -> str:
    """Such as "2 processes, weak scaling, 2,050 ±1.0 % examples/s, 1.05 times one (1.01 to 1.08)"."""
    if processes(arm) == 1:
        rounds = counted(len(arm.values("examples_per_s")), "round")
        return f"{with_spread(arm, 'examples_per_s')} examples/s, {rounds}"
    pairs = ratios(arm.records, alone.records) if alone is not None else []
    faster = f", {rounded(statistics.median(pairs))} times one{_span(pairs, 1)}" if pairs else ""
    together = ", DataParallel" if word(arm.first, "parallel") == "data_parallel" else ""
    sort = f"{processes(arm)} processes, {word(arm.first, 'scaling')} scaling{together}"
    return f"{sort}, {with_spread(arm, 'examples_per_s')} examples/s{faster}"


def processes(arm: Arm) -> int:
    """How many an arm's job had."""
    return int(number(arm.first, "processes") or 1)


def on_cpu(arm: Arm) -> bool:
    """Whether its processes share the cores of one CPU; in a merged report that is "cpu of" the run."""
    return word(arm.first, "device").partition(" ")[0] == "cpu"


def _sort(arm: Arm) -> tuple[str, str]:
    return word(arm.first, "scaling"), word(arm.first, "parallel")


def _jobs(context: Context, arms: Sequence[Arm], index: int) -> list[Block]:
    first = arms[0].first
    shared = on_cpu(arms[0])
    setting = f"Setting: {setting_words(arms[:1])}, {word(first, 'recipe')} by "
    blocks: list[Block] = [
        Paragraph([setting, Code(word(first, "backend")), "; batches as in the table."]),
        Paragraph(f"{MEANING}{ON_CPU if shared else ON_DEVICES} {SLOWEST}"),
    ]
    alone = next((arm for arm in arms if processes(arm) == 1), None)
    if len({processes(arm) for arm in arms if arm.median("examples_per_s")}) > 1:
        speeds = [f"{processes(arm)} {_sort(arm)[0]} {rounded(arm.median('examples_per_s') or 0)}" for arm in arms]
        alternative = f"Lines: examples per second by number of processes. Processes, sort and speed: {listed(speeds)}."
        blocks.append(context.figure(f"scaling-{index}", lambda path: scaling_figure(arms, path), alternative))
    header = ["processes", "scaling", "how", "batch together", "batch a device", "examples/s", "speed-up", "efficiency"]
    header += ["slowest rank", "threads a process", "draws", "n, rounds"]
    rows = [_row(arm, alone, shared) for arm in arms]
    return [*blocks, Table(header=header, rows=rows, numeric=frozenset({0, 3, 4, 5, 6, 7, 9, 11}))]


def _row(arm: Arm, alone: Arm | None, shared: bool) -> list[Text]:
    one = arm.first
    pairs = ratios(arm.records, alone.records) if alone is not None else []
    speedup = statistics.median(pairs) if pairs else None
    devices = 1 if shared else number(one, "processes") or 1
    several = speedup is not None and arm is not alone
    return [
        word(one, "processes"),
        "" if one.get("scaling") == "one" else word(one, "scaling"),
        HOW.get(word(one, "parallel"), UNKNOWN),
        word(one, "batch_size"),
        word(one, "batch_per_device"),
        with_spread(arm, "examples_per_s"),
        f"{rounded(speedup)}{_span(pairs, 1)}" if several and speedup is not None else "" if arm is alone else UNKNOWN,
        percent(speedup / devices, 0) if several and speedup is not None else "" if arm is alone else UNKNOWN,
        _slowest(arm.records),
        word(one, "threads"),
        _draws(one),
        str(len(arm.values("examples_per_s"))),
    ]


def _span(values: Sequence[float], least: int) -> str:
    return f" ({rounded(min(values))} to {rounded(max(values))})" if len(values) > least else ""


def _slowest(records: Sequence[Record]) -> str:
    """The rank with the least examples/s of its own, by its median over the rounds, against the fastest."""
    told = [paces for record in records if isinstance(paces := record.get("own_examples_per_s"), list) and len(paces) > 1]
    if not told or len({len(paces) for paces in told}) > 1:
        return ""
    try:
        middles = [statistics.median(map(float, ranks)) for ranks in zip(*told, strict=True)]
    except (TypeError, ValueError):
        return UNKNOWN
    slowest = middles.index(min(middles))
    return f"rank {slowest}, {percent(min(middles) / max(middles), 0)} of the fastest" if max(middles) > 0 else UNKNOWN


def _draws(record: Record) -> str:
    if record.get("draws") == "fixed":
        return "nothing is drawn"
    if (number(record, "processes") or 1) < 2 or record.get("parallel") == "data_parallel":
        return ""
    return "no two ranks alike" if record.get("shared_draws") == [] else UNKNOWN


def scaling_figure(arms: Sequence[Arm], path: Path) -> Path:
    """examples/s by number of processes: a line a sort of scaling and way to train, dots for rounds, dotted what is ideal."""
    figure, axes = plt.subplots(figsize=(6.4, 3.8))
    alone = [arm for arm in arms if processes(arm) == 1]
    counts = sorted({processes(arm) for arm in arms})
    for index, sort in enumerate(dict.fromkeys(_sort(arm) for arm in arms if arm not in alone)):
        color, dashes = series_look(index)
        line = [arm for arm in arms if (arm in alone or _sort(arm) == sort) and arm.median("examples_per_s")]
        middles = [arm.median("examples_per_s") or 0.0 for arm in line]
        label = f"{sort[0]} scaling" + (", DataParallel" if sort[1] == "data_parallel" else "")
        axes.plot(list(map(processes, line)), middles, dashes, color=color, linewidth=1.8, marker="o", label=label)
        for arm in line:
            rounds = arm.values("examples_per_s")
            axes.plot([processes(arm)] * len(rounds), rounds, ".", color=color, markersize=4, alpha=0.5)
    base = alone[0].median("examples_per_s") if alone else None
    if base:
        shared = on_cpu(arms[0])
        ideal = [base if shared else base * count for count in counts]
        axes.plot(counts, ideal, ":", color=INK, linewidth=1.2, label="the same cores, nothing lost" if shared else "ideal")
    axes.set_xticks(counts)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: short(value))
    axes.set_xlabel("processes", color=QUIET)
    axes.set_ylabel("examples/s, all together")
    axes.legend(fontsize=9)
    return save(figure, path)
