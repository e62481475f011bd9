"""``augmark export``: the numbers of one or several runs for other programs, a row a quantity of a case.

``formats.py`` says what a row holds; csv and parquet have just these columns, json wraps the rows together with the
environments (``bench/schema/export.schema.json``). The two formats for continuous benchmarking hold what is measured, by case:
``github-action-benchmark`` is that action's customBiggerIsBetter, so only quantities of which more is better;
``bencher`` is the Bencher Metric Format, a measure a quantity. No torch here.
"""

import csv
import io
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from bench.records.formats import COLUMNS, Column, Format
from bench.records.measurements import Measurement, finite
from bench.records.merging import load_runs, merge
from bench.records.runs import SCHEMA, Run, plain
from bench.records.training_cases import KINDS, Better, TrainingCase, training_cases, unknown_kinds
from bench.report.quantities import counted

Row = Mapping[str, Any]


# ---- rows -------------------------------------------------------------------------------------------------------------


def rows(run: Run) -> list[Row]:
    """A row a measured quantity, and one for each case that has none, so that nothing planned vanishes."""
    found = [{**_from(run, one.case.device), **row} for one in run.measurements for row in _measurement_rows(one)]
    for case in training_cases(run.training):
        source = _from(run, str(case.first.get("device")))
        found += [{**source, **row} for row in _training_rows(case)]
    return [{column.name: _typed(row.get(column.name), column) for column in COLUMNS} for row in found]


def _typed(value: Any, column: Column) -> Any:
    """A value as its column promises it; None for what a foreign record has there instead."""
    if column.type == "text":
        return None if value is None else str(value)
    if not finite(value):
        return None
    return float(value) if column.type == "number" else int(value)


def _from(run: Run, device: str) -> dict[str, str]:
    """The run that a device's numbers are from, or the runs whose numbers were joined."""
    names = [one.name for one in run.parts if one.place is None or device.endswith(f" of {one.place}")]
    return {"run": ", ".join(names) or run.name}


def _measurement_rows(one: Measurement) -> Iterator[dict[str, Any]]:
    case = one.case
    fields = ("subject", "backend", "device", "batch_size", "image_size", "image_width", "dtype")
    shared = {"kind": case.suite, "name": case.id, **{name: getattr(case, name) for name in fields}}
    shared |= {"draws": one.draws, "status": one.status, "reason": one.reason}
    rates, calls = one.images_per_s_passes, "10th to 90th percentile of the calls"
    passes = _spanned(min(rates, default=None), max(rates, default=None), "least to most of the passes", len(rates))
    measured: list[dict[str, Any]] = [
        _quantity("images_per_s", "images/s", "more", "median", one.images_per_s) | passes,
        _quantity("wall_s_median", "s", "less", "median", one.wall_s_median)
        | _spanned(one.wall_s_p10, one.wall_s_p90, calls, one.rounds),
        _quantity("device_s_median", "s", "less", "median", one.device_s_median) | {"n": one.rounds},
        _quantity("peak_bytes", "bytes", "less", "single", one.peak_bytes) | {"n": 1},
        _quantity("compile_s", "s", "less", "single", one.compile_s) | {"n": 1},
        # It grows with images_per_s and says no more of a change, so no service should warn of both.
        _quantity("roofline_share", "1", "neither", "single", one.roofline_share) | {"n": 1},
        _quantity("bytes_moved", "bytes", "neither", "single", one.bytes_moved) | {"n": 1},
        _quantity("launches", "kernels", "less", "single", one.launches) | {"n": 1},
        _quantity("syncs", "waits", "less", "single", one.syncs) | {"n": 1},
    ]
    known = [row for row in measured if one.status == "ok" and row["value"] is not None]
    yield from ({**shared, **row} for row in known or [{}])


def _training_rows(case: TrainingCase) -> Iterator[dict[str, Any]]:
    kind, first = KINDS[case.kind], case.first
    fields = ("backend", "device", "batch_size", "image_size", "draws")
    shared = {"kind": case.kind, "name": case.name, **{name: first.get(name) for name in fields}}
    shared |= {"subject": first.get("recipe") or first.get("decoder"), "dtype": first.get("precision")}
    shared |= {"status": case.status, "reason": None if case.records else case.reason}
    known = []
    for quantity in kind.quantities:
        values = case.values(quantity.name)
        if values:
            median = kind.repeated == "round"
            middle = statistics.median(values) if median else statistics.fmean(values)
            known.append(
                _quantity(quantity.name, quantity.unit, quantity.better, "median" if median else "mean", middle)
                | _spanned(min(values), max(values), f"least to most of the {kind.repeated}s", len(values))
            )
    yield from ({**shared, **row} for row in known or [{}])


