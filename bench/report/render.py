"""Render a document as one self-contained HTML page or as Markdown. Words from records are escaped here and only here."""

import base64
import html
import re
from collections import Counter
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bench.records import markdown_table
from bench.report.blocks import (
    Block,
    Break,
    Bullets,
    Code,
    Details,
    Document,
    Heading,
    Paragraph,
    Quiet,
    Strip,
    Strips,
    Strong,
    Table,
    Text,
    Warning,
)
from bench.report.figures import THEME_CSS, Figure

TEMPLATES = Path(__file__).parent / "templates"
STRIP_CELL = 110
"""Approximate width of a gallery picture on the screen, in pixels."""
HTML_TAGS = {Code: "<code>{}</code>", Strong: "<strong>{}</strong>", Quiet: '<span class="quiet">{}</span>', Break: "<br>"}

# An underscore inside a word means nothing to Markdown, and names are easier to read without a backslash.
_SPECIAL = re.compile(r"[\\`*\[\]<>|~#$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|&(?=[#A-Za-z])|!(?=\[)")
_LIST_START = re.compile(r"^(\d+)([.)]\s)|^([-+=]+\s)")
_AUTOLINK = re.compile(r"(https?|ftp|mailto)(:)|(?<=\w)@(?=\w)|\bwww\.", re.IGNORECASE)


def render_html(document: Document, folder: Path) -> str:
    """Return the page; pictures of the gallery are read relative to ``folder`` and become part of it."""
    counts: Counter[str] = Counter()

    def number(stem: str) -> int:
        counts[stem] += 1
        return counts[stem]

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"inline": html_inline, "plain": plain, "slug": slug, "kind": lambda block: type(block).__name__}
    environment.filters["data_uri"] = lambda path: data_uri(folder / path)
    return environment.get_template("page.html").render(
        document=document,
        number=number,
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8").replace("/* figures */", THEME_CSS)),
        strip_cell=STRIP_CELL,
    )


def _pieces(text: Text) -> list[str]:
    return [text] if isinstance(text, str) else list(text)


def html_inline(text: Text) -> Markup:
    """Return pieces of text as escaped HTML."""
    return Markup("").join(Markup(HTML_TAGS.get(type(piece), "{}")).format(str(piece)) for piece in _pieces(text))


def plain(text: Text) -> str:
    """Return the words of a text without markup."""
    return " ".join("".join(" " if isinstance(piece, Break) else piece for piece in _pieces(text)).split())


def slug(text: str) -> str:
    """Return an id made of the words of a title."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"


def data_uri(path: Path) -> str:
    """Return a PNG as an address that needs no network. Raises OSError."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def escape_markdown(text: str) -> str:
    """Return words that Markdown shows as they are: on one line, without links, tags or emphasis."""
    line = " ".join(text.split())
    line = _SPECIAL.sub(lambda match: html.escape(match[0]) if match[0] in "<>" else "\\" + match[0], line)
    line = _AUTOLINK.sub(lambda match: re.sub("[:@.]", lambda sign: f"&#{ord(sign[0])};", match[0]), line)
    return _LIST_START.sub(lambda match: f"{match[1]}\\{match[2]}" if match[1] else "\\" + match[3], line)


def code_span(text: str) -> str:
    """Return a code span whose fence is longer than any run of backticks in it; pipes would end a table's cell."""
    line = " ".join(text.split()) or " "
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    fence, pad = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{pad}{line}{pad}{fence}".replace("|", "\\|")


def markdown_inline(text: Text) -> str:
    """Return pieces of text as escaped Markdown."""
    return "".join(map(_markdown_piece, _pieces(text)))


def _markdown_piece(piece: str) -> str:
    if isinstance(piece, Break):
        return "<br>"
    if isinstance(piece, Code):
        return code_span(piece)
    if isinstance(piece, Strong):
        return f"**{escape_markdown(piece)}**"
    # only the words are escaped: the spaces between pieces stay
    before, after = piece[: len(piece) - len(piece.lstrip())], piece[len(piece.rstrip()) :]
    return f"{' ' * bool(before)}{escape_markdown(piece)}{' ' * bool(after and piece.strip())}"


def render_markdown(document: Document) -> str:
    """Return GitHub-flavoured Markdown that refers to ``figures/NAME.svg``."""
    answers = ((markdown_inline(part) for part in answer) for answer in document.answers)
    paragraphs = [f"# {markdown_inline(document.title)}", *map(_markdown, document.warnings)]
    paragraphs += [f"{question} **{answer}.** {evidence}" for question, answer, evidence in answers]
    paragraphs += map(_markdown, document.basis)
    for section in document.sections:
        paragraphs += [f"## {markdown_inline(section.title)}", *map(_markdown, section.blocks)]
    return "\n\n".join(filter(None, paragraphs)) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"### {markdown_inline(text)}"
        case Paragraph(text):
            return markdown_inline(text)
        case Warning(text):
            return f"> [!WARNING]\n> {markdown_inline(text)}"
        case Bullets(items):
            return "\n".join(f"- {markdown_inline(item)}" for item in items)
        case Table(header, rows, numeric):
            cells = (map(markdown_inline, row) for row in rows)
            return markdown_table(list(map(markdown_inline, header)), cells, numeric)
        case Figure(name, _, alternative):
            return f"![{markdown_inline(alternative)}](figures/{quote(name)}.svg)"
        case Strips(columns, _, strips):
            return markdown_table(("", " · ".join(map(markdown_inline, columns))), map(_markdown_strip, strips))
        case Details(summary, blocks):
            inside = "\n\n".join(map(_markdown, blocks))
            return f"<details>\n<summary>{html.escape(summary)}</summary>\n\n{inside}\n\n</details>"


def _markdown_strip(strip: Strip) -> tuple[str, str]:
    title, detail, alternative = map(markdown_inline, (strip.title, strip.detail, strip.alternative))
    return f"**{title}**<br>{detail}", f"![{alternative}]({quote(str(strip.path))})"


def figure_files(document: Document) -> dict[str, str]:
    """Return the SVG of every figure by file name."""
    blocks = [block for section in document.sections for block in section.blocks]
    return {f"{block.name}.svg": block.svg for block in blocks if isinstance(block, Figure)}
