"""What a report is made of, before it becomes Markdown (or, one day, HTML).

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
class Break:
    """A new line within a cell or paragraph."""


@dataclass(frozen=True)
class Link:
    """A file, given relative to the report."""

    text: str
    target: str


Inline = str | Code | Strong | Break | Link
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


Block = Heading | Paragraph | Warning | Bullets | Table | Figure
