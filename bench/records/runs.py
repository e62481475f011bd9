"""Run folders: what was planned, what was measured, and how both are joined.

A run folder holds ``plan.json`` and ``environment.json`` (written first), ``ops.jsonl`` (the journal: one line as each pass of
a case starts, one as it ends) and, once the run has ended, ``ops.json`` (all planned cases with what became of them) and
``measurements.csv``. The journal goes only after ``ops.json`` is safely there, so a process may die at any moment and
``load_run`` still finds all that was measured. No torch here: the report reads runs without it.
"""

import csv
import json
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any

import orjson

from bench.grid.cases import Case, PlannedCase
from bench.records.machines import Part
from bench.records.measurements import Measurement, events_of, finite, is_event, join, numbers, read_case, read_entry

SCHEMA = 1
JOURNAL = "ops.jsonl"
TRAINING = "training.jsonl"
AUDIT = "audit.json"
GALLERY = "gallery/gallery.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder as read: the whole plan joined with what was measured, and what could not be read.

    ``parts`` tells the runs that a merged one was made of (``bench/records/merging.py``); a run of its own has none.
    """

    path: Path
    name: str
    environment: dict[str, Any]
    measurements: list[Measurement]
    training: list[dict[str, Any]]
    problems: list[str]
    plan: dict[str, Any] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)
    gallery: dict[str, Any] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)


CSV_COLUMNS = (
    *("suite", "subject", "backend", "device", "batch_size", "image_size", "image_width", "dtype", "draws", "status"),
    *("images_per_s", "images_per_s_min", "images_per_s_max", "passes", "rounds"),
    *("wall_s_median", "wall_s_mean", "wall_s_p10", "wall_s_p90", "device_s_median", "threads", "peak_bytes"),
    *("compile_s", "graph_breaks", "recompiles", "warmup_calls", "warmup_s"),
    *("bytes_moved", "roofline_share", "launches", "syncs", "reason"),
)


# ---- folders ----------------------------------------------------------------------------------------------------------


def machine_name() -> str:
    """A short name for this machine in folder names: AUGMARK_MACHINE, else the host's name, as a slug."""
    name = os.environ.get("AUGMARK_MACHINE") or platform.node().split(".")[0]
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "machine"


def run_folder(results: Path | None, device: str, *, parent: Path = Path("results")) -> Path:
    """Make the folder of a new run: ``results`` itself, or ``results/<date>-<machine>-<device>``, numbered if taken.

    Raises ValueError when ``results`` already holds a run, OSError when it cannot be made or written.
    """
    if results is not None:
        if (results / "plan.json").exists():
            raise ValueError(f"{results} already holds a run: add --resume to go on with it, or choose another folder")
        results.mkdir(parents=True, exist_ok=True)
        return results
    return _free_folder(parent, f"{date.today().isoformat()}-{machine_name()}-{device.replace(':', '')}", "--results")


