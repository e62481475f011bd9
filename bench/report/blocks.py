"""What a report is made of, before it becomes Markdown or HTML.

Words from records stand in plain strings; the renderer escapes them, so no section can forget to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Code:
    """A name as it stands in code or on the command line."""

    text: str


@dataclass(frozen=True)
class Strong:
    """Words that must not be overlooked."""

    text: str


@dataclass(frozen=True)
class Quiet:
    """Words beside a number that say how sure it is; the eye should find the number first."""

    text: str


@dataclass(frozen=True)
class Break:
    """A new line within a cell or paragraph."""


@dataclass(frozen=True)
class Link:
    """A file, given relative to the report."""

    text: str
    target: str


Inline = str | Code | Strong | Quiet | Break | Link
Text = Sequence[Inline] | str
"""A string, or pieces that stand side by side."""


@dataclass(frozen=True, kw_only=True)
class Heading:
    text: Text
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: Text


@dataclass(frozen=True)
class Warning:
    """Said loudly, before anything is concluded."""

    text: Text


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A question that readers come with, the answer in a few words, and what it rests on."""

    question: str
    answer: str
    evidence: Text


@dataclass(frozen=True, kw_only=True)
class Lead:
    """The answers, before everything else, and what holds for all of them."""

    answers: Sequence[Answer]
    note: Text = ""


@dataclass(frozen=True)
class Facts:
    """Names and what there is to say of each, such as the machine and the versions."""

    items: Sequence[tuple[str, Text]]


@dataclass(frozen=True)
class Bullets:
    items: Sequence[Text]


@dataclass(frozen=True, kw_only=True)
class Table:
    """``numeric`` columns are set flush right."""

    header: Sequence[Text]
    rows: Sequence[Sequence[Text]]
    numeric: frozenset[int] = field(default_factory=frozenset)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture, ``path`` relative to the report, and the words for those who do not see it."""

    path: Path
    alternative: str


@dataclass(frozen=True, kw_only=True)
class Strip:
    """What one op or recipe does on several backends: a picture whose columns are those of the gallery."""

    title: str
    detail: str
    path: Path
    notes: Sequence[str]
    alternative: str


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Strips below each other, in a picture of which each of the ``columns`` is ``cell`` pixels wide.

    ``path`` of a strip is relative to the report.
    """

    columns: Sequence[str]
    cell: int
    strips: Sequence[Strip]


@dataclass(frozen=True, kw_only=True)
class Details:
    """What few readers need: there, but folded away where that is possible."""

    summary: str
    blocks: Sequence["Block"]


Block = Heading | Paragraph | Warning | Lead | Facts | Bullets | Table | Figure | Gallery | Details
