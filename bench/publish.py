"""``augmark publish``: runs that others may cite, and the index page over them, made from their records alone.

A run is published when ``objections`` has none: what must hold is in its table. Published are records only, packed: reports are
built from them, and the audit can be repeated. No torch here.
"""

import html
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from bench.export import validate_run
from bench.records import (
    AUDIT,
    ENVIRONMENT,
    PLAN,
    UNKNOWN,
    AuditCell,
    Record,
    Run,
    Speed,
    append,
    join,
    load_run,
    markdown_table,
    percent,
    plural,
    write,
)
from bench.report.facts.state import disturbed_cases, image_sets
from bench.statistics import FEWEST_ROUNDS, half_interval

INDEX = "README.md"
QUIET = 1.25
"""Most load a core at the start: our own audit, just before, makes about one, so more was somebody else's."""
STEADY = 0.25
"""Most that half the interval of the median may be in the middle case, as a share of the median."""
FALLBACK = "install a C compiler (CPU) or Triton (CUDA) and measure again"
MOST_SAMPLES = 32
"""Calls of a round whose times are published; the rate is that of all calls."""
ABOUT = (
    "Written by `augmark publish` from the records in these folders, so edit nothing here. CONTRIBUTING.md says how a run gets "
    "here; `make report` builds a page of each. Numbers of different machines, versions or images do not compare libraries."
)
PACKAGES = ("torch", "torchvision", "kornia")
HEADER = ("run", "measured on", "versions", "images", "cases", "audit, cells")


# ---- what must hold ---------------------------------------------------------------------------------------------------


def objections(run: Run) -> list[str]:
    """Return why a run should not be published, a line each."""
    if run.environment is None:
        return [*run.problems, "the environment is not known: measure again"]
    commit, cpu, speeds, middle = run.environment.commit, run.environment.cpu, run.cases("speed"), _middle_spread(run)
    drawn = [images.fallback or "drawn shapes" for images in image_sets(run) if images.is_synthetic]
    waiting, disturbed = len(run.missing), len(disturbed_cases(run))
    few = sum(case.status == "ok" and len(case.records) < FEWEST_ROUNDS for case in speeds)
    tensors = sum(case.backend == "fused" and "tensors" in (case.implementation or "") for case in run.cases())
    load = cpu.load_1min or 0.0
    rules = (
        (commit is None, "the commit is not known: measure from a git checkout"),
        (commit is None or commit.dirty is not False, "files differed from the commit: commit first, then measure"),
        (bool(drawn), f"the images are not real ({', '.join(drawn)}): give real ones with --data"),
        (not (run.audit and run.audit.verdicts), f"it was not audited: augmark audit --out {run.path} adds that"),
        (load > QUIET * cpu.usable_cores, f"the machine was busy: load {load:.1f} on {cpu.usable_cores} cores at the start"),
        (middle > STEADY, f"rounds differ by ±{percent(middle, 0)} in the middle case: measure longer, or where it is quiet"),
        (disturbed > 0, f"other processes disturbed {plural(disturbed, 'case')}: measure where it is quiet"),
        (waiting > 0, f"{plural(waiting, 'planned measurement')} did not run: add --resume to measure the rest"),
        (all(case.status != "ok" for case in run.cases()), "nothing was measured"),
        (
            few > 0,
            f"{plural(few, 'case')} rest on fewer than {FEWEST_ROUNDS} rounds: measure again with --rounds {FEWEST_ROUNDS}",
        ),
        (tensors > 0, f"fused fell back to tensor operations in {plural(tensors, 'case')}: {FALLBACK}"),
    )
    return [*(reason for is_broken, reason in rules if is_broken), *validate_run(run.path)]


