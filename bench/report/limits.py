"""How near each backend comes to the machine's limit, which is a copy of the same bytes."""

from collections.abc import Mapping

from bench.records.measurements import Measurement, finite
from bench.report.blocks import Block, Code, Heading, Paragraph, Quiet, Table, Text
from bench.report.context import Context
from bench.report.lanes import LANES, LaneTable, lane_tables
from bench.report.quantities import counted, percent, rounded


def limits_section(context: Context) -> list[Block]:
    """Recipes by lane: the share of the limit, and on CUDA a call's kernel launches and waits; nothing for runs without it."""
    blocks: list[Block] = []
    for table in lane_tables(context.run.measurements, "recipes"):
        bandwidth = _bandwidths(context).get(table.device)
        if any(_share(cell) is not None for cell in table.cells.values()):
            blocks += [Heading(text=f"Recipes on {table.device}: {LANES[table.lane]}", level=3), _table(table, bandwidth)]
    if not blocks:
        return []
    return [Heading(text="Share of the machine's limit"), Paragraph(_method(context)), *blocks]


def _method(context: Context) -> Text:
    told = [f"{device} {rounded(speed / 1e9)} GB/s" for device, speed in _bandwidths(context).items()]
    return (
        "A recipe must at least read its batch and write its result. The share is the time in which the device copies as many "
        "bytes from and to its own memory, over the mean time of a call in the first pass; n is the calls of all passes. "
        f"Measured speed of a copy of 256 MiB, bytes read and written: {', '.join(told) or 'not kept'}. A batch that fits into "
        "the caches can move faster than that. Where a device has a clock of its own, the share of the time that it was busy "
        "stands beside: what the host needs to start the call is left out there. On CUDA a whole call, with the drawing of its "
        "parameters, is counted: the kernels that it launches (copies and fills among them), and how often it makes the host "
        "wait for the device."
    )


def _bandwidths(context: Context) -> dict[str, float]:
    """Bytes a second of a copy by device, as far as they are known."""
    speeds = context.run.environment.get("copy_bytes_per_s")
    known = speeds if isinstance(speeds, Mapping) else {}
    return {device: float(speed) for device, speed in known.items() if finite(speed) and speed > 0}


def _table(table: LaneTable, bandwidth: float | None) -> Table:
    header: list[Text] = ["recipe", "MB in and out", *([Code(backend)] for backend in table.backends)]
    rows: list[list[Text]] = []
    for subject in table.subjects:
        cells = [table.cells.get((subject, backend)) for backend in table.backends]
        moved = next((one.bytes_moved for one in cells if one is not None and finite(one.bytes_moved)), None)
        size = rounded(moved / 1e6) if moved else "not known"
        rows.append([[Code(subject)], size, *(_cell(cell, bandwidth) for cell in cells)])
    return Table(header=header, rows=rows, numeric=frozenset(range(1, len(header))))


def _share(cell: Measurement | None) -> float | None:
    share = None if cell is None or cell.status != "ok" else cell.roofline_share
    return share if finite(share) else None


def _cell(cell: Measurement | None, bandwidth: float | None) -> Text:
    share = _share(cell)
    if cell is None or share is None:
        return ""
    details = [f"n {cell.rounds:,}"]
    if bandwidth and cell.bytes_moved and cell.device_s_median:
        details.append(f"{percent(cell.bytes_moved / bandwidth / cell.device_s_median)} by its own clock")
    if finite(cell.launches):
        details.append(counted(int(cell.launches or 0), "launch", "launches"))
    if finite(cell.syncs):
        details.append(counted(int(cell.syncs or 0), "wait"))
    return [percent(share), Quiet(" " + ", ".join(details))]
