"""``augmark publish``: runs that others may cite, and the index page over them, made from their records alone.

A run is published when ``objections`` has none: what must hold is in its table. No torch here.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.records.machines import part
from bench.records.runs import AUDIT, GALLERY, TRAINING, Run, load_run
from bench.records.validation import validate_run
from bench.report import write_report
from bench.report.blocks import Block, Break, Bullets, Code, Heading, Inline, Link, Paragraph, Table, Text
from bench.report.lanes import LANES, lane_tables, named_differences, passes, rate
from bench.report.markdown import render
from bench.report.quantities import UNKNOWN, counted, half_range, listed, number, percent, rounded, spread, word

INDEX = "README.md"
RECORDS = ("plan.json", "ops.json", "environment.json", AUDIT, TRAINING)
REPORTS = (("page", "report/index.html"), ("Markdown", "report/report.md"), ("Markdown", "report.md"))
FEWEST_PASSES = 3
QUIET = 1.25
"""Most load a core at the start: our own audit, just before, makes about one, so more was somebody else's."""
STEADY = 0.25
"""Most that the passes of the middle case may differ by, half their range over the median."""
SHOWN = "crop_flip"
ABOUT = (
    " from the records in these folders, so edit nothing here; CONTRIBUTING.md tells how a run gets here. Numbers of different "
    "machines, versions or images are no comparison of libraries."
)
PACKAGES = ("torch", "torchvision", "kornia")


# ---- what must hold ---------------------------------------------------------------------------------------------------


def objections(run: Run) -> list[str]:
    """Why a run should not be published, a line each."""
    here = run.environment
    commit, cpu = part(here.get("commit")), part(here.get("cpu"))
    sets = [part(here.get("dataset")), *run.training]
    fallback = next((str(one["fallback"]) for one in sets if one.get("fallback")), None)
    drawn = any("synthetic" in str(one.get("name") or one.get("dataset")).lower() for one in sets)
    load, cores = number(cpu, "load_1min") or 0.0, number(cpu, "usable_cores") or 1.0
    middle = _middle_spread(run)
    counts = Counter(one.status for one in run.measurements)
    trained = any(record.get("status", "ok") == "ok" for record in run.training)
    few = [one for one in run.measurements if one.status == "ok" and len(passes(one)) < FEWEST_PASSES]
    rules = (
        (not commit.get("id"), "the commit is not known: measure from a git checkout"),
        (commit.get("dirty") is not False, "files differed from the commit: commit first, then measure"),
        (bool(fallback) or drawn, f"the images are not real ({fallback or 'drawn shapes'}): give real ones with --data"),
        (not run.audit.get("verdicts"), f"it was not audited: augmark audit --out {run.path} adds that"),
        (
            load > QUIET * cores,
            f"the machine was busy: load {load:.1f} on {cores:.0f} cores at the start",
        ),
        (middle > STEADY, f"passes differ by ±{percent(middle, 0)} in the middle case: measure longer, or where it is quiet"),
        (counts["not_run"] > 0, f"{counted(counts['not_run'], 'case')} did not run: go on with --resume"),
        (not counts["ok"] and not trained, "nothing was measured"),
        (bool(few), f"{counted(len(few), 'case')} rest on fewer than {FEWEST_PASSES} passes: add --passes {FEWEST_PASSES}"),
    )
    return [*(why for broken, why in rules if broken), *run.problems, *validate_run(run.path)]


def publish(paths: Sequence[Path], folder: Path, console: Console) -> Path:
    """Copy the records of runs to ``folder``, write their reports anew there, and the index; returns the index's path.

    Without runs only the index is written. Raises ValueError with all objections on one line each, before anything is copied,
    or when a run of that name is already published.
    """
    for path in paths:
        run = load_run(path)
        against = objections(run)
        if against:
            raise ValueError(f"{path} cannot be published: " + "; ".join(against))
        if (folder / run.name).exists() and (folder / run.name).resolve() != path.resolve():
            raise ValueError(f"{folder} holds a run called {run.name} already: rename the folder of this one")
    for path in paths:
        target = folder / path.resolve().name
        if target.resolve() != path.resolve():
            target.mkdir(parents=True)
            for name in (name for name in RECORDS if (path / name).exists()):
                shutil.copyfile(path / name, target / name)
            pictures = Path(GALLERY).parent
            if (path / pictures).is_dir():
                shutil.copytree(path / pictures, target / pictures)
        console.print(f"report: {write_report(load_run(target))}")
    return write_index(folder)


# ---- the index --------------------------------------------------------------------------------------------------------


