"""The order of a report's sections, and the files that it becomes."""

import os
from pathlib import Path

from bench.records import Run, write_csv
from bench.report import head, html, markdown, tail
from bench.report.accuracy import accuracy_section
from bench.report.blocks import Block
from bench.report.context import FIGURES, Context
from bench.report.findings import findings
from bench.report.finetune import decoding_section, finetune_section, photographs_section
from bench.report.gallery import gallery_section
from bench.report.growth import growth_section
from bench.report.limits import limits_section
from bench.report.merged import runs_section
from bench.report.parity import audit_section
from bench.report.scaling import scaling_section
from bench.report.speed import suite_section
from bench.report.tax import tax_section


def sections(context: Context) -> list[Block]:
    """All blocks, in reading order. Draws the figures on the way."""
    return [
        *head.title(context),
        *findings(context),
        *runs_section(context),
        *tax_section(context),
        *suite_section(context, "recipes"),
        *suite_section(context, "ops"),
        *growth_section(context),
        *limits_section(context),
        *accuracy_section(context),
        *scaling_section(context),
        *audit_section(context),
        *gallery_section(context),
        *finetune_section(context),
        *photographs_section(context),
        *decoding_section(context),
        *tail.method(context),
        *tail.files(context),
        *tail.missing(context),
    ]


def write_report(run: Run) -> Path:
    """Write report/index.html, its Markdown twin report/report.md, report/figures/*.svg and measurements.csv into the run's
    folder; returns the path of the page.

    Whatever the run lacks is said to be missing. Raises OSError when the folder cannot be written.
    """
    context = Context.of(run)
    context.folder.mkdir(parents=True, exist_ok=True)
    for old in (context.folder / FIGURES).glob("*.svg"):  # of an earlier report, which may have had other figures
        old.unlink()
    write_csv(run.path / "measurements.csv", run.measurements)
    blocks = sections(context)
    _write(context.folder / "report.md", markdown.render(blocks))
    return _write(context.folder / "index.html", html.render(blocks, context.folder))


def _write(path: Path, text: str) -> Path:
    """Whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
    return path
