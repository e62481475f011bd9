"""Audit of the backends, and pictures of what they do."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from bench.records import AuditCell, Run, format_number, join, plural
from bench.report.blocks import BREAK, Answer, Block, Bullets, Code, Details, Paragraph, Section, Strip, Strips, Text, Warning
from bench.report.conformance import list_places
from bench.report.facts.cases import LANES
from bench.report.facts.gallery import Gallery, Picture, load_gallery
from bench.report.facts.state import list_remarks
from bench.report.sections.state import audit_words
from bench.report.tables import build_table, words_column

TITLE = "Is it the same augmentation?"
MARKS = {"per_image": "i", "per_batch": "b", "mixed": "m", "fixed": "f"}
METHOD = """The parameters that a backend drew are replayed through torchvision's functionals, image by image, in float. Errors
are in units of 1/255. Exact: at most 1 everywhere; close: at most 1 in the mean (2 in a recipe that rounds to bytes between its
ops), and a named reason; different: anything else. The lane (how often parameters are drawn) and the law of each drawn
parameter are tested too."""
LANE_WORDS = ", ".join(f"{mark} {LANES[name]}" for name, mark in MARKS.items())
LEGEND = (
    f"A cell: verdict, measured lane ({LANE_WORDS}), and the error that decides: largest, of close ones the mean, in 1/255."
)


def audit_section(run: Run) -> Section | None:
    """Return a verdict a cell, the causes, and what contradicts the definitions."""
    audit = run.audit
    if audit is None or not (audit.verdicts or audit.failed):
        text = "Not audited in this run (augmark audit); named differences are those that the definitions declare."
        return Section(title=TITLE, blocks=[Paragraph(text)]) if run.cases("speed") else None
    if audit.failed:
        blocks: list[Block] = [Warning(f"The audit failed: {audit.failed}. Ratios rest on what the definitions declare.")]
        only = [Answer(TITLE, "Not known: it failed", f"{audit.failed}.")]
        return Section(title=TITLE, blocks=blocks, answers=[] if run.records else only)
    conditions = (
        f"Measured on {audit.images}, device {audit.device}, {audit.n} draws a distribution, seed {audit.seed}; chance of any "
    )
    conditions += f"false alarm among all tests {audit.alpha} (Holm)."
    blocks = [Paragraph(f"{METHOD} {conditions} {LEGEND}")]
    if audit.findings:
        lines = [piece for finding in audit.findings for piece in (BREAK, str(finding))]
        blocks.append(Warning(["The audit contradicts what the definitions declare:", *lines]))
    for kind in ("recipe", "op"):
        cells = [cell for cell in audit.verdicts if cell.kind == kind]
        blocks += [_table(cells, kind)] if cells else []
    items = [
        f"{text} ({list_places(cells).replace('`', '')})"
        for text, cells in list_remarks(audit, {cell.backend for cell in audit.verdicts}).items()
    ]
    blocks += [Details(summary=f"Why not exact: {plural(len(items), 'cause')}", blocks=[Bullets(items)])] if items else []
    answers = [] if run.records else [Answer(TITLE, audit_words(run), "This run holds only an audit.")]
    return Section(title=TITLE, blocks=blocks, answers=answers)


def _table(cells: Sequence[AuditCell], kind: str) -> Block:
    by_key, backends = {(cell.subject, cell.backend): cell for cell in cells}, dict.fromkeys(cell.backend for cell in cells)
    columns = [words_column(kind, lambda subject: [Code(subject)])]
    columns += [words_column([Code(backend)], partial(_cell, by_key, backend)) for backend in backends]
    return build_table(columns, dict.fromkeys(cell.subject for cell in cells))


def _cell(cells: Mapping[tuple[str, str], AuditCell], backend: str, subject: str) -> str:
    cell = cells.get((subject, backend))
    if cell is None or cell.verdict in ("unsupported", "unaudited"):
        return cell.verdict if cell else ""
    return f"{cell.verdict} {MARKS.get(cell.lane.measured, '?') if cell.lane else '?'}, {cell.error_words}"


# ---- gallery --------------------------------------------------------------------------------------------------------------


def gallery_section(run: Run, folder: Path) -> Section | None:
    """Return a strip of pictures for each op and recipe; ``folder`` is that of the report."""
    gallery = load_gallery(run)
    if gallery is None:
        return None
    legend: Text = [
        f"One image of {gallery.dataset}, {gallery.side} x {gallery.side} pixels, without normalisation. Ops stand in a "
        "setting without randomness if they have one: below each result is its difference from ",
        Code(gallery.reference),
        f", {gallery.enhanced} times as bright as it is (black: none), and the largest and mean difference in 1/255. Drawn "
        "parameters are each backend's own, so they show no difference.",
        f" The last {plural(gallery.results, 'row')} of each strip: random results." if gallery.results else "",
    ]
    blocks: list[Block] = [Paragraph(legend)]
    for kind, title in (("op", "Ops"), ("recipe", "Recipes")):
        strips = [_strip(picture, gallery, run, folder) for picture in gallery.pictures if picture.kind == kind]
        if strips:
            inside = Strips(columns=("original", *gallery.backends), cell=gallery.cell, strips=strips)
            blocks.append(Details(summary=f"{title}: {plural(len(strips), 'strip')}", blocks=[inside]))
    return Section(title="What each op looks like", blocks=blocks)


def _strip(picture: Picture, gallery: Gallery, run: Run, folder: Path) -> Strip:
    notes = [_note(picture, backend) for backend in gallery.backends]
    named = [f"{backend} {note}" for backend, note in zip(gallery.backends, notes, strict=True) if note]
    words = f" Differences: {join(named, 10)}." if named else ""
    alternative = f"{picture.subject}, {picture.detail}: the original and the result of {join(gallery.backends)}.{words}"
    path = Path(os.path.relpath(gallery.folder(run) / picture.file, folder))
    return Strip(title=picture.subject, detail=picture.detail, path=path, notes=["", *notes], alternative=alternative)


def _note(picture: Picture, backend: str) -> str:
    reason, errors = picture.reasons.get(backend), picture.errors.get(backend)
    if reason:
        return reason[:80]
    if errors is None:
        return ""
    largest, mean = errors
    return "the same" if largest == 0 else f"max {largest:.0f}, mean {'< 0.01' if mean < 0.01 else format_number(mean, 2)}"
