"""``augmark export``: the numbers of one or several runs for other programs, a row a quantity of a case.

csv and parquet have the fields of ``Row``, json is a ``Document``. The two formats for continuous benchmarking hold what is
measured, by case: ``github-action-benchmark`` is that action's customBiggerIsBetter, so only quantities of which more is
better; ``bencher`` is the Bencher Metric Format, a measure a quantity. No torch here.
"""

import ast
import csv
import inspect
import io
import itertools
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args, get_type_hints

import msgspec

from bench.records import (
    ENVIRONMENT,
    Audit,
    Better,
    Case,
    Environment,
    Kind,
    Plan,
    Quantity,
    Run,
    Speed,
    Status,
    audits,
    base,
    load_run,
    load_runs,
    machines,
    merge,
    structs,
)
from bench.statistics import FEWEST_PASSES, median_interval

Format = Literal["csv", "json", "parquet", "github-action-benchmark", "bencher"]
INVALID = 2  # exit code
Text: TypeAlias = str | None
Integer: TypeAlias = int | None
Number: TypeAlias = float | None


class Row(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A measured quantity of a case; of a case without a result, one row without a value."""

    run: str
    """name of the run; several, with commas, where their rounds were joined"""
    kind: str
    """ops, recipes, or the kind of record"""
    name: str
    """the case, under a name that stays the same from run to run"""
    subject: Text = None
    """op or recipe"""
    backend: Text = None
    """what did the augmentation"""
    implementation: Text = None
    """what ran of fused: c, triton, tensors or inductor"""
    device: str
    """where, as torch names it; 'cuda of PLACE' where runs of several machines were exported together"""
    batch_size: Integer = None
    """images"""
    image_size: Integer = None
    """height of the input, pixels, and its width where image_width is empty"""
    image_width: Integer = None
    """width of the input, pixels, where it is not square"""
    dtype: Text = None
    """of the result, or the precision of training"""
    lane: Text = None
    """how often parameters are drawn: per_image, per_batch, mixed or fixed; compare within one only"""
    status: Status
    """ok, unsupported, failed or not_run; only ok rows have a value"""
    reason: Text = None
    """why not ok"""
    quantity: Text = None
    """what was measured"""
    unit: Text = None
    """of value, low and high; 1 is a share of one"""
    better: Better | None = None
    """more, less or neither"""
    statistic: Text = None
    """what value is of the n observations: median, mean, or single"""
    value: Number = None
    """the measured number"""
    low: Number = None
    """lower end of what interval names"""
    high: Number = None
    """upper end of what interval names"""
    interval: Text = None
    """what low and high span, such as '95 % interval of the median'"""
    n: Integer = None
    """how many observations value rests on: rounds, calls or seeds"""


class ExportedRun(msgspec.Struct, kw_only=True):
    """A run and where it was measured."""

    name: str
    environment: Environment | None


class Document(msgspec.Struct, kw_only=True):
    """Export of format json."""

    format: Literal["augmark-export"] = "augmark-export"
    runs: list[ExportedRun]
    problems: list[str]
    """Parts of the runs that could not be read, a line each."""
    rows: list[Row]


class Column(NamedTuple):
    """A field of a row, as docs/export.md and parquet have it."""

    name: str
    type: Literal["text", "integer", "number"]
    about: str


def columns() -> list[Column]:
    """Return the fields of ``Row``."""
    types: dict[Any, Literal["integer", "number"]] = {Integer: "integer", Number: "number"}
    hints = get_type_hints(Row)
    return [Column(name, types.get(hints[name], "text"), about) for name, about in _described()["Row"].items()]


# ---- rows -------------------------------------------------------------------------------------------------------------


def rows(run: Run) -> list[Row]:
    """Return a row a measured quantity, and one for each case that has none, so that nothing planned vanishes."""
    return [row for case in run.cases() for row in _case_rows(run, case)]


def _case_rows(run: Run, case: Case) -> Iterator[Row]:
    first = case.first
    sources = [
        source.run.name for source in run.sources if source.place is None or first.device.endswith(f" of {source.place}")
    ]
    shared = {
        "run": ", ".join(sources) or run.name,
        "kind": first.suite if isinstance(first, Speed) else case.kind,
        "name": case.name,
        "dtype": getattr(first, "dtype", getattr(first, "precision", None)),
        "image_width": getattr(first, "image_width", None),
        **{name: getattr(first, name) for name in ("subject", "backend", "device", "batch_size", "image_size")},
        **{name: getattr(case, name) for name in ("lane", "implementation", "status", "reason")},
    }
    measured = [_summarise(case, quantity) for quantity in first.quantities] if case.status == "ok" else []
    yield from (Row(**shared, **values) for values in [values for values in measured if values] or [{}])


def _summarise(case: Case, quantity: Quantity) -> dict[str, Any]:
    """Return the fields of a quantity that was measured; empty for others."""
    seeds = case.first.repetition == "seed"
    values, interval = case.values(quantity.name), f"least to most of the {case.first.repetition}s"
    if not seeds and len(values) >= FEWEST_PASSES:
        interval = "95 % interval of the median"
    if quantity.name == "wall_s_median":
        values, interval = case.samples_s, "10th to 90th percentile of the calls"
    if not values:
        return {}
    low, high = (None if seeds else median_interval(values)) or (min(values), max(values))
    if quantity.name == "wall_s_median" and len(values) > 1:
        low, *_, high = statistics.quantiles(values, n=10, method="inclusive")
    return {
        **{"quantity": quantity.name, "unit": quantity.unit, "better": quantity.better},
        "statistic": "single" if len(values) == 1 else "mean" if seeds else "median",
        "value": statistics.fmean(values) if seeds else float(statistics.median(values)),
        **({"low": low, "high": high, "interval": interval} if len(values) > 1 else {}),
        "n": len(values),
    }


# ---- formats ----------------------------------------------------------------------------------------------------------


def _csv(run: Run) -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, Row.__struct_fields__, lineterminator="\n")
    writer.writeheader()
    writer.writerows(msgspec.to_builtins(rows(run)))
    return out.getvalue()


def _json(run: Run) -> str:
    runs = [ExportedRun(name=part.name, environment=part.environment) for part in run.parts]
    return _text(Document(runs=runs, problems=run.problems, rows=rows(run)))


def _text(document: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n"


def _github_action_benchmark(run: Run) -> str:
    """Return the action's "customBiggerIsBetter": a list of name, unit, value, range and extra."""
    entries = []
    for row in (row for row in _with_value(run) if row.better == "more"):
        entry: dict[str, Any] = {"name": f"{row.name} {row.quantity}", "value": row.value}
        entry["unit"] = "share of 1" if row.unit == "1" else row.unit
        if row.low is not None and row.high is not None:
            entry["range"] = f"± {(row.high - row.low) / 2:.4g}"
            entry["extra"] = f"{row.statistic}, n = {row.n}; ± is half from {row.interval}"
        entries.append(entry)
    return _text(entries)


def _bencher(run: Run) -> str:
    """Return Bencher Metric Format: case -> measure -> value, lower_value, upper_value."""
    document: dict[str, dict[str, dict[str, float | None]]] = {}
    for row in _with_value(run):
        metric = {"value": row.value}
        if row.low is not None:
            metric |= {"lower_value": row.low, "upper_value": row.high}
        document.setdefault(row.name, {})[str(row.quantity).replace("_", "-")] = metric
    return _text(document)


def _with_value(run: Run) -> list[Row]:
    measured = [row for row in rows(run) if row.value is not None]
    if not measured:
        raise ValueError(f"{run.path} holds no measured number: there is nothing to export")
    return measured


def _parquet(run: Run, out: Path) -> None:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ValueError("parquet needs pyarrow: pip install -e '.[parquet]', or take --format csv") from None
    types = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64()}
    fields = [pa.field(column.name, types[column.type], metadata={"about": column.about}) for column in columns()]
    parquet.write_table(pa.Table.from_pylist(msgspec.to_builtins(rows(run)), schema=pa.schema(fields)), out)


