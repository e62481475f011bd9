"""``augmark export --validate``: is a run folder what its published schemas say? A line for each fault: file, line, field.

The schemas are JSON Schema 2020-12 files in ``bench/schema``; ``jsonschema`` applies them. Fields that they do not name are
allowed, so that a newer augmark may add some without a new version. No torch here.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from json.decoder import JSONDecoder
from pathlib import Path
from typing import Any

from bench.grid.cases import one_line
from bench.records.runs import AUDIT, JOURNAL, SCHEMA, TRAINING

DOCUMENTS = {"plan.json": "plan", "ops.json": "ops", "environment.json": "environment", AUDIT: "audit"}
LINES = {JOURNAL: "journal", TRAINING: "training"}
MOST_FAULTS = 20
"""Of one file; a foreign file would fill the screen."""

Keys = Sequence[str | int]


def schema(name: str) -> dict[str, Any]:
    """A published schema: "plan", "ops", "journal", "training", "environment", "audit", "export" or "common"."""
    content: dict[str, Any] = json.loads((files("bench") / "schema" / f"{name}.schema.json").read_text(encoding="utf-8"))
    return content


@cache
def _validator(name: str) -> Any:
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    common = schema("common")
    registry: Any = Registry().with_resource(common["$id"], Resource.from_contents(common))
    return Draft202012Validator(schema(name), registry=registry)


def validate_run(folder: Path) -> list[str]:
    """Every fault of a run folder, one a line; none where all holds.

    Raises ValueError when the folder does not exist.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no run folder: give a folder that augmark wrote")
    there = {name for name in (*DOCUMENTS, *LINES) if (folder / name).exists()}
    needed = ["environment.json", *(["plan.json"] if there & {"ops.json", JOURNAL} else [])]
    faults = [f"{name}: missing" for name in needed if name not in there]
    if not there & {"ops.json", JOURNAL, TRAINING}:
        faults.append(f"no ops.json, {JOURNAL} or {TRAINING}: the folder holds nothing that was measured")
    for name, which in DOCUMENTS.items():
        faults += _cut(name, list(_document_faults(folder / name, which)))
    for name, which in LINES.items():
        faults += _cut(name, list(_line_faults(folder / name, which)))
    return faults or _unplanned(folder)


def faults_of(record: Any, name: str) -> list[tuple[Keys, str]]:
    """Where a value breaks a schema, and how."""
    errors = [_deepest(error) for error in _validator(name).iter_errors(record)]
    return [(_place(error), "missing" if error.validator == "required" else one_line(error.message, 160)) for error in errors]


def _deepest(error: Any) -> Any:
    """Of alternatives none of which fits, what is wrong with the nearest."""
    from jsonschema.exceptions import best_match

    return best_match([error]) or error


def _place(error: Any) -> Keys:
    """The field in question: of one that is missing, too."""
    missing = re.match(r"'(.+)' is a required property", error.message) if error.validator == "required" else None
    return [*error.absolute_path, *([missing[1]] if missing else [])]


def _cut(name: str, faults: list[str]) -> list[str]:
    more = len(faults) - MOST_FAULTS
    return faults if more <= 0 else [*faults[:MOST_FAULTS], f"{name}: {more:,} more faults"]


# ---- files ------------------------------------------------------------------------------------------------------------


class _NotANumber(ValueError):
    """A file holds NaN or Infinity, which JSON does not know."""


