"""Pictures inside the page: SVG figures whose colours follow the page's, and images as data."""

import base64
import re
from pathlib import Path
from xml.etree import ElementTree

from bench.report.style import THEME

SVG = "http://www.w3.org/2000/svg"
HREF = "{http://www.w3.org/1999/xlink}href"
MEDIA = {".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg"}
POINTS_TO_PIXELS = 96 / 72
READABLE = 0.82
"""The share of its size below which a figure scrolls instead of shrinking further."""
FONT = "'DejaVu Sans', sans-serif"
"""What matplotlib calls the figures' font."""
_COLOR = re.compile(r"#[0-9a-f]{6}\b")
_POINTER = re.compile(r"url\(#([^)]+)\)")

ElementTree.register_namespace("", SVG)


def variable(color: str) -> str:
    """The CSS variable that takes a figure's colour: its value changes with the page's theme."""
    return f"--c{color.lstrip('#')}"


def theme_css() -> str:
    """Declarations of the variables that ``inline_svg`` refers to."""
    return "".join(f"{variable(light)}:light-dark({light},{dark});" for light, dark in THEME.items())


def inline_svg(path: Path, alternative: str, prefix: str) -> str:
    """A figure that matplotlib wrote, as an element of the page.

    ``prefix`` makes its ids its own. Colours of ``THEME`` become variables, fonts the page's, and ``alternative`` is what it
    is called. Raises ValueError for a file that is no SVG, OSError for one that is not there.
    """
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except ElementTree.ParseError as error:
        raise ValueError(f"{path.name} is no SVG: {error}") from None
    for parent in list(root.iter()):  # a style element would hold for the whole page; the page's own says the same
        for child in [one for one in parent if one.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style")]:
            parent.remove(child)
    used = _referred(root)
    for element in root.iter():
        _adapt(element, used, prefix)
    width, _ = (float(root.attrib.pop(name).removesuffix("pt")) * POINTS_TO_PIXELS for name in ("width", "height"))
    root.attrib.pop("version", None)
    # The first clause names it, so that what pops up over it is short; the whole stands in the description.
    name = ElementTree.Element(f"{{{SVG}}}title", {"id": f"{prefix}-title"})
    name.text = re.split(r"[:.;]\s", alternative, maxsplit=1)[0]
    words = ElementTree.Element(f"{{{SVG}}}desc", {"id": f"{prefix}-desc"})
    words.text = alternative
    root[:0] = [name, words]
    root.set("role", "img")
    root.set("aria-labelledby", f"{prefix}-title")
    root.set("aria-describedby", f"{prefix}-desc")
    root.set("style", f"width:{width:.0f}px;min-width:{READABLE * width:.0f}px")
    return ElementTree.tostring(root, encoding="unicode")


def _referred(root: ElementTree.Element) -> set[str]:
    """The ids that something in the figure points to; the other hundreds only name groups."""
    used: set[str] = set()
    for element in root.iter():
        for name, value in element.attrib.items():
            used.update(_POINTER.findall(value))
            if name == HREF:
                used.add(value.removeprefix("#"))
    return used


def _adapt(element: ElementTree.Element, used: set[str], prefix: str) -> None:
    attributes = dict(element.attrib)
    element.attrib.clear()
    for name, value in attributes.items():
        if name == "id":
            if value in used:
                element.set("id", f"{prefix}-{value}")
        elif name == HREF:
            element.set("href", f"#{prefix}-{value.removeprefix('#')}")
        elif name == "style":
            element.set("style", _style(value, prefix))
        else:
            element.set(name, _POINTER.sub(rf"url(#{prefix}-\1)", value))
    if element.text is not None and not element.text.strip():
        element.text = None
    if element.tail is not None and not element.tail.strip():
        element.tail = None


def _style(value: str, prefix: str) -> str:
    value = _COLOR.sub(lambda match: f"var({variable(match[0])})" if match[0] in THEME else match[0], value)
    value = value.replace(FONT, "var(--sans)")
    return _POINTER.sub(rf"url(#{prefix}-\1)", value)


def data_uri(path: Path) -> str:
    """An image file as an address that needs no network. Raises OSError, ValueError for a kind that browsers do not show."""
    if path.suffix not in MEDIA:
        raise ValueError(f"{path.name} is no picture that a page can show")
    return f"data:{MEDIA[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