TEXTS = {"csv": _csv, "json": _json, "github-action-benchmark": _github_action_benchmark, "bencher": _bencher}


def export(run: Run, format: Format, out: Path | None) -> str | None:
    """Write a run to ``out``; without it, return the text.

    Raises:
        ValueError: the format is unknown or has no place for a run without numbers; parquet without ``out`` or pyarrow.
        OSError: the file cannot be written.
    """
    if format not in get_args(Format):
        raise ValueError(f"unknown format {format!r}; known: {', '.join(get_args(Format))}")
    if format == "parquet":
        if out is None:
            raise ValueError("parquet is no text: name a file with --out")
        _parquet(run, out)
        return None
    text = TEXTS[format](run)
    if out is None:
        return text
    out.write_text(text, encoding="utf-8", newline="")
    return None


# ---- schema, validation, and the command ------------------------------------------------------------------------------


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of all files of a run folder and of the export, each under ``$defs``."""
    _, components = msgspec.json.schema_components([Kind, Plan, Environment, Audit, Document], ref_template="#/$defs/{name}")
    records = [{"$ref": f"#/$defs/{kind.__name__}"} for kind in get_args(Kind)]
    for name, about in _described().items():
        for field, text in about.items():
            if field in components.get(name, {}).get("properties", {}):
                components[name]["properties"][field].setdefault("description", text)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of records.jsonl; other files: Plan, Environment, Audit; export: Document",
        "oneOf": records,
        "$defs": components,
    }


def _described() -> dict[str, dict[str, str]]:
    """Return the docstrings that stand under fields, by class and field, those of base classes among them."""
    texts: dict[str, dict[str, str]] = {}
    for module in (base, structs, machines, audits, sys.modules[__name__]):
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.ClassDef):
                bases = [texts.get(base.id, {}) for base in node.bases if isinstance(base, ast.Name)]
                texts[node.name] = {field: text for base in bases for field, text in base.items()}
                for line, below in itertools.pairwise(node.body):
                    if (
                        isinstance(line, ast.AnnAssign)
                        and isinstance(below, ast.Expr)
                        and isinstance(below.value, ast.Constant)
                    ):
                        texts[node.name][ast.unparse(line.target)] = str(below.value.value)
    return texts


def validate_run(folder: Path) -> list[str]:
    """Return every fault of a run folder, one a line: what cannot be decoded, is missing, not planned, or stands there twice.

    Raises:
        ValueError: the folder holds no run.
    """
    run = load_run(folder)
    faults = [*run.problems, *([] if (folder / ENVIRONMENT).exists() else [f"{ENVIRONMENT}: missing"])]
    if not run.records:
        faults.append("no records.jsonl: the folder holds nothing that was measured")
    faults += [f"records.jsonl: the case {case.name} was not planned" for case in run.cases() if run.plan and not case.planned]
    counts = Counter(record.key for record in run.records if record.status == "ok")
    twice = dict.fromkeys(record.name for record in run.records if counts[record.key] > 1)
    return [*faults, *(f"records.jsonl: a repetition of {name} stands there twice" for name in twice)]


def export_command(paths: Sequence[Path], format: Format, out: Path | None, *, validate: bool, schema: bool = False) -> int:
    """Export the runs, check them, or print the schema of records; return the exit code.

    What is wrong or left out goes to the standard error, a line each. Raises as ``export`` does, and ValueError without a run.
    """
    if schema:
        sys.stdout.write(_text(json_schema()))
        return 0
    if not paths:
        raise ValueError("no run was given: name at least one folder that augmark wrote")
    if validate:
        faults = [f"{path}: {fault}" for path in paths for fault in validate_run(path)]
        print(*(faults or [f"{path}: valid" for path in paths]), sep="\n", file=sys.stderr if faults else sys.stdout)
        return INVALID if faults else 0
    runs, problems = load_runs(paths)
    run = runs[0] if len(runs) == 1 and not problems else merge(runs, Path("merged"), problems)
    text = export(run, format, out)
    for line in run.problems:
        print(f"augmark: {line}", file=sys.stderr)
    sys.stdout.write(text if text is not None else f"{format}: {out}\n")
    return 0
