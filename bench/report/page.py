"""Order of the report's sections, and the files that they become."""

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.records import Run
from bench.report.blocks import Document, Paragraph, Section, Table
from bench.report.figures import Line, lines, series_look
from bench.report.render import figure_files, render_html, render_markdown
from bench.report.sections import certificate, state
from bench.report.sections.accuracy import accuracy_section
from bench.report.sections.audit import audit_section, gallery_section
from bench.report.sections.finetune import finetune_section
from bench.report.sections.pipeline import pipeline_section
from bench.report.sections.scaling import scaling_section
from bench.report.sections.speed import cost_section, growth_section, suite_section
from bench.report.sections.training import training_section


def build_document(run: Run, folder: Path) -> Document:
    """Return the report of a run; ``folder`` is where it goes."""
    measured: Mapping[str, Section | None] = {
        "training speed by placement": training_section(run),
        "images per second of recipes": suite_section(run, "recipes"),
        "images per second of single ops": suite_section(run, "ops"),
        "speed by batch and image size": growth_section(run),
        "what a call costs": cost_section(run),
        "accuracy by recipe": accuracy_section(run),
        "training on several processes": scaling_section(run),
        "whether backends do the same augmentation": audit_section(run),
        "what each op looks like": gallery_section(run, folder),
        "fine-tuning on photographs": finetune_section(run),
        "feeding photographs": pipeline_section(run),
        "which differences can be told": certificate.certificate_section(run),
    }
    sections = [section for section in (state.runs_section(run), *measured.values(), state.method_section(run)) if section]
    absent = [name for name, section in measured.items() if section is None]
    answers = [answer for section in sections for answer in section.answers]
    nothing = state.no_answer("What was measured?", "This run holds no measurement and no training record.")
    notes = dict.fromkeys((*(section.note for section in sections if section.answers), state.lacking(run)))
    return Document(
        title=state.title(run),
        warnings=state.warnings(run),
        answers=answers or [nothing],
        basis=[*(Paragraph(note) for note in notes if note), Table(header=("", ""), rows=state.facts(run))],
        sections=[*sections, state.missing_section(run, absent)],
    )


def write_report(run: Run, out: Path | None = None) -> Path:
    """Write ``report/index.html``, ``report/report.md`` and ``report/figures/*.svg``.

    Args:
        run: what was measured.
        out: folder that gets the report (None: the run's).

    Returns:
        The path of the page.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = (out or run.path) / "report"
    document = build_document(run, folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for stale in (folder / "figures").glob("*.svg"):
        stale.unlink()
    for name, svg in figure_files(document).items():
        (folder / "figures" / name).write_text(svg, encoding="utf-8", errors="backslashreplace")
    _write(folder / "report.md", render_markdown(document))
    return _write(folder / "index.html", render_html(document, folder))


def write_gallery(run: Run) -> Path:
    """Write ``index.html`` with nothing but the gallery into the run's folder. Raises OSError."""
    section = gallery_section(run, run.path)
    document = Document(title="Gallery", sections=[section] if section else [])
    return _write(run.path / "index.html", render_html(document, run.path))


def write_curves(epochs: Iterable[Mapping[str, Any]], path: Path) -> Path:
    """Write the learning curves of one training as SVG: train loss, train and test accuracy by epoch on one axis.

    Raises:
        OSError: the file cannot be written.
    """
    rows, series = list(epochs), []
    for index, name in enumerate(("train_loss", "train_accuracy", "test_accuracy")):
        values = [(row["epoch"], row.get(name)) for row in rows]
        points = [(epoch, value) for epoch, value in values if value is not None and math.isfinite(value)]
        series += [Line(name.replace("_", " "), series_look(index), points)] if points else []
    alternative = "Learning curves: train loss, train and test accuracy by epoch."
    figure = lines("curves", alternative, {"": series}, "epoch", "loss; accuracy (share of one)", zero=True)
    return _write(path, figure.svg)


def _write(path: Path, text: str) -> Path:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(temporary, path)
    return path
