"""A measurement, and how it is joined from the plan and from the events of a run.

Each pass of a case is an event when it starts and one when it ends; what became of a planned case is derived from its events
alone, whether they were just seen, read from a journal, or stored with an earlier measurement. No torch here.
"""

import itertools
import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, cast

from bench.grid.cases import Case, PlannedCase

Status = Literal["ok", "unsupported", "failed", "not_run"]


# What a pass knows besides its samples; the first pass that knows it speaks for the case.
PER_PASS = (
    *("threads", "peak_bytes", "compile_s", "graph_breaks", "recompiles", "warmup_calls", "warmup_s"),
    *("bytes_moved", "roofline_share", "launches", "syncs"),
)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What became of one planned case.

    ``images_per_s`` is the median over passes of ``batch_size * calls / seconds`` of the pass (``images_per_s_passes``), so
    that calls which skipped a p < 1 op count as often as they happened. ``wall_s_*`` are statistics over the calls of all
    passes, in seconds of synchronised wall time; ``device_s_median`` is the same call on the device's own clock (None on a
    CPU). ``samples_s`` holds each call's seconds, one list a pass. ``peak_bytes`` is what one call allocates at most beyond
    its inputs; ``compile_s`` what the warm-up took beyond as many steady calls. ``roofline_share`` is the time in which the
    device would copy ``bytes_moved`` (those of the batch and of the result) over the mean time of a call; ``launches`` and
    ``syncs`` are a call's kernels and the host's waits for them on CUDA. A failed case keeps the passes that it ended.
    """

    case: Case
    status: Status
    reason: str | None = None
    draws: str | None = None
    images_per_s: float | None = None
    images_per_s_passes: list[float] = field(default_factory=list)
    wall_s_median: float | None = None
    wall_s_mean: float | None = None
    wall_s_p10: float | None = None
    wall_s_p90: float | None = None
    device_s_median: float | None = None
    rounds: int = 0
    samples_s: list[list[float]] = field(default_factory=list)
    threads: int | None = None
    peak_bytes: int | None = None
    compile_s: float | None = None
    graph_breaks: int | None = None
    recompiles: int | None = None
    warmup_calls: int | None = None
    warmup_s: float | None = None
    bytes_moved: int | None = None
    roofline_share: float | None = None
    launches: int | None = None
    syncs: int | None = None


def running(case: Case, number: int) -> dict[str, Any]:
    """Event: pass ``number`` (from 0) of a case starts."""
    return {"event": "running", "id": case.id, "pass": number}


def done(case: Case, number: int, status: Literal["ok", "failed"], **result: Any) -> dict[str, Any]:
    """Event: a pass of a case ended; ``result`` has ``reason`` or ``samples_s``, ``device_s_median`` and the like."""
    return {"event": "done", "id": case.id, "pass": number, "status": status, **result}


def is_event(row: Mapping[str, Any]) -> bool:
    """Whether a line of a journal is one of the above, and not foreign."""
    known = row.get("event") == "running" or (row.get("event") == "done" and row.get("status") in ("ok", "failed"))
    return known and isinstance(row.get("id"), str) and isinstance(row.get("pass"), int)


def join(entries: Iterable[Mapping[str, Any]], events: Sequence[Mapping[str, Any]], *, died: bool) -> list[Measurement]:
    """Join the plan's entries with the journal's events: one measurement a planned case, whatever became of it.

    ``died``: nobody ended this run, so a case that was started and not ended took the process with it.
    """
    by_case: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        by_case.setdefault(str(event.get("id")), []).append(event)
    measurements = []
    for entry in entries:
        planned = read_entry(entry)
        happened = by_case.get(planned.case.id, [])
        if died and happened and happened[-1].get("event") == "running":
            happened = [*happened, done(planned.case, int(happened[-1].get("pass") or 0), "failed", reason="process died")]
        measurements.append(_joined(planned, happened))
    return measurements


def _joined(planned: PlannedCase, events: Sequence[Mapping[str, Any]]) -> Measurement:
    ended = [event for event in events if event.get("event") == "done"]
    passes = sorted((e for e in ended if e.get("status") == "ok" and numbers(e.get("samples_s"))), key=lambda e: e["pass"])
    failure = next((e for e in ended if e.get("status") == "failed"), None)
    status: Status = "unsupported" if planned.status == "unsupported" else "not_run"
    reason = planned.reason
    if failure is not None:
        status, reason = "failed", str(failure.get("reason") or "no reason was kept")
    elif passes:
        status, reason = "ok", None
    samples = [numbers(event["samples_s"]) for event in passes]
    known: dict[str, Any] = {name: next((e[name] for e in passes if e.get(name) is not None), None) for name in PER_PASS}
    device = [float(e["device_s_median"]) for e in passes if finite(e.get("device_s_median"))]
    return Measurement(
        case=planned.case,
        status=status,
        reason=reason,
        draws=planned.draws,
        device_s_median=statistics.median(device) if device else None,
        samples_s=samples,
        **_statistics(planned.case.batch_size, samples),
        **known,
    )


def _statistics(batch_size: int, samples: Sequence[Sequence[float]]) -> dict[str, Any]:
    import numpy as np  # here: --help needs none

    calls: Any = np.sort(np.fromiter(itertools.chain.from_iterable(samples), dtype=np.float64))
    if not len(calls):
        return {}
    rates = [batch_size * len(one_pass) / sum(one_pass) for one_pass in samples if sum(one_pass) > 0]
    return {
        "images_per_s": statistics.median(rates) if rates else None,
        "images_per_s_passes": rates,
        "wall_s_median": _quantile(calls, 0.5),
        "wall_s_mean": float(calls.mean()),
        "wall_s_p10": _quantile(calls, 0.1),
        "wall_s_p90": _quantile(calls, 0.9),
        "rounds": len(calls),
    }


# What a case counts as that several runs met with: the first of these that any of them has.
BEST_FIRST: tuple[Status, ...] = ("ok", "failed", "unsupported", "not_run")


def pooled(measurements: Sequence[Measurement]) -> Measurement:
    """One case from several runs of the same code on the same machine: the passes of those that measured it, one after another.

    What none of them measured is what became of it in the first that failed, else was unsupported, else did not run.
    """
    first = min(measurements, key=lambda one: BEST_FIRST.index(one.status))
    alike = [one for one in measurements if one.status == first.status]
    if first.status != "ok" or len(alike) == 1:
        return first
    samples = [calls for one in alike for calls in one.samples_s]
    rates = [rate for one in alike for rate in one.images_per_s_passes]  # kept even where samples were not
    device = [one.device_s_median for one in alike if one.device_s_median is not None]
    known: dict[str, Any] = {
        name: next((value for one in alike if (value := getattr(one, name)) is not None), None) for name in PER_PASS
    }
    known |= {"device_s_median": statistics.median(device) if device else None, "samples_s": samples}
    known |= _statistics(first.case.batch_size, samples)
    known |= {"images_per_s": statistics.median(rates), "images_per_s_passes": rates} if rates else {}
    return replace(first, **known)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear between the neighbouring order statistics (numpy's default)."""
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (ordered[high] - ordered[low]) * (position - low))


