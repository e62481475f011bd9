"""Blocks of a report, before templates turn them into HTML or Markdown.

Words from records are plain strings here; the templates escape them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.report.figures import Figure


class Code(str):
    """A name as it stands in code or on the command line."""


class Strong(str):
    """Words that must not be overlooked."""


class Quiet(str):
    """Spread and n beside a number; the eye should find the number first."""


class Break(str):
    """A new line within a cell or paragraph."""


BREAK = Break()
Text = str | Sequence[str]
"""Words, or pieces of ``str``, ``Code``, ``Strong``, ``Quiet`` and ``Break`` that stand side by side."""


class Answer(NamedTuple):
    """A question that readers have, its answer in a few words, and the evidence."""

    question: str
    answer: str
    evidence: Text


class Heading(NamedTuple):
    """A heading within a section."""

    text: Text


class Paragraph(NamedTuple):
    text: Text


class Warning(NamedTuple):
    """A red block."""

    text: Text


class Bullets(NamedTuple):
    items: Sequence[Text]


class Table(NamedTuple):
    """Rows under a header; columns in ``numeric`` are set flush right and sorted as numbers."""

    header: Sequence[Text]
    rows: Sequence[Sequence[Text]]
    numeric: frozenset[int] = frozenset()


class Strip(NamedTuple):
    """A row of gallery pictures: one op or recipe on several backends."""

    title: str
    detail: str
    path: Path
    """Relative to the report."""
    notes: Sequence[str]
    alternative: str


class Strips(NamedTuple):
    """Strips with common columns, each ``cell`` pixels wide in the picture."""

    columns: Sequence[str]
    cell: int
    strips: Sequence[Strip]


class Details(NamedTuple):
    """Blocks that are folded away where the medium allows it."""

    summary: str
    blocks: Sequence["Block"]


Block = Heading | Paragraph | Warning | Bullets | Table | Figure | Strips | Details


class Section(NamedTuple):
    """A titled part of the report, and its answers for the first screen with a note on what they rest on."""

    title: str
    blocks: Sequence[Block] = ()
    answers: Sequence[Answer] = ()
    note: str = ""


class Document(NamedTuple):
    """A whole report."""

    title: str
    sections: Sequence[Section]
    warnings: Sequence[Warning] = ()
    answers: Sequence[Answer] = ()
    basis: Sequence[Block] = ()
    """Basis of the answers: notes, machine, versions, images."""
