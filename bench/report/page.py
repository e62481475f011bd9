"""The order of a report's sections, and the files that it becomes."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.records.runs import Run, write_csv
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


def _recipes(context: Context) -> list[Block]:
    return suite_section(context, "recipes")


def _ops(context: Context) -> list[Block]:
    return suite_section(context, "ops")


MEASURED: Sequence[tuple[str, Callable[[Context], list[Block]]]] = (
    ("training speed by placement", tax_section),
    ("images per second of recipes", _recipes),
    ("images per second of single ops", _ops),
    ("how speed changes with batch and image size", growth_section),
    ("share of the machine's limit", limits_section),
    ("accuracy by recipe", accuracy_section),
    ("training on several processes", scaling_section),
    ("whether backends do the same augmentation", audit_section),
    ("what each op looks like", gallery_section),
    ("fine-tuning on photographs", finetune_section),
    ("where the time of photographs goes", photographs_section),
    ("decoding JPEG files", decoding_section),
)
"""What a run can measure, in reading order, and its section: empty where the run did not set out to measure it."""


def sections(context: Context) -> list[Block]:
    """All blocks, in reading order; what was not measured has no section, and is named in the last line. Draws the figures."""
    told = [(name, section(context)) for name, section in MEASURED]
    absent = [name for name, blocks in told if not blocks]
    return [
        *head.title(context),
        *findings(context),
        *runs_section(context),
        *(block for _, blocks in told for block in blocks),
        *tail.method(context),
        *tail.files(context),
        *tail.missing(context),
        *tail.not_measured(context, absent),
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
