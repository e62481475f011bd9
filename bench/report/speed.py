"""Sections on images/s: a figure and a table for each lane of a suite on a device, and the two clocks."""

import statistics
from collections.abc import Sequence

from bench.records.measurements import Measurement, finite
from bench.report.blocks import Block, Break, Code, Details, Heading, Inline, Paragraph, Quiet, Strong, Table, Text
from bench.report.context import Context
from bench.report.figures import rates_figure
from bench.report.lanes import ELSEWHERE, LANES, LaneTable, lane_tables, passes, rate, ratio, usual_size
from bench.report.quantities import UNKNOWN, counted, listed, rounded, spread

TITLES = {"recipes": "Recipes: images per second", "ops": "Single ops: images per second"}
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
STATUS_WORDS = {"failed": "failed", "unsupported": "unsupported", "not_run": "not run", "ok": "no value"}


def suite_section(context: Context, suite: str) -> list[Block]:
    """Everything on one suite at each subject's usual size; nothing where none was planned."""
    tables = lane_tables(context.run.measurements, suite)
    if not any(one.case.suite == suite for one in context.run.measurements):
        return []
    blocks: list[Block] = [Heading(text=TITLES[suite])]
    if not tables:
        return [*blocks, Paragraph(f"No {suite} could be measured; the reasons stand at the end of this report.")]
    if context.differences is None:
        blocks.append(Paragraph("The plan does not say which cells differ from the op's definition, so no ratios are shown."))
    for table in tables:
        blocks += _lane_section(context, table)
    return blocks + _clocks(context, suite) + _compilation(context, suite)


def _lane_section(context: Context, table: LaneTable) -> list[Block]:
    blocks: list[Block] = [Heading(text=f"{table.suite.capitalize()} on {table.device}: {LANES[table.lane]}", level=3)]
    blocks.append(Paragraph(_how_to_read(context, table)))
    if any(table.ok(subject) for subject in table.subjects):
        blocks.append(_rates_picture(context, table))
    notes: dict[str, int] = {}
    blocks.append(_rates_table(context, table, notes))
    if notes:
        text: list[Inline] = []
        for words, index in notes.items():
            text += [*([Break()] if text else []), f"{_mark(index)} {words}"]
        summary = f"Not the op as it is defined, so no ratio: {counted(len(notes), 'note')}"
        blocks.append(Details(summary=summary, blocks=[Paragraph(text)]))
    return blocks


def _rates_picture(context: Context, table: LaneTable) -> Block:
    first = [row[0] for subject in table.subjects if (row := table.ok(subject))]
    fastest = [f"{cell.case.subject}: {cell.case.backend} {rounded(rate(cell) or 0)}" for cell in first]
    number = counted(len(first), table.suite.removesuffix("s"))
    alternative = (
        f"Dot plot, log scale: images per second of {number} on {table.device} by backend, {LANES[table.lane]}. "
        f"Fastest: {listed(fastest, 8)}. All values stand in the table below."
    )
    name = f"{table.suite}-{table.device}-{table.dtype}-{table.lane}"
    return context.figure(name, lambda path: rates_figure(table, path), alternative)


# ---- the table --------------------------------------------------------------------------------------------------------


def _sizes(table: LaneTable) -> dict[str, str]:
    """Batch and image size of each subject, in words."""
    return {cell.case.subject: f"{cell.case.batch_size} of {cell.case.pixels}" for cell in table.cells.values()}


def pass_counts(cells: Sequence[Measurement]) -> set[int]:
    """How many passes the measured cells have."""
    return {len(passes(cell)) for cell in cells if rate(cell) is not None}


def _how_to_read(context: Context, table: LaneTable) -> list[Inline]:
    counts = pass_counts(list(table.cells.values()))
    number = f"of {counted(counts.pop(), 'pass', 'passes')}" if len(counts) == 1 else "of the passes (n in the cell)"
    text: list[Inline] = [f"images/s, median {number}"]
    if counts or number != "of 1 pass":
        text.append("; ± is half the range between passes")
    else:
        text.append(", so the spread between passes is not known")
    if table.baseline and context.differences is not None:
        text += ["; x is the ratio to ", Code(table.baseline), " (in brackets: worst to best pair of passes)"]
    elif table.lane == "mixed":
        text.append("; what is drawn per image and what per batch differs between backends, so there are no ratios")
    sizes = set(_sizes(table).values())
    where = f" Batch: {sizes.pop()} pixels" if len(sizes) == 1 else " Batch and pixels: second column"
    text.append(f".{where}, result {table.dtype}.")
    if ELSEWHERE in table.elsewhere.values():
        text.append(f" {ELSEWHERE} lies in another lane, see there.")
    known = context.differences is not None and table.lane != "mixed"
    if known and max(pass_counts(list(table.cells.values())), default=0) > 1 and len(table.backends) > 1:
        text.append(" Bold: its slowest pass beats the fastest pass of all others in the row.")
    return text


