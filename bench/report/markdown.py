"""Blocks as GitHub-flavoured Markdown. Everything that comes from records is escaped here and only here."""

import html
import re
from collections.abc import Iterable
from urllib.parse import quote

from bench.report.blocks import (
    Block,
    Break,
    Bullets,
    Code,
    Details,
    Facts,
    Figure,
    Gallery,
    Heading,
    Inline,
    Lead,
    Link,
    Paragraph,
    Quiet,
    Strong,
    Table,
    Text,
    Warning,
)

# An underscore inside a word means nothing to Markdown, and names are easier to read without a backslash.
_SPECIAL = re.compile(r"[\\`*\[\]<>|~#$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|&(?=[#A-Za-z])|!(?=\[)")
_STARTS_A_LIST = re.compile(r"^(\d+)([.)]\s)|^([-+=]+\s)")
_LINKS_ITSELF = re.compile(r"(https?|ftp|mailto)(:)|(?<=\w)@(?=\w)|\bwww\.", re.IGNORECASE)


def render(blocks: Iterable[Block]) -> str:
    """The whole document, ending in a newline."""
    return "\n\n".join(_block(block) for block in blocks) + "\n"


def escape(text: str) -> str:
    """Plain words, so that Markdown and HTML show them as they are: on one line, without links, tags or emphasis."""
    line = " ".join(text.split())
    line = _SPECIAL.sub(lambda match: "&lt;" if match[0] == "<" else "&gt;" if match[0] == ">" else "\\" + match[0], line)
    line = _LINKS_ITSELF.sub(lambda match: match[0].replace(":", "&#58;").replace("@", "&#64;").replace(".", "&#46;"), line)
    return _STARTS_A_LIST.sub(lambda match: f"{match[1]}\\{match[2]}" if match[1] else "\\" + match[3], line)


def code(text: str) -> str:
    """A code span, with a fence longer than any run of backticks in it; pipes would end a table's cell."""
    line = " ".join(text.split()) or " "
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{fence}{pad}{line}{pad}{fence}".replace("|", "\\|")


def inline(text: Text) -> str:
    """Pieces of text side by side."""
    return escape(text) if isinstance(text, str) else "".join(_piece(piece) for piece in text)


def _piece(piece: Inline) -> str:
    match piece:
        case str():
            # Only the words are escaped: the spaces between pieces must stay.
            start, end = piece[: len(piece) - len(piece.lstrip())], piece[len(piece.rstrip()) :]
            return f"{' ' * bool(start)}{escape(piece)}{' ' * bool(end and piece.strip())}"
        case Code(text):
            return code(text)
        case Strong(text):
            return f"**{escape(text)}**"
        case Quiet(text):
            return _piece(text)
        case Break():
            return "<br>"
        case Link(text, target):
            return f"[{escape(text)}]({quote(target)})"


def _block(block: Block) -> str:
    match block:
        case Heading(text=text, level=level):
            return f"{'#' * level} {inline(text)}"
        case Paragraph(text):
            return inline(text)
        case Warning(text):
            return f"> [!WARNING]\n> {inline(text)}"
        case Lead(answers=answers, note=note):
            told = [f"{escape(one.question)} **{escape(one.answer)}**: {inline(one.evidence)}" for one in answers]
            return "\n\n".join([*told, *([inline(note)] if note else [])])
        case Facts(items):
            rows = [[[Strong(name)], text] for name, text in items]
            return _table(Table(header=["", ""], rows=rows))
        case Bullets(items):
            return "\n".join(f"- {inline(item)}" for item in items)
        case Table():
            return _table(block)
        case Figure(path=path, alternative=alternative):
            return f"![{escape(alternative)}]({quote(path.as_posix())})"
        case Gallery():
            return _gallery(block)
        case Details(summary=summary, blocks=blocks):
            inside = "\n\n".join(_block(one) for one in blocks)
            return f"<details>\n<summary>{html.escape(summary)}</summary>\n\n{inside}\n\n</details>"


def _gallery(gallery: Gallery) -> str:
    """A table of pictures: the columns of each stand in the header, its notes under it."""
    rows = []
    for strip in gallery.strips:
        picture = f"![{escape(strip.alternative)}]({quote(strip.path.as_posix())})"
        notes = ", ".join(filter(None, (escape(note) for note in strip.notes)))
        rows.append(f"| {code(strip.title)}<br>{escape(strip.detail)} | {picture}<br>{notes} |")
    header = " · ".join(escape(column) for column in gallery.columns)
    return "\n".join([f"|  | {header} |", "| --- | --- |", *rows])


def _table(table: Table) -> str:
    marks = ["---:" if column in table.numeric else "---" for column in range(len(table.header))]
    rows = [[inline(cell) for cell in row] for row in (table.header, *table.rows)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "| " + " | ".join(marks) + " |")
    return "\n".join(lines)
