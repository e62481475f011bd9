"""The tables that a benchmark session ends with: images per second, a row a subject, a column a backend."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from bench.grid.cases import Case
from bench.records.measurements import Measurement

LANES = {"per_image": "i", "per_batch": "b", "mixed": "m"}
LEGEND = (
    "images/s, median of the passes, ± half their range. Parameters drawn: i per image, b once a batch, m some ops each way; "
    "compare i with i and b with b. - unsupported"
)


def summary_lines(measurements: Sequence[Measurement], *, width: int) -> list[str]:
    """The tables as lines; where ``width`` characters are too few for the spread, without it."""
    if not measurements:
        return []
    lines = []
    for _, group in groupby(sorted(measurements, key=lambda m: _table(m.case)), key=lambda m: _table(m.case)):
        rows = list(group)
        table = _lines(rows, spread=True)
        lines += ["", _title(rows[0].case), *(table if len(table[0]) <= width else _lines(rows, spread=False))]
    lines += ["", LEGEND]
    spread = sorted(s for m in measurements if (s := _half_range(m)) is not None)
    if spread:
        lines.append(f"Between passes: ±{spread[len(spread) // 2]:.0%} in half of the cases, ±{spread[-1]:.0%} at most.")
    left = sum(m.status == "not_run" for m in measurements)
    if left:
        lines.append(f"{left} of {len(measurements)} planned cases were not measured.")
    return lines


def _table(case: Case) -> tuple[str, str, int, int, int, str]:
    return case.suite, case.device, case.image_size, case.width, case.batch_size, case.dtype


def _title(case: Case) -> str:
    return f"{case.suite} on {case.device}, batch {case.batch_size}, {case.pixels}, {case.dtype}"


def _lines(measurements: Sequence[Measurement], *, spread: bool) -> list[str]:
    backends = _in_order(m.case.backend for m in measurements)
    cells = {(m.case.subject, m.case.backend): _cell(m, spread=spread) for m in measurements}
    rows = [["images/s", *backends]]
    rows += [[name, *(cells.get((name, b), "") for b in backends)] for name in sorted({m.case.subject for m in measurements})]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(size) if i == 0 else text.rjust(size) for i, (text, size) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _cell(measurement: Measurement, *, spread: bool) -> str:
    if measurement.images_per_s is None or measurement.status != "ok":
        return {"unsupported": "-", "failed": "failed"}.get(measurement.status, "")
    half = _half_range(measurement)
    between = f" ±{half:.0%}".ljust(5) if spread and half is not None else ""
    return f"{measurement.images_per_s:,.0f}{between} {LANES.get(measurement.draws or '', ' ')}"


def _half_range(measurement: Measurement) -> float | None:
    rates = measurement.images_per_s_passes
    if len(rates) < 2 or not measurement.images_per_s:
        return None
    return (max(rates) - min(rates)) / 2 / measurement.images_per_s
