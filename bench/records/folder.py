"""Run folders: ``environment.json``, ``plan.json``, ``records.jsonl`` (append-only), ``audit.json``, and how they are read.

A process may die at any moment: a record is in the journal whole or not at all, and ``running.json`` names the repetition that
is under way. A POSIX lock on the run, or on a claim, goes with its process, however that ends. No torch here.
"""

import contextlib
import fcntl
import hashlib
import itertools
import math
import os
import platform
import re
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from bench.records.audits import Audit
from bench.records.base import Record
from bench.records.cases import Case, gather
from bench.records.machines import Environment
from bench.records.structs import Kind, Plan
from bench.records.words import one_line

ENVIRONMENT, PLAN, RECORDS, AUDIT, RUNNING = "environment.json", "plan.json", "records.jsonl", "audit.json", "running.json"
LOCK = "lock"
"""Empty file that the process locks which measures alone in a folder."""
CLAIMS = "claims"
"""Folder of locked files: repetitions of which processes that share a run have one each."""
OLD_LAYOUT = ("ops.json", "ops.jsonl", "training.jsonl")
S = TypeVar("S", bound=msgspec.Struct)
R = TypeVar("R", bound=Record)
SHORT = 4000
"""Bytes of a file that people may read as it is."""
MOST_FAULTS = 20
"""Lines of a journal whose faults are told; a foreign file would fill the screen."""
_DECODER = msgspec.json.Decoder(Kind)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One of the runs that a merged run was made of.

    ``place`` is what its devices are called there ("cpu of PLACE"), None where all runs are of one machine and one code.
    Sources of the same ``group`` are, and their rounds were joined. ``notes`` say what was left out as another run has it.
    """

    run: "Run"
    group: int
    place: str | None
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder as read, and what could not be read; ``sources`` are the runs that a merged one was made of."""

    path: Path
    name: str
    environment: Environment | None = None
    plan: Plan | None = None
    records: list[Record] = field(default_factory=list)
    audit: Audit | None = None
    problems: list[str] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)

    @property
    def parts(self) -> list["Run"]:
        """The runs that it was made of, else itself."""
        return [source.run for source in self.sources] or [self]

    @property
    def environments(self) -> dict[str | None, Environment]:
        """Environments by place: of the runs that it was made of, else its own under None."""
        places = {source.place: source.run.environment for source in self.sources} or {None: self.environment}
        return {place: environment for place, environment in places.items() if environment}

    @cached_property
    def running(self) -> list[Record]:
        """Repetitions that other processes measure at this moment."""
        claimed = [case for case in self.missing if is_held(claim_path(self.path, case))]
        return [*claimed, *_under_way(self.path, self.records, held=True)]

    @cached_property
    def _cases(self) -> list[Case]:
        running = {record.case_key for record in self.running}
        planned = self.plan.cases if self.plan else ()
        states = {True: "running now", False: "not yet its turn" if running else None}
        waiting = [
            msgspec.structs.replace(case, reason=states[case.case_key in running]) if case.status == "not_run" else case
            for case in planned
        ]
        return list(gather(waiting, self.records))

    def cases(self, *kinds: str) -> list[Case]:
        """Return the cases of these kinds (default: all), planned and measured, in the plan's order."""
        return [case for case in self._cases if not kinds or case.kind in kinds]

    @cached_property
    def missing(self) -> list[Record]:
        """Planned seeds that have no record, and cases none of whose rounds has one."""
        keys = {key for record in self.records for key in (record.key, record.case_key)}
        planned = self.plan.cases if self.plan else ()
        keyed = ((case, case.key if case.repetition == "seed" else case.case_key) for case in planned)
        return [case for case, key in keyed if case.status == "not_run" and key not in keys]

    def of(self, kind: type[R]) -> list[R]:
        """Return the successful records of a kind."""
        return [record for record in self.records if isinstance(record, kind) and record.status == "ok"]


# ---- folders ----------------------------------------------------------------------------------------------------------


def machine_name() -> str:
    """Return a short name for this machine in folder names: AUGMARK_MACHINE, else the host's name, as a slug."""
    return _slug(os.environ.get("AUGMARK_MACHINE") or platform.node().split(".")[0]) or "machine"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")