def write_index(folder: Path) -> Path:
    """Write the index page over all runs in a folder. Raises ValueError when the folder does not exist."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: publish a run there first")
    path = folder / INDEX
    path.write_text(index(folder), encoding="utf-8")
    return path


def index(folder: Path) -> str:
    """The index page as Markdown: a row a run, the newest first, and a line for each that cannot be read."""
    runs, unread = [], []
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        try:
            runs.append(load_run(path))
        except ValueError as error:
            unread.append(str(error).replace(f"{folder}/", ""))
    runs.sort(key=lambda run: str(run.environment.get("time")), reverse=True)
    blocks: list[Block] = [
        Heading(text="Published runs", level=1),
        Paragraph(["Written by ", Code("augmark publish"), ABOUT]),
    ]
    if runs:
        header = ["run", "measured on", "versions", "images", "what", f"fastest {SHOWN} by lane, images/s", "audit, cells"]
        blocks.append(Table(header=header, rows=[_row(run) for run in runs]))
    else:
        blocks.append(Paragraph("None yet."))
    notes = [*unread, *(f"{run.name}: {problem}" for run in runs for problem in run.problems)]
    return render([*blocks, *([Bullets(notes)] if notes else [])])


def _row(run: Run) -> list[Text]:
    here = run.environment
    packages = part(here.get("packages"))
    versions = [f"{name} {packages[name]}" for name in PACKAGES if name in packages]
    versions += [f"Python {here['python']}"] if here.get("python") else []
    versions.append(f"commit {word(part(here.get('commit')), 'id')[:12]}")
    return [
        _links(run),
        _lines([word(here, "time")[:10], word(here, "machine"), *_processors(here)]),
        _lines(versions),
        word(part(here.get("dataset")), "name"),
        _lines(_what(run)),
        _lines(_fastest(run)) or UNKNOWN,
        _lines(_audited(run)),
    ]


def _links(run: Run) -> list[Inline]:
    text: list[Inline] = [Code(run.name)]
    for name, file in REPORTS:
        if (run.path / file).exists():
            text += [Break(), Link(name, f"{run.name}/{file}")]
    return text


def _lines(words: Sequence[str]) -> list[Inline]:
    text: list[Inline] = []
    for one in words:
        text += [Break(), one] if text else [one]
    return text


def _processors(here: dict[str, Any]) -> list[str]:
    cpu, gpus = part(here.get("cpu")), here.get("gpus")
    names = [word(part(gpu), "name") for gpu in gpus] if isinstance(gpus, list) else []
    told = [f"{counted(names.count(name), 'GPU')} {name}" for name in dict.fromkeys(names)] or ["no GPU"]
    return [f"{word(cpu, 'model')}, {word(cpu, 'usable_cores')} cores", *told]


def _what(run: Run) -> list[str]:
    counts = Counter(one.status for one in run.measurements)
    words = [f"{counts['ok']:,} of {counted(len(run.measurements), 'case')} measured"]
    words += [
        f"{counts[status]:,} {status.replace('_', ' ')}" for status in ("failed", "unsupported", "not_run") if counts[status]
    ]
    words += [f"passes ±{percent(middle)} in the middle case"] if (middle := _middle_spread(run)) else []
    kinds = Counter(word(record, "kind") for record in run.training if record.get("status", "ok") == "ok")
    return [*words, *(f"{count:,} {kind}" for kind, count in kinds.items())]


def _middle_spread(run: Run) -> float:
    """Half the range between passes over their median, of the case in the middle; 0 where no case has two passes."""
    shares = sorted(share for one in run.measurements if rate(one) and (share := half_range(passes(one))) is not None)
    return shares[len(shares) // 2] if shares else 0.0


def _fastest(run: Run) -> list[str]:
    """Among those that do the recipe as it is defined."""
    words, different = [], named_differences(run) or {}
    for table in lane_tables(run.measurements, "recipes"):
        row = [cell for cell in table.ok(SHOWN) if (SHOWN, cell.case.backend) not in different]
        if row and table.lane in ("per_image", "per_batch"):
            best = row[0]
            sure = ", ".join(filter(None, (spread(passes(best)), counted(len(passes(best)), "pass", "passes"))))
            words.append(f"{LANES[table.lane]}: {best.case.backend} on {table.device} {rounded(rate(best) or 0)} ({sure})")
    return words


def _audited(run: Run) -> list[str]:
    verdicts = run.audit.get("verdicts")
    if not isinstance(verdicts, list):
        return ["not audited"]
    counts = Counter(word(one, "verdict") for one in verdicts if isinstance(one, dict))
    return [listed(f"{count} {verdict}" for verdict, count in counts.most_common())]