def _parsed(text: str) -> Any:
    """Raises ValueError for what is no JSON; unlike Python's own reader also for NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise _NotANumber(constant)

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _broken(error: ValueError, text: str) -> tuple[int, str]:
    if isinstance(error, json.JSONDecodeError):
        return error.lineno, f"no JSON: {error.msg}"
    if not isinstance(error, _NotANumber):
        return 1, f"no JSON of ours: {one_line(str(error), 160)}"
    number = next((i for i, line in enumerate(text.splitlines(), start=1) if str(error) in line), 1)
    return number, f"{error} is no JSON: unknown numbers are null"


def _document_faults(path: Path, which: str) -> Iterator[str]:
    if not path.exists():
        return
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        yield f"{path.name}, line 1: no UTF-8 text: {error.reason}"
        return
    try:
        data = _parsed(text)
    except ValueError as error:
        number, words = _broken(error, text)
        yield f"{path.name}, line {number}: {words}"
        return
    version = data.get("schema") if isinstance(data, dict) else None
    if isinstance(version, int) and version > SCHEMA:
        newer = f"written by a newer augmark (schema {version}, this one knows {SCHEMA})"
        yield f"{path.name}, line {line_of(text, ['schema'])}: schema: {newer}"
        return
    faults = [(line_of(text, keys), f"{_pointer(keys)}: {words}") for keys, words in faults_of(data, which)]
    yield from (f"{path.name}, line {number}: {words}" for number, words in sorted(faults))


def _line_faults(path: Path, which: str) -> Iterator[str]:
    if not path.exists():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = _parsed(line)
        except ValueError as error:
            yield f"{path.name}, line {number}: {_broken(error, line)[1]}"
            continue
        for keys, words in faults_of(record, which):
            yield f"{path.name}, line {number}: {_pointer(keys)}: {words}"


def _pointer(keys: Keys) -> str:
    """Such as "measurements[3].case.batch_size"."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return text.removeprefix(".") or "the whole"


def line_of(text: str, keys: Keys) -> int:
    """The line, from 1, on which the value stands that the keys lead to in a JSON text; of one that is missing, its owner's."""
    position = _blank(text, 0)
    for key in keys:
        found = next((at for name, at in _members(text, position) if name == key), None)
        if found is None:
            break
        position = found
    return text.count("\n", 0, position) + 1


def _members(text: str, position: int) -> Iterator[tuple[str | int, int]]:
    """The keys of the object or array that starts there, and where the value of each starts."""
    decoder, in_object, index = JSONDecoder(), text[position] == "{", 0
    if text[position] not in "{[":
        return
    position = _blank(text, position + 1)  # behind the bracket
    while text[position] not in "}]":
        key: str | int = index
        if in_object:
            key, position = decoder.raw_decode(text, position)
            position = _blank(text, _blank(text, position) + 1)  # behind the colon
        yield key, position
        position = _blank(text, decoder.raw_decode(text, position)[1])
        position = _blank(text, position + 1) if text[position] == "," else position
        index += 1


def _blank(text: str, position: int) -> int:
    """The first position from there on that is no white space."""
    while text[position] in " \t\r\n":
        position += 1
    return position


# ---- what no schema can say -------------------------------------------------------------------------------------------


def _unplanned(folder: Path) -> list[str]:
    """Whether what was measured is what was planned; both files are known to be whole."""
    stored = [
        _parsed((folder / name).read_text(encoding="utf-8")) for name in ("plan.json", "ops.json") if (folder / name).exists()
    ]
    if len(stored) < 2:
        return []
    planned, measured = ([_identity(one) for one in found] for found in (stored[0]["cases"], stored[1]["measurements"]))
    faults = [
        f"{name}: {pair[0]} is the id of another case, {pair[1]}"
        for name, pairs in (("plan.json", planned), ("ops.json", measured))
        for pair in pairs
        if pair[0] != pair[1]
    ]
    ids = [{pair[0] for pair in pairs} for pairs in (planned, measured)]
    faults += [f"ops.json: the planned case {one} is missing" for one in sorted(ids[0] - ids[1])]
    faults += [f"ops.json: the case {one} was not planned" for one in sorted(ids[1] - ids[0])]
    faults += [f"ops.json: the case {one} stands there twice" for one in sorted(_twice(measured))]
    return _cut("ops.json", faults)


def _identity(entry: Mapping[str, Any]) -> tuple[str, str]:
    from bench.records.measurements import read_case

    return entry["id"], read_case(entry["case"]).id


def _twice(pairs: Sequence[tuple[str, str]]) -> set[str]:
    ids = [pair[0] for pair in pairs]
    return {one for one in ids if ids.count(one) > 1} if len(set(ids)) < len(ids) else set()
