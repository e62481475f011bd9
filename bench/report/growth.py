"""Section on how images/s changes with batch size and image size, where more than one was measured."""

from collections.abc import Mapping, Sequence

from bench.records.measurements import Measurement
from bench.report.blocks import Block, Heading, Paragraph
from bench.report.context import MOST_OF_A_KIND, Context
from bench.report.growth_figure import Lines, growth_figure
from bench.report.lanes import LANES, lane_of, rate, usual_size
from bench.report.quantities import counted, listed

TITLE = "How speed changes with batch and image size"
AXES = {"batch": "batch size, images", "side": "side of the image, pixels"}


def growth_section(context: Context) -> list[Block]:
    """A figure for each suite, device, lane and size that was varied. Slopes, not ratios: lanes never share a figure.

    Nothing where every case has one size.
    """
    usual = usual_sizes(context.run.measurements)
    groups: dict[tuple[str, str, str, str], list[Measurement]] = {}
    for one in context.run.measurements:
        if rate(one) is not None and one.draws is not None:
            groups.setdefault((one.case.suite, one.case.device, one.case.dtype, lane_of(one)), []).append(one)
    every = [(lines_along(mine, usual, along), group, along) for group, mine in groups.items() for along in AXES]
    found = [one for one in every if one[0]]
    if not found:
        words = "Not measured: cases of several sizes were planned, and of none two sizes succeeded."
        return [Heading(text=TITLE), Paragraph(words)] if _several_sizes(context.run.measurements, usual) else []
    blocks: list[Block] = [Heading(text=TITLE), *(_picture(context, *one) for one in found[:MOST_OF_A_KIND])]
    if len(found) > MOST_OF_A_KIND:
        blocks.append(
            Paragraph(f"{len(found) - MOST_OF_A_KIND} more figures are not drawn; their values are in measurements.csv.")
        )
    return blocks


def _several_sizes(planned: Sequence[Measurement], usual: "Sizes") -> bool:
    """Whether a case that could run was planned at another than the usual size."""
    return any(
        (one.case.batch_size, one.case.image_size) != usual[one.case.suite, one.case.subject, one.case.device, one.case.dtype]
        for one in planned
        if one.draws is not None
    )


def _picture(context: Context, lines: Lines, group: tuple[str, str, str, str], along: str) -> Block:
    suite, device, _, lane = group
    title = f"{suite} on {device} by {'batch' if along == 'batch' else 'image'} size: {LANES[lane]}"
    alternative = (
        f"Line plots, both axes logarithmic: images per second by {AXES[along]} for {counted(len(lines), 'subject')} "
        f"({listed(lines)}) on {device}, {LANES[lane]}; a line a backend. Values are in measurements.csv."
    )
    name = "-".join(("growth", *group, along))
    return context.figure(name, lambda path: growth_figure(lines, AXES[along], title, path), alternative)


Sizes = Mapping[tuple[str, str, str, str], tuple[int, int]]
"""(suite, subject, device, dtype) -> usual batch and image size."""


def usual_sizes(planned: Sequence[Measurement]) -> Sizes:
    """The size at which each subject stands in the tables."""
    return {
        (one.case.suite, one.case.subject, one.case.device, one.case.dtype): (one.case.batch_size, one.case.image_size)
        for one in usual_size(planned)
    }


def lines_along(mine: Sequence[Measurement], usual: Sizes, along: str) -> Lines:
    """Lines of two points or more along one size, the other one at its usual value."""
    points: dict[str, dict[str, dict[int, Measurement]]] = {}
    for one in mine:
        case = one.case
        batch, side = usual[case.suite, case.subject, case.device, case.dtype]
        if along == "batch" and case.image_size == side:
            points.setdefault(case.subject, {}).setdefault(case.backend, {})[case.batch_size] = one
        elif along == "side" and case.batch_size == batch:
            points.setdefault(case.subject, {}).setdefault(case.backend, {})[case.image_size] = one
    lines = {
        subject: {backend: sorted(by_size.items()) for backend, by_size in by_backend.items() if len(by_size) > 1}
        for subject, by_backend in points.items()
    }
    return {subject: by_backend for subject, by_backend in lines.items() if by_backend}