def merged_folder(out: Path | None, *, parent: Path = Path("results")) -> Path:
    """Make the folder of a report on several runs: ``out`` itself, or ``results/merged-<date>``, numbered if taken.

    Raises ValueError when ``out`` holds a run, whose files the report would overwrite; OSError when it cannot be made.
    """
    if out is None:
        return _free_folder(parent, f"merged-{date.today().isoformat()}", "--out")
    if any((out / name).exists() for name in ("plan.json", "ops.json", TRAINING, JOURNAL)):
        raise ValueError(f"{out} holds a run of its own: choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    return out


def _free_folder(parent: Path, stem: str, option: str) -> Path:
    for number in range(1, 10_000):
        folder = parent / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise ValueError(f"{parent} holds too many folders called {stem}: choose another one with {option}")


def write_json(path: Path, data: Any) -> None:
    """Write whole or not at all: a reader, or a full disk, never sees half a file. NaN and infinity become null."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(plain(data), file, indent=1, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def plain(value: Any) -> Any:
    """As JSON can hold it: NaN and infinity become null, tuples lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


class Journal:
    """The file to which each event goes as it happens, one JSON object a line, with no buffer in this process."""

    def __init__(self, folder: Path, name: str = JOURNAL) -> None:
        path = folder / name
        self._file = path.open("ab", buffering=0)
        # A process may have died in the middle of a line: what follows must not be glued to it.
        if path.stat().st_size and not _ends_with_newline(path):
            self._file.write(b"\n")

    def append(self, event: Mapping[str, Any]) -> None:
        """Raises OSError when the line cannot be written (full disk); then a part of it may be in the file."""
        line = json.dumps(plain(event), allow_nan=False).encode() + b"\n"
        written = self._file.write(line)
        if written != len(line):
            raise OSError(28, "No space left on device")

    def close(self) -> None:
        self._file.close()


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def append_training(folder: Path, record: Mapping[str, Any]) -> None:
    """Add what a training run gave to training.jsonl. Raises OSError when it cannot be written."""
    journal = Journal(folder, TRAINING)
    journal.append(record)
    journal.close()


def plan_entry(planned: PlannedCase) -> dict[str, Any]:
    """A planned case as plan.json keeps it."""
    return {"id": planned.case.id, **asdict(planned)}


# ---- writing ----------------------------------------------------------------------------------------------------------


def finalise(folder: Path, measurements: Sequence[Measurement]) -> None:
    """Write ops.json and measurements.csv, then remove the journal. Raises OSError, and then the journal stays."""
    stored = [{"id": m.case.id, **asdict(m)} for m in measurements]
    write_json(folder / "ops.json", {"schema": SCHEMA, "measurements": stored})
    write_csv(folder / "measurements.csv", measurements)
    (folder / JOURNAL).unlink(missing_ok=True)


def write_csv(path: Path, measurements: Sequence[Measurement]) -> None:
    """One line a planned case, columns ``CSV_COLUMNS``; unknown values are empty."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(CSV_COLUMNS)
        for measurement in measurements:
            rates = measurement.images_per_s_passes
            spread = {"images_per_s_min": min(rates, default=None), "images_per_s_max": max(rates, default=None)}
            case = {name: getattr(measurement.case, name) for name in Case.__slots__}  # asdict takes seconds for 50,000 cases
            row = {**case, **vars(measurement), **spread, "passes": len(rates)}
            writer.writerow([row[name] for name in CSV_COLUMNS])
    os.replace(temporary, path)


# ---- reading ----------------------------------------------------------------------------------------------------------


def load_run(path: Path) -> Run:
    """Read a run folder, whole, broken or still without an end.

    What cannot be read becomes a line in ``problems`` and the rest is returned. Raises ValueError when the folder does
    not exist or holds nothing of a run.
    """
    if not path.is_dir():
        raise ValueError(f"{path} is no run folder: give a folder that augmark wrote")
    problems: list[str] = []
    plan = _read_object(path / "plan.json", problems)
    ops = _read_object(path / "ops.json", problems)
    events = [event for event in _read_lines(path / JOURNAL, problems) if is_event(event)]
    training = _plain_records(_read_lines(path / TRAINING, problems), problems)
    environment = _read_object(path / "environment.json", problems)
    audit = _read_object(path / AUDIT, problems)
    gallery = _read_object(path / GALLERY, problems)
    if not (plan or ops or events or training or environment or audit or problems):
        raise ValueError(f"{path} holds no run: no plan.json, ops.json or training.jsonl in it")
    measurements = _read_measurements(ops.get("measurements"), problems)
    if events or not measurements:
        entries = _checked_entries(plan.get("cases"), problems)
        before = [event for measurement in measurements for event in events_of(measurement)]
        joined = join(entries, before + events, died=True)
        measurements = joined or measurements
    name = path.resolve().name
    return Run(
        path=path,
        name=name,
        environment=environment,
        measurements=measurements,
        training=training,
        problems=problems,
        plan=plan,
        audit=audit,
        gallery=gallery,
    )


def load_plan(path: Path) -> dict[str, Any]:
    """The plan of a run that is to be resumed. Raises ValueError where there is none, or not a whole one."""
    problems: list[str] = []
    plan = _read_object(path / "plan.json", problems)
    _checked_entries(plan.get("cases"), problems)
    if problems or not plan.get("cases") or not all(finite(plan.get(n)) for n in ("seed", "passes", "case_seconds")):
        raise ValueError(f"{path} cannot be resumed: " + (problems[0] if problems else "it holds no plan.json of ours"))
    return plan


def load_events(path: Path) -> list[dict[str, Any]]:
    """What the run in a folder has measured, as events; a case that took its process with it is failed (``died``)."""
    problems: list[str] = []
    stored = _read_measurements(_read_object(path / "ops.json", problems).get("measurements"), problems)
    events = [event for measurement in stored for event in events_of(measurement)]
    journal = [event for event in _read_lines(path / JOURNAL, problems) if is_event(event)]
    if journal and journal[-1]["event"] == "running":
        last = journal[-1]
        journal.append({**last, "event": "done", "status": "failed", "reason": "process died", "died": True})
    return events + journal


def _parsed(text: str) -> Any:
    """JSON, by a reader that is several times as fast as Python's own, which takes over what that refuses: NaN, and errors."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)


def _read_object(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        data = _parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name} cannot be read: {error}")
        return {}
    if not isinstance(data, dict):
        problems.append(f"{path.name} is no JSON object, so not one of ours")
        return {}
    if finite(data.get("schema")) and data["schema"] > SCHEMA:
        problems.append(f"{path.name} was written by a newer augmark (schema {data['schema']}, this one reads {SCHEMA})")
    return data


def _read_lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    rows = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error}")
        return []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _parsed(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            problems.append(f"{path.name}, line {number} is cut off or foreign and was left out")
    return rows


def _plain_records(rows: Sequence[dict[str, Any]], problems: list[str]) -> list[dict[str, Any]]:
    """Training records without those that have a list or an object where a word or a number tells them apart."""
    plain_ones = []
    for row in rows:
        wrong = [name for name in _WORDS if isinstance(row.get(name), list | dict)]
        if wrong:
            problems.append(f"{TRAINING}, a record whose {wrong[0]} is {row[wrong[0]]!r:.40} was left out")
        else:
            plain_ones.append(row)
    return plain_ones


def _checked_entries(cases: Any, problems: list[str]) -> list[Mapping[str, Any]]:
    entries = []
    for number, entry in enumerate(cases if isinstance(cases, list) else []):
        try:
            read_entry(entry)
        except (KeyError, TypeError, AttributeError):
            problems.append(f"plan.json, case {number} cannot be read and was left out")
        else:
            entries.append(entry)
    return entries


def _read_measurements(rows: Any, problems: list[str]) -> list[Measurement]:
    measurements = []
    for number, row in enumerate(rows if isinstance(rows, list) else []):
        try:
            case = read_case(row["case"])
            status = row["status"]
            if status not in ("ok", "unsupported", "failed", "not_run"):
                raise TypeError(f"unknown status {status!r}")
            samples = [numbers(one_pass) for one_pass in row.get("samples_s") or []]
        except (KeyError, TypeError, AttributeError):
            problems.append(f"ops.json, measurement {number} cannot be read and was left out")
            continue
        known = {name: row.get(name) for name in _KNOWN}
        values: dict[str, Any] = {
            name: value if finite(value) else None for name, value in known.items() if name not in _NOT_NUMBERS
        }
        values["rounds"] = values["rounds"] or 0
        texts: dict[str, Any] = {name: known[name] if isinstance(known[name], str) else None for name in ("reason", "draws")}
        rates = numbers(known["images_per_s_passes"])
        measurements.append(
            Measurement(case=case, status=status, samples_s=samples, images_per_s_passes=rates, **texts, **values)
        )
    return measurements


_WORDS = ("kind", "status", "recipe", "backend", "augment_on", "num_workers", "decode", "draws", "device", "round", "seed")
_KNOWN = tuple(f.name for f in fields(Measurement) if f.name not in ("case", "status", "samples_s"))
_NOT_NUMBERS = ("reason", "draws", "images_per_s_passes")