def holds_run(folder: Path) -> bool:
    """Return whether a folder holds the records of a run, of this layout or of the old one."""
    return any((folder / name).exists() for name in (PLAN, RECORDS, *OLD_LAYOUT))


def run_folder(results: Path | None, suite: str, version: str, device: str, *, parent: Path = Path("runs")) -> Path:
    """Make the folder of a new run: ``results``, or ``runs/<version>--<suite>--<machine>--<device>``, numbered if taken.

    Raises:
        ValueError: ``results`` already holds a run.
        OSError: the folder cannot be made or written.
    """
    stem = "--".join((_slug(version), _slug(suite), machine_name(), device.replace(":", "")))
    return _make_folder(results, parent / stem, "already holds a run: add --resume to resume it, or choose another folder")


def merged_folder(out: Path | None, *, parent: Path = Path("runs")) -> Path:
    """Make the folder of a report on several runs: ``out``, or ``runs/merged``, numbered if taken.

    Raises:
        ValueError: ``out`` holds a run, whose files the report would overwrite.
        OSError: the folder cannot be made.
    """
    return _make_folder(out, parent / "merged", "holds a run of its own: choose another folder with --out")


def _make_folder(chosen: Path | None, free: Path, refusal: str) -> Path:
    """Make the chosen folder, which must hold no run, or ``free``, numbered if taken."""
    if chosen is not None:
        if holds_run(chosen):
            raise ValueError(f"{chosen} {refusal}")
        chosen.mkdir(parents=True, exist_ok=True)
        return chosen
    for number in itertools.count(1):
        folder = free if number == 1 else free.with_name(f"{free.name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            break
    return folder


# ---- writing ----------------------------------------------------------------------------------------------------------


def _short(value: Any, name: str = "") -> Any:
    """Round floats to significant digits and write whole ones as integers."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{name} is not finite")
        value = float(f"{value:.{4 if name == 'samples_us' else 6}g}")
        return int(value) if value.is_integer() else value
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()  # names of files may be no UTF-8
    if isinstance(value, dict):
        return {key: _short(item, key) for key, item in value.items()}
    return [_short(item, name) for item in value] if isinstance(value, list | tuple) else value


def encode(struct: msgspec.Struct) -> bytes:
    """Return compact JSON, floats to 6 significant digits.

    Raises:
        ValueError: a value is not finite.
    """
    return msgspec.json.encode(_short(msgspec.to_builtins(struct)))


def as_stored(struct: S) -> S:
    """Return a struct as a reader will see it.

    Raises:
        ValueError: readers would refuse the values.
    """
    return msgspec.json.decode(encode(struct), type=type(struct))


def write(path: Path, struct: msgspec.Struct) -> None:
    """Write a file whole or not at all, indented where it is short.

    Raises:
        ValueError: readers would refuse the values.
        OSError: the file cannot be written.
    """
    data = encode(struct)
    msgspec.json.decode(data, type=type(struct))
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write((msgspec.json.format(data) if len(data) < SHORT else data) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def append(folder: Path, record: Record) -> None:
    """Add a record to the journal, whole or not at all, while no other process does.

    Raises:
        ValueError: readers would refuse the record.
        OSError: the record cannot be written, such as on a full disk.
    """
    line = encode(record)
    _DECODER.decode(line)
    with (folder / RECORDS).open("a+b", buffering=0) as file:
        fcntl.lockf(file, fcntl.LOCK_EX)  # network file systems do not append as one
        size = os.fstat(file.fileno()).st_size
        # A process may have died in the middle of a line: what follows must not be glued to it.
        whole = size == 0 or os.pread(file.fileno(), 1, size - 1) == b"\n"
        line = (b"" if whole else b"\n") + line + b"\n"
        try:
            if file.write(line) != len(line):
                raise OSError(28, "No space left on device")
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                os.ftruncate(file.fileno(), size)
            raise


# ---- reading ----------------------------------------------------------------------------------------------------------


def read(path: Path, kind: type[S], problems: list[str] | None = None) -> S | None:
    """Read a file of a run folder; None where there is none, or with a line in ``problems`` where it cannot be read.

    Raises:
        ValueError: the file cannot be read, and ``problems`` is None.
    """
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, ValueError, RecursionError) as error:
        line = f"{path.name} cannot be read: {one_line(error)}"
        if problems is None:
            raise ValueError(line) from None
        problems.append(line)
        return None


def load_run(path: Path) -> Run:
    """Read a run folder, whole, broken or unfinished; what cannot be read becomes a line in ``problems``.

    Raises:
        ValueError: the folder does not exist, holds nothing of a run, or is of the old layout.
    """
    if not path.is_dir():
        raise ValueError(f"{path} is no run folder: give a folder that augmark wrote")
    if not (path / RECORDS).exists() and any((path / name).exists() for name in OLD_LAYOUT):
        raise ValueError(f"{path} was written by augbench 0.1, whose records augmark does not read: measure it again")
    problems: list[str] = []
    plan = read(path / PLAN, Plan, problems)
    environment = read(path / ENVIRONMENT, Environment, problems)
    audit = read(path / AUDIT, Audit, problems)
    records = read_records(path, problems)
    if not (plan or records or environment or audit or problems):
        raise ValueError(f"{path} holds no run: no {PLAN} or {RECORDS} in it")
    records += died(path, records)
    name = path.resolve().name.encode("utf-8", "backslashreplace").decode()
    return Run(path=path, name=name, environment=environment, plan=plan, records=records, audit=audit, problems=problems)


def _under_way(folder: Path, records: Sequence[Record], *, held: bool) -> list[Record]:
    """Return the repetition in ``running.json`` that has no record yet, if a process holds it (``held``) or none does."""
    try:
        running: Record = _DECODER.decode((folder / RUNNING).read_bytes())
    except (OSError, ValueError):
        return []
    is_new = all(record.key != running.key for record in records)
    return [running] if is_new and is_held(folder / LOCK) == held else []


def died(folder: Path, records: Sequence[Record]) -> list[Record]:
    """Return a failure for the repetition that took its process with it, if there is one."""
    running = _under_way(folder, records, held=False)
    return [msgspec.structs.replace(record, status="failed", reason="process died") for record in running]


def claim_path(folder: Path, record: Record) -> Path:
    """Return the file whose lock is the claim to a repetition."""
    return folder / CLAIMS / hashlib.sha256(repr(record.key).encode()).hexdigest()[:16]


@contextlib.contextmanager
def under_way(folder: Path, record: Record) -> Iterator[None]:
    """Name a repetition in ``running.json`` while the block runs."""
    path = folder / RUNNING
    path.write_bytes(encode(record))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


_locked: weakref.WeakValueDictionary[Path, IO[Any]] = weakref.WeakValueDictionary()
"""Files that this process has locked and must not open again: to close any handle of a file ends its POSIX locks."""


def lock(path: Path) -> IO[Any] | None:
    """Lock a file while the returned handle lives; None if another process has it. This process keeps itself out of nothing."""
    path = path.resolve()
    if (file := _locked.get(path)) is None or file.closed:
        file = path.open("a")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            file.close()
            return None
        fcntl.lockf(file, fcntl.LOCK_EX, 1, 1)  # the byte that ``is_held`` looks at: no look keeps another process out
        _locked[path] = file
    return file


def lock_run(folder: Path) -> IO[Any]:
    """Lock a run's folder while the returned handle lives. Raises ValueError if another process measures there."""
    if (file := lock(folder / LOCK)) is None:
        raise ValueError(f"another process measures in {folder}: wait until it ends, or choose another --results")
    return file


def is_held(path: Path) -> bool:
    """Return whether another process has locked a file."""
    if path.resolve() in _locked:
        return False
    try:
        with path.open("rb") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 1)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # no file, or a file system without locks
        pass
    return False


def read_records(folder: Path, problems: list[str] | None = None) -> list[Record]:
    """Return the records of a folder's journal; lines that cannot be read are left out, with a line in ``problems``."""
    path, problems, records = folder / RECORDS, [] if problems is None else problems, list[Record]()
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else []
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {one_line(error)}")
        return records
    faults = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                records.append(_DECODER.decode(line))
            except (ValueError, RecursionError) as error:
                faults.append(f"{path.name}, line {number} cannot be read and was left out: {one_line(error)}")
    more = len(faults) - MOST_FAULTS
    problems += faults if more <= 0 else [*faults[:MOST_FAULTS], f"{path.name}: {more:,} more lines cannot be read"]
    return records
