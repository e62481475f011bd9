"""Blocks as one self-contained HTML page. Everything that comes from records is escaped here and only here."""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from bench.report.blocks import (
    Answer,
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
    Strip,
    Strong,
    Table,
    Text,
    Warning,
)
from bench.report.html_figures import data_uri, inline_svg, theme_css

HERE = Path(__file__).parent
IN_CONTENTS = 2
"""The level of the headings that stand in the contents."""
WANTED_CELL = 110
"""Pixels on the screen that a picture in the gallery should have, about."""


def render(blocks: Iterable[Block], folder: Path) -> str:
    """The whole page. ``folder`` is the report's: pictures are read from there and become part of the page.

    Raises OSError or ValueError when a picture cannot be read.
    """
    every = list(blocks)
    page = Page(folder)
    body = "\n".join(page.block(block) for block in every)
    title = next((words(block.text) for block in every if isinstance(block, Heading) and block.level == 1), "augmark")
    script = (HERE / "page.js").read_text(encoding="utf-8")
    style = (HERE / "page.css").read_text(encoding="utf-8").replace("/* figures */", theme_css())
    return (HERE / "page.html").read_text(encoding="utf-8").format(
        title=escape(title), style=style, script=script, policy=policy(script), contents=page.contents(), body=body
    )  # fmt: skip


def policy(script: str) -> str:
    """What the browser lets this page do: no network at all, and no script but our own, whatever a record says."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def words(text: Text) -> str:
    """A text's words alone, as plain characters."""
    if isinstance(text, str):
        return " ".join(text.split())
    pieces = [piece if isinstance(piece, str) else " " if isinstance(piece, Break) else piece.text for piece in text]
    return " ".join("".join(pieces).split())


def inline(text: Text) -> str:
    """Pieces of text side by side."""
    return escape(text) if isinstance(text, str) else "".join(_piece(piece) for piece in text)


def _piece(piece: Inline) -> str:
    match piece:
        case str():
            return escape(piece)
        case Code(text):
            return f"<code>{escape(text)}</code>"
        case Strong(text):
            return f"<strong>{escape(text)}</strong>"
        case Quiet(text):
            return f'<span class="quiet">{escape(text)}</span>'
        case Break():
            return "<br>"
        case Link(text, target):
            return f'<a href="{escape(quote(target))}">{escape(text)}</a>'


def _answer(one: Answer) -> str:
    return (
        f'<div><p class="question">{escape(one.question)}</p><p class="answer">{escape(one.answer)}</p>'
        f"<p>{inline(one.evidence)}</p></div>"
    )


class Page:
    """Writes blocks one after another, and remembers what must be unique in a page: ids, and names of regions."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taken: Counter[str] = Counter()
        self._headings: list[Heading] = []
        self._ids: list[str] = []
        self._section = "The run"

    def contents(self) -> str:
        """Links to the sections."""
        pairs = zip(self._headings, self._ids, strict=True)
        items = [
            f'<li><a href="#{place}">{escape(words(heading.text))}</a></li>'
            for heading, place in pairs
            if heading.level == IN_CONTENTS
        ]
        return "\n".join(items)

    def block(self, block: Block) -> str:
        """A block as HTML."""
        match block:
            case Heading():
                return self._heading(block)
            case Paragraph(text):
                return f"<p>{inline(text)}</p>"
            case Warning(text):
                return f'<p class="warning" role="note">{inline(text)}</p>'
            case Lead(answers=answers, note=note):
                below = f'<p class="quiet">{inline(note)}</p>' if note else ""
                return f'<div class="lead">{"".join(map(_answer, answers))}</div>{below}'
            case Facts(items):
                pairs = "".join(f"<div><dt>{escape(name)}</dt><dd>{inline(text)}</dd></div>" for name, text in items)
                return f'<dl class="facts">{pairs}</dl>'
            case Bullets(items):
                return f"<ul>{''.join(f'<li>{inline(item)}</li>' for item in items)}</ul>"
            case Table():
                return self._table(block)
            case Figure():
                return self._figure(block)
            case Gallery():
                return self._gallery(block)
            case Details(summary=summary, blocks=blocks):
                inside = "\n".join(self.block(one) for one in blocks)
                return f"<details><summary>{escape(summary)}</summary>\n{inside}\n</details>"

    def _unique(self, stem: str) -> str:
        self._taken[stem] += 1
        return stem if self._taken[stem] == 1 else f"{stem}-{self._taken[stem]}"

    def _heading(self, heading: Heading) -> str:
        name = words(heading.text)
        place = self._unique(re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "section")
        self._headings.append(heading)
        self._ids.append(place)
        self._section = name
        return f'<h{heading.level} id="{place}">{inline(heading.text)}</h{heading.level}>'

    def _region(self, kind: str, what: str, inside: str) -> str:
        """A box that scrolls by itself, by keyboard too, where its content is wider than the page."""
        self._taken[kind] += 1
        label = f"{kind} {self._taken[kind]}: {self._section}"
        return f'<div class="{what}" role="region" tabindex="0" aria-label="{escape(label)}">{inside}</div>'

    def _table(self, table: Table) -> str:
        def cells(row: Sequence[Text], *, head: bool) -> str:
            made = []
            for column, text in enumerate(row):
                tag = "th" if (head or column == 0) and words(text) else "td"  # a heading without words names nothing
                scope = (' scope="col"' if head else ' scope="row"') if tag == "th" else ""
                mark = ' class="number"' if column in table.numeric else ""
                made.append(f"<{tag}{scope}{mark}>{inline(text)}</{tag}>")
            return f"<tr>{''.join(made)}</tr>"

        head = cells(table.header, head=True)
        rows = "\n".join(cells(row, head=False) for row in table.rows)
        return self._region("Table", "scroll table", f"<table><thead>{head}</thead>\n<tbody>{rows}</tbody></table>")

    def _figure(self, figure: Figure) -> str:
        path = self._folder / figure.path
        if path.suffix == ".svg":
            picture = inline_svg(path, figure.alternative, self._unique(f"figure-{path.stem}"))
        else:
            picture = f'<img src="{data_uri(path)}" alt="{escape(figure.alternative)}">'
        return f"<figure>{self._region('Figure', 'scroll', picture)}</figure>"

    def _gallery(self, gallery: Gallery) -> str:
        """Strips of the same width, enlarged by whole numbers; the columns' names stand above each, its notes below."""
        enlarged = max(1, round(WANTED_CELL / gallery.cell)) * gallery.cell
        size = f"--columns:{len(gallery.columns)};--cell:{enlarged}px"
        strips = "\n".join(self._strip(strip, gallery.columns) for strip in gallery.strips)
        return f'<div class="gallery" style="{size}">{strips}</div>'

    def _strip(self, strip: Strip, columns: Sequence[str]) -> str:
        names = "".join(f"<span>{escape(name).replace('_', '_<wbr>')}</span>" for name in columns)
        notes = "".join(f"<span>{escape(note)}</span>" for note in strip.notes)
        picture = f'<img src="{data_uri(self._folder / strip.path)}" alt="{escape(strip.alternative)}">'
        inside = f'<div class="strip"><div>{names}</div>{picture}<div>{notes}</div></div>'
        caption = f'<strong>{escape(strip.title)}</strong> <span class="quiet">{escape(strip.detail)}</span>'
        return f"<figure><figcaption>{caption}</figcaption>{self._region('Pictures', 'scroll', inside)}</figure>"