def publish(paths: Sequence[Path], folder: Path, console: Console) -> Path:
    """Copy the records of runs to ``folder`` and write the index there; return the index's path.

    Without runs only the index is written.

    Raises:
        ValueError: there are objections, all on one line, before anything is copied; or a run of that name is published.
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
            pack(load_run(path), target)
        console.print(f"published: {target}")
    return write_index(folder)


def pack(run: Run, target: Path) -> None:
    """Write the records of a run to a new folder, without most samples of a round and the names of passed checks."""
    target.mkdir(parents=True)
    if run.environment:
        write(target / ENVIRONMENT, run.environment)
    if run.plan:
        write(target / PLAN, run.plan)
    if run.audit:
        write(target / AUDIT, msgspec.structs.replace(run.audit, verdicts=tuple(map(_pack_cell, run.audit.verdicts))))
    for record in run.records:
        append(target, _pack_record(record))


def _pack_record(record: Record) -> Record:
    if not isinstance(record, Speed) or len(record.samples_us) <= MOST_SAMPLES:
        return record
    step = len(record.samples_us) / MOST_SAMPLES
    kept = tuple(record.samples_us[int(index * step)] for index in range(MOST_SAMPLES))
    return msgspec.structs.replace(record, samples_us=kept, calls=len(record.samples_us))


def _pack_cell(cell: AuditCell) -> AuditCell:
    failed = tuple(check for check in cell.checks if not check.ok)
    return msgspec.structs.replace(cell, checks=failed, checks_passed=cell.checks_passed + len(cell.checks) - len(failed))


# ---- the index --------------------------------------------------------------------------------------------------------


def write_index(folder: Path) -> Path:
    """Write the index page over all runs in a folder.

    Raises:
        ValueError: the folder does not exist.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: publish a run there first")
    path = folder / INDEX
    path.write_text(index(folder), encoding="utf-8", errors="backslashreplace")
    return path


def index(folder: Path) -> str:
    """Return the index page as Markdown: a row a run, the newest first, and a line for each that cannot be read."""
    runs, notes = [], []
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        try:
            runs.append(load_run(path))
        except ValueError as error:
            notes.append(str(error).replace(f"{folder}/", ""))
    runs.sort(key=lambda run: run.environment.time if run.environment else "", reverse=True)
    lines = ["# Published runs", "", ABOUT, ""]
    lines.append(markdown_table(HEADER, map(_cells, runs)) if runs else "None yet.")
    notes += [f"{run.name}: {run.environment.note}" for run in runs if run.environment and run.environment.note]
    notes += [f"{run.name}: {problem}" for run in runs for problem in run.problems]
    return "\n".join([*lines, *([""] if notes else []), *(f"- {_escape(note)}" for note in notes)]) + "\n"


def _escape(text: str) -> str:
    """Return words of records as Markdown shows them: on one line, without tags, cells or emphasis of their own."""
    line = html.escape(" ".join(text.split()), quote=False)
    return "".join("\\" + letter if letter in "\\`*[]|~#" else letter for letter in line)


def _cells(run: Run) -> list[str]:
    place = run.environment
    cells: list[list[str]] = [[], [], [], _count_cases(run), _count_verdicts(run)]
    if place:
        gpus = [f"{plural(count, 'GPU')} {name}" for name, count in Counter(gpu.name for gpu in place.gpus).items()]
        cells[0] = [place.time[:10], place.machine, f"{place.cpu.model}, {place.cpu.usable_cores} cores", *(gpus or ["no GPU"])]
        versions = [f"{name} {place.packages[name]}" for name in PACKAGES if name in place.packages]
        cells[1] = [*versions, f"Python {place.python}", f"commit {place.commit.id[:12] if place.commit else UNKNOWN}"]
        cells[2] = [place.dataset.name if place.dataset else UNKNOWN]
    return [f"[`{run.name}`]({run.name})", *("<br>".join(map(_escape, lines)) for lines in cells)]


def _count_cases(run: Run) -> list[str]:
    counts = Counter((case.kind, case.status) for case in run.cases())
    words = [
        f"{count:,} {kind}" + f" {status.replace('_', ' ')}" * (status != "ok") for (kind, status), count in counts.items()
    ]
    middle = _middle_spread(run)
    return [*words, *([f"rounds ±{percent(middle)} in the middle case"] if middle else [])]


def _middle_spread(run: Run) -> float:
    """Return half the interval of the median as a share of it, of the case in the middle; 0 where no case has two rounds."""
    measured = [case for case in run.cases("speed") if case.status == "ok"]
    shares = sorted(share for case in measured if (share := half_interval(case.values("images_per_s"))) is not None)
    return shares[len(shares) // 2] if shares else 0.0


def _count_verdicts(run: Run) -> list[str]:
    if not (run.audit and run.audit.verdicts):
        return ["not audited"]
    counts = Counter(cell.verdict for cell in run.audit.verdicts)
    return [join(f"{count} {verdict}" for verdict, count in counts.most_common())]
