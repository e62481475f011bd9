"""The order of a report's sections, and the files that it becomes."""

import os
from pathlib import Path

from bench.records import Run, write_csv
from bench.report import head, tail
from bench.report.blocks import Block
from bench.report.context import Context
from bench.report.growth import growth_section
from bench.report.markdown import render
from bench.report.parity import audit_section
from bench.report.runs import accuracy_section, throughput_section
from bench.report.speed import suite_section


def sections(context: Context) -> list[Block]:
    """All blocks, in reading order. Draws the figures on the way."""
    return [
        *head.title(context),
        *head.answer(context),
        *audit_section(context),
        *suite_section(context, "recipes"),
        *suite_section(context, "ops"),
        *growth_section(context),
        *throughput_section(context),
        *accuracy_section(context),
        *tail.missing(context),
        *tail.method(context),
        *tail.files(context),
    ]


def write_report(run: Run) -> Path:
    """Write report.md, figures/*.png and measurements.csv into the run's folder; returns the path of report.md.

    Whatever the run lacks is said to be missing. Raises OSError when the folder cannot be written.
    """
    write_csv(run.path / "measurements.csv", run.measurements)
    path = run.path / "report.md"
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(render(sections(Context.of(run))), encoding="utf-8")
    os.replace(temporary, path)
    return path
