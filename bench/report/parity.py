"""The section on what the audit found: whether two backends do the same thing, before anyone compares their speed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bench.report.blocks import Block, Break, Bullets, Code, Details, Heading, Inline, Paragraph, Table, Text, Warning
from bench.report.context import Context
from bench.report.lanes import LANES
from bench.report.quantities import UNKNOWN, counted, number, rounded, word

CLASSES = ("exact", "close", "different", "unaudited", "unsupported")
LANE_MARKS = {"per_image": "i", "per_batch": "b", "mixed": "m", "fixed": "f"}
METHOD = (
    "Before speeds are compared: the parameters that a backend drew are replayed through torchvision's functionals, one image "
    "at a time, in float. Errors are in units of 1/255: exact means at most 1 anywhere, close at most 1 in the mean and a "
    "named reason, different anything else. Also tested: who shares a draw, and the law of each drawn parameter."
)


def audit_section(context: Context) -> list[Block]:
    """A verdict a cell, the causes, and what contradicts the catalog; nothing where neither audit nor ratios are."""
    audit = context.run.audit
    verdicts = _verdicts(context)
    blocks: list[Block] = [Heading(text="Is it the same augmentation?")]
    if not audit.get("failed") and not verdicts and not context.run.measurements:
        return []
    if audit.get("failed"):
        return [*blocks, Warning(f"The audit failed: {audit['failed']}. What follows rests on what the catalog declares.")]
    if not verdicts:
        declared = "named differences are those that the catalog declares, not measured ones"
        return [*blocks, Paragraph(f"Not audited in this run (augmark audit); {declared}.")]
    blocks.append(Paragraph(METHOD))
    blocks.append(Paragraph(_conditions(audit)))
    findings = audit.get("findings")
    if isinstance(findings, list) and findings:
        text: list[Inline] = ["The audit contradicts what the catalog declares:"]
        for finding in findings:
            text += [Break(), str(finding)]
        blocks.append(Warning(text))
    for kind, title in (("recipe", "recipe"), ("op", "op")):
        mine = [one for one in verdicts if one.get("kind") == kind]
        if mine:
            blocks.append(_table(mine, title))
    return [*blocks, Paragraph(_legend()), *_causes(verdicts)]


def summary(context: Context) -> list[Text]:
    """The audit's verdict in a sentence; nothing where nothing rests on it."""
    if not _verdicts(context):
        told = "Whether the backends do the same augmentation was not audited in this run."
        return [told] if context.run.measurements else []
    return [f"Audit of {verdict_words(context)}. Ratios need exact or close."]


def verdict_words(context: Context) -> str:
    """How many cells got which verdict."""
    verdicts = _verdicts(context)
    if context.run.audit.get("failed"):
        return "failed"
    if not verdicts:
        return "not audited in this run"
    counts = Counter(word(one, "verdict") for one in verdicts)
    parts = [f"{counts[name]} {name}" for name in CLASSES if counts[name]]
    return f"{counted(len(verdicts), 'cell')}, an op or recipe on a backend: {', '.join(parts)}"


def _verdicts(context: Context) -> list[Mapping[str, Any]]:
    found = context.run.audit.get("verdicts")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _conditions(audit: Mapping[str, Any]) -> str:
    return (
        f"Measured on {word(audit, 'images')}, device {word(audit, 'device')}, {word(audit, 'n')} draws a distribution, chance "
        f"of any false alarm among all tests {word(audit, 'alpha')} (Holm), seed {word(audit, 'seed')}."
    )


def _table(verdicts: Sequence[Mapping[str, Any]], title: str) -> Table:
    subjects = list(dict.fromkeys(word(one, "subject") for one in verdicts))
    backends = list(dict.fromkeys(word(one, "backend") for one in verdicts))
    cells = {(word(one, "subject"), word(one, "backend")): one for one in verdicts}
    rows: list[list[Text]] = []
    for subject in subjects:
        rows.append([[Code(subject)], *(_cell(cells.get((subject, backend))) for backend in backends)])
    return Table(header=[title, *([Code(backend)] for backend in backends)], rows=rows)


def _cell(verdict: Mapping[str, Any] | None) -> Text:
    if verdict is None:
        return ""
    kind = word(verdict, "verdict")
    if kind in ("unsupported", "unaudited"):
        return kind
    worst = verdict.get("worst")
    error = number(worst, "max_error") if isinstance(worst, dict) else None
    lane = verdict.get("lane")
    measured = LANE_MARKS.get(str(lane.get("measured")), "?") if isinstance(lane, dict) else "?"
    return f"{kind} {measured}, {_error(error)}"


def _error(error: float | None) -> str:
    if error is None:
        return UNKNOWN
    return "< 0.01" if 0 < error < 0.01 else rounded(error, 2)


def _legend() -> str:
    lanes = ", ".join(f"{mark} {LANES[name]}" for name, mark in LANE_MARKS.items())
    return f"In a cell: verdict, lane as measured ({lanes}), largest error in 1/255."


def _causes(verdicts: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Each cause once, with the cells that it explains."""
    causes: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in verdicts:
        if word(one, "verdict") in ("close", "different", "unaudited"):
            causes.setdefault((word(one, "verdict"), word(one, "cause")), []).append(one)
    items: list[Text] = []
    for kind, cause in sorted(causes, key=lambda key: -CLASSES.index(key[0])):
        subjects = ", ".join(dict.fromkeys(word(one, "subject") for one in causes[kind, cause]))
        backends = list(dict.fromkeys(word(one, "backend") for one in causes[kind, cause]))
        text: list[Inline] = [f"{kind}: {subjects} on "]
        for index, backend in enumerate(backends):
            text += [", " if index else "", Code(backend)]
        items.append([*text, f": {cause}"])
    if not items:
        return []
    return [Details(summary=f"Why not exact: {counted(len(items), 'cause')}", blocks=[Bullets(items)])]