def finite(value: Any) -> bool:
    """A number that one can calculate with: neither NaN, infinite, missing nor a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def numbers(value: Any) -> list[float]:
    """The finite numbers of a list, which may be the list itself; none of anything else."""
    # Millions of samples are read for a merged report: where all are floats and their sum is finite, so is each.
    if isinstance(value, list) and {float}.issuperset(map(type, value)) and math.isfinite(sum(value)):
        return value
    return [float(item) for item in value if finite(item)] if isinstance(value, list) else []


def events_of(measurement: Measurement) -> list[dict[str, Any]]:
    """The journal that a stored measurement would have come from, so that a finished run can be resumed."""
    case = measurement.case
    known = {name: getattr(measurement, name) for name in (*PER_PASS, "device_s_median")}
    events = [done(case, i, "ok", samples_s=samples, **known) for i, samples in enumerate(measurement.samples_s)]
    if measurement.status == "failed":
        events.append(done(case, len(events), "failed", reason=measurement.reason))
    return events


CASE_FIELDS = tuple(f.name for f in fields(Case) if f.name != "image_width")


def read_case(data: Any) -> Case:
    """Raises KeyError or TypeError for what is no stored case."""
    case = Case(**{name: data[name] for name in CASE_FIELDS}, image_width=data.get("image_width"))  # old records have no width
    for name in (*CASE_FIELDS, *(["image_width"] if case.image_width is not None else [])):
        kind = int if name in ("batch_size", "image_size", "image_width") else str
        if type(getattr(case, name)) is not kind:
            raise TypeError(f"{name} must be of type {kind.__name__}")
    return case


def read_entry(entry: Mapping[str, Any]) -> PlannedCase:
    """A planned case as plan.json keeps it. Raises KeyError or TypeError for what is none."""
    status = cast(Literal["planned", "unsupported"], entry.get("status") or "planned")
    told = {name: entry.get(name) for name in ("draws", "reason", "differs")}
    return PlannedCase(case=read_case(entry["case"]), status=status, **told)