def _quantity(name: str, unit: str, better: Better, statistic: str, value: float | None) -> dict[str, Any]:
    return {
        "quantity": name,
        "unit": unit,
        "better": better,
        "statistic": statistic,
        "value": float(value) if value is not None and finite(value) else None,
    }


def _spanned(low: float | None, high: float | None, interval: str, n: int) -> dict[str, Any]:
    return {"low": low, "high": high, "interval": None if low is None or high is None else interval, "n": n}


# ---- formats ----------------------------------------------------------------------------------------------------------


def _csv(run: Run) -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, [column.name for column in COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(run))
    return out.getvalue()


def _json(run: Run) -> str:
    parts = [(one.name, one.environment) for one in run.parts] or [(run.name, run.environment)]
    document = {
        "format": "augmark-export",
        "schema": SCHEMA,
        "runs": [{"name": name, "environment": environment} for name, environment in parts],
        "problems": left_out(run),
        "rows": rows(run),
    }
    return json.dumps(plain(document), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _github_action_benchmark(run: Run) -> str:
    """The action's "customBiggerIsBetter": a list of name, unit, value, range and extra."""
    entries = []
    for row in (row for row in _measured(run) if row["better"] == "more"):
        entry = {"name": f"{row['name']} {row['quantity']}", "unit": "share of 1" if row["unit"] == "1" else row["unit"]}
        entry |= {"value": row["value"]}
        if row["low"] is not None and row["n"] > 1:
            entry["range"] = f"± {(row['high'] - row['low']) / 2:.4g}"
            entry["extra"] = f"{row['statistic']}, n = {row['n']}; ± is half from {row['interval']}"
        entries.append(entry)
    return json.dumps(entries, indent=1, allow_nan=False) + "\n"


def _bencher(run: Run) -> str:
    """Bencher Metric Format: case -> measure -> value, lower_value, upper_value."""
    document: dict[str, dict[str, dict[str, float]]] = {}
    for row in _measured(run):
        metric = {"value": row["value"]}
        if row["low"] is not None and row["high"] is not None:
            metric |= {"lower_value": row["low"], "upper_value": row["high"]}
        document.setdefault(row["name"], {})[row["quantity"].replace("_", "-")] = metric
    return json.dumps(plain(document), indent=1, allow_nan=False) + "\n"


def _measured(run: Run) -> list[Row]:
    found = [row for row in rows(run) if row["value"] is not None]
    if not found:
        raise ValueError(f"{run.path} holds no measured number: there is nothing to export")
    return found


def _parquet(run: Run, out: Path) -> None:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ValueError("parquet needs pyarrow: pip install 'augmark[parquet]', or take --format csv") from None
    types = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64()}
    schema = pa.schema([pa.field(one.name, types[one.type], metadata={"about": one.about}) for one in COLUMNS])
    parquet.write_table(pa.Table.from_pylist([dict(row) for row in rows(run)], schema=schema), out)


INVALID = 2  # exit code
TEXTS = {"csv": _csv, "json": _json, "github-action-benchmark": _github_action_benchmark, "bencher": _bencher}


def export(run: Run, format: Format, out: Path | None) -> str | None:
    """Write a run to ``out``; without it, return the text.

    Raises ValueError for an unknown format, for parquet without ``out`` or pyarrow, and where a format has no place for a run
    without numbers; OSError when the file cannot be written.
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


def left_out(run: Run) -> Sequence[str]:
    """What of the run is not in the export, a line each."""
    foreign = [
        f"{counted(count, 'training record')} of the unknown kind {kind!r} {'is' if count == 1 else 'are'} left out"
        for kind, count in unknown_kinds(run.training).items()
    ]
    return [*run.problems, *foreign]


def export_command(paths: Sequence[Path], format: Format, out: Path | None, *, validate: bool) -> int:
    """Export the runs, or check them; returns the exit code. What is wrong or left out goes to the standard error, a line each.

    Raises as ``export`` does, and ValueError where no folder holds a run.
    """
    if not paths:
        raise ValueError("no run was given: name at least one folder that augmark wrote")
    if validate:
        from bench.records.validation import validate_run

        faults = [f"{path}: {fault}" for path in paths for fault in validate_run(path)]
        print(*(faults or [f"{path}: valid" for path in paths]), sep="\n", file=sys.stderr if faults else sys.stdout)
        return INVALID if faults else 0
    runs, problems = load_runs(paths)
    run = runs[0] if len(runs) == 1 and not problems else merge(runs, Path("merged"), problems)
    text = export(run, format, out)
    for line in left_out(run):
        print(f"augmark: {line}", file=sys.stderr)
    sys.stdout.write(text if text is not None else f"{format}: {out}\n")
    return 0