def _rates_table(context: Context, table: LaneTable, notes: dict[str, int]) -> Table:
    sizes = _sizes(table)
    with_size = len(set(sizes.values())) > 1
    with_n = len(pass_counts(list(table.cells.values()))) > 1
    baseline = None if context.differences is None else table.baseline
    header: list[Text] = [table.suite.removesuffix("s"), *(["batch"] if with_size else [])]
    header += [[Code(b), *([" (baseline)"] if b == baseline else [])] for b in table.backends]
    rows = []
    for subject in table.subjects:
        winner = _clear_winner(context, table, subject)
        row: list[Text] = [[Code(subject)], *([sizes[subject]] if with_size else [])]
        row += [_cell(context, table, subject, b, notes, bold=b == winner, with_n=with_n) for b in table.backends]
        rows.append(row)
    return Table(header=header, rows=rows, numeric=frozenset(range(1, len(header))))


def _clear_winner(context: Context, table: LaneTable, subject: str) -> str | None:
    """Faster than the others beyond the spread between passes, all doing the op as defined."""
    if table.lane == "mixed" or context.differences is None:
        return None
    row = [cell for cell in table.ok(subject) if (subject, cell.case.backend) not in context.differences]
    if len(row) < 2 or any(len(passes(cell)) < 2 for cell in row):
        return None
    best, *others = row
    return best.case.backend if min(passes(best)) > max(max(passes(cell)) for cell in others) else None


def _mark(index: int) -> str:
    return str(index).translate(SUPERSCRIPTS)


def _cell(
    context: Context, table: LaneTable, subject: str, backend: str, notes: dict[str, int], *, bold: bool, with_n: bool
) -> list[Inline]:
    cell = table.cells.get((subject, backend))
    value = rate(cell)
    if cell is None:
        return [table.elsewhere.get((subject, backend), "not planned")]
    if value is None:
        return [STATUS_WORDS[cell.status]]
    beside = spread(passes(cell)) + (f" n={len(passes(cell))}" if with_n else "")
    words = rounded(value)
    text: list[Inline] = [Strong(words) if bold else words, *([Quiet(f" {beside.strip()}")] if beside.strip() else [])]
    difference = (context.differences or {}).get((subject, backend))
    if difference:
        text.append(" " + _mark(notes.setdefault(difference, len(notes) + 1)))
    against = ratio(table, subject, backend, context.differences)
    if against is not None:
        span = f" ({rounded(against.low)} to {rounded(against.high)})" if against.low and against.high else ""
        text += [Break(), f"{rounded(against.value)}x", *([Quiet(span)] if span else [])]
    return text


# ---- what a call costs beside the images ------------------------------------------------------------------------------


def _clocks(context: Context, suite: str) -> list[Block]:
    """Wall time and the device's own time of a call, where the device has a clock."""
    cells = [cell for cell in usual_size(context.run.measurements) if cell.case.suite == suite and rate(cell) is not None]
    rows: list[Sequence[Text]] = []
    for cell in cells:
        wall, device = cell.wall_s_median, cell.device_s_median
        if not (finite(wall) and finite(device)) or not wall or device is None:
            continue
        low, high = cell.wall_s_p10, cell.wall_s_p90
        span = f" ({rounded(1e3 * low)} to {rounded(1e3 * high)})" if low is not None and high is not None else ""
        rows.append(
            [
                [Code(cell.case.subject)],
                [Code(cell.case.backend)],
                cell.case.device,
                f"{rounded(1e3 * wall)}{span}",
                rounded(1e3 * device),
                f"{min(device / wall, 1):.0%}".replace("%", " %"),
                f"{cell.rounds:,}",
            ]
        )
    if not rows or suite == "ops":  # thirty ops times six backends would be a page that nobody reads; the CSV has them
        return []
    header = [
        *(suite.removesuffix("s"), "backend", "device", "wall time of a call, ms: median (p10 to p90)"),
        *("device time of a call, ms: median", "device busy", "calls"),
    ]
    words = "What the device is not busy with is work of the host: Python, launches, parameters drawn on the CPU."
    return [
        Heading(text="The two clocks", level=3),
        Paragraph(words),
        Table(header=header, rows=rows, numeric=frozenset(range(3, 7))),
    ]


def _compilation(context: Context, suite: str) -> list[Block]:
    """What compiling cost before the first measured call, by backend and device."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for cell in context.run.measurements:
        if cell.case.suite == suite and finite(cell.compile_s):
            groups.setdefault((cell.case.backend, cell.case.device), []).append(cell)
    if not groups:
        return []
    rows = [_compiled_row(backend, device, cells) for (backend, device), cells in groups.items()]
    header = [
        "backend",
        "device",
        "cases",
        "compile time, s: median (fastest to slowest)",
        "graph breaks, total",
        "recompiled, cases",
    ]
    return [
        Heading(text="What compiling costs", level=3),
        Paragraph("Outside of the images/s above; paid once a process and shape."),
        Table(header=header, rows=rows, numeric=frozenset({2, 3, 4, 5})),
    ]


def _compiled_row(backend: str, device: str, cells: Sequence[Measurement]) -> list[Text]:
    seconds = sorted(cell.compile_s for cell in cells if cell.compile_s is not None)
    breaks = [cell.graph_breaks for cell in cells if cell.graph_breaks is not None]
    again = [cell.recompiles for cell in cells if cell.recompiles is not None]
    return [
        [Code(backend)],
        device,
        f"{len(cells):,}",
        f"{rounded(statistics.median(seconds))} ({rounded(seconds[0])} to {rounded(seconds[-1])})",
        f"{sum(breaks):,}" if breaks else UNKNOWN,
        f"{sum(1 for count in again if count):,}" if again else UNKNOWN,
    ]
