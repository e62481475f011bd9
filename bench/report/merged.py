"""What a report of several runs says of each of them, and which of their numbers were joined."""

from bench.records.machines import Part, code_facts, differences, machine_facts, part
from bench.report.blocks import Block, Bullets, Code, Heading, Paragraph, Strong, Table, Text
from bench.report.context import Context
from bench.report.quantities import UNKNOWN, counted, listed, word

PACKAGES = ("torch", "torchvision", "kornia")


def runs_section(context: Context) -> list[Block]:
    """A row a run, and in what the groups of runs differ; nothing for a run of its own."""
    parts = context.run.parts
    if not parts:
        return []
    groups = list(dict.fromkeys(one.group for one in parts))
    if len(groups) == 1:
        told = "All were measured by the same code on the same machine: the passes of a case follow each other in one number."
    else:
        told = (
            "Runs of one group were measured by the same code on the same machine, and the passes of a case follow each other "
            "in one number; groups stand apart everywhere below, their devices named as in the second column."
        )
    header = ["run", "its devices below", "group", "machine", "processors", "versions", "images", "commit", "date"]
    header += ["cases measured", "training records", "audited"]
    rows = [_row(one) for one in parts]
    blocks: list[Block] = [
        Heading(text=f"The {counted(len(parts), 'run')} in this report"),
        Paragraph(told),
        Table(header=header, rows=rows, numeric=frozenset({2, 9, 10})),
    ]
    return [*blocks, *_differences(parts, groups), *_notes(parts)]


def _row(one: Part) -> list[Text]:
    here = one.environment
    commit, data = part(here.get("commit")), part(here.get("dataset"))
    state = " with uncommitted changes" if commit.get("dirty") else ""
    return [
        [Code(one.name)],
        f"of {one.place}" if one.place else "as they are",
        str(one.group + 1),
        word(here, "machine"),
        _processors(one),
        ", ".join(_versions(one)) or UNKNOWN,
        word(data, "name"),
        [Code(word(commit, "id")[:12]), state],
        word(here, "time"),
        f"{one.measured:,} of {one.planned:,}",
        f"{one.training:,}",
        "yes" if one.audited else [Strong("no")],
    ]


def _processors(one: Part) -> str:
    gpus = one.environment.get("gpus")
    names = [word(part(gpu), "name") for gpu in gpus] if isinstance(gpus, list) else []
    cpu = part(one.environment.get("cpu"))
    cores = f", {word(cpu, 'usable_cores')} cores" if cpu else ""
    return "; ".join([f"{word(cpu, 'model')}{cores}", *names])


def _versions(one: Part) -> list[str]:
    packages = part(one.environment.get("packages"))
    gpus = one.environment.get("gpus")
    drivers = {word(part(gpu), "driver") for gpu in gpus} if isinstance(gpus, list) else set()
    return [
        *(f"{name} {packages[name]}" for name in PACKAGES if name in packages),
        *(f"driver {name}" for name in sorted(drivers)),
    ]


def _notes(parts: list[Part]) -> list[Block]:
    """What was left out of a run because another has it, and whose sameness of augmentation nobody checked."""
    items: list[Text] = [[Code(one.name), f": {note}"] for one in parts for note in one.notes]
    audited = {one.group for one in parts if one.audited}
    others = [one.name for one in parts if one.group not in audited]
    if audited and others:
        items.append(f"not audited, so that the verdicts below are those of other code or machines: {listed(others)}")
    return [Bullets(items)] if items else []


def _differences(parts: list[Part], groups: list[int]) -> list[Block]:
    """In what each group differs from the first."""
    if len(groups) == 1:
        return []
    first, *others = (next(one for one in parts if one.group == group) for group in groups)
    items: list[Text] = []
    for other in others:
        sides = [one.environment for one in (first, other)]
        found = differences(*(code_facts(side) | machine_facts(side) for side in sides)) if all(sides) else []
        changed = any(part(side.get("commit")).get("dirty") for side in sides)
        why = ["code with uncommitted changes is like no other"] if changed else []
        why += [] if all(sides) else ["its environment is not known"]
        items.append(f"group {other.group + 1}: {listed([*found, *why], 12)}")
    return [Paragraph("What sets the groups apart from the first:"), Bullets(items)]
