"""Contact sheets: labelled panels of small images on a light canvas, drawn pixel by pixel with PIL.

What is drawn here comes from ``gallery.py``. Integer enlargements repeat pixels, so that a panel shows the image itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

PANEL = 128
GAP = 4
MARGIN = 24
BLOCK_GAP = 28
LABEL_LINES = 2
LINE = 16

BACKGROUND = (255, 255, 255)
EMPTY = (238, 238, 238)
INK = (34, 34, 34)
QUIET = (96, 96, 96)

COLUMNS, ROWS = 4, 2
BLOCK_WIDTH = COLUMNS * PANEL + (COLUMNS - 1) * GAP
BLOCK_HEIGHT = ROWS * PANEL + (ROWS - 1) * GAP + (1 + LABEL_LINES) * LINE + 8


@dataclass(frozen=True, kw_only=True)
class Panel:
    """An image, uint8 [h, w, 3], with words on its lower edge; or no image and the words that say why."""

    image: np.ndarray | None
    words: str = ""


@dataclass(frozen=True, kw_only=True)
class Block:
    """What one op or recipe makes of an image: a title, a quiet word beside it, its parameters, and up to 2 x 4 panels."""

    title: str
    aside: str = ""
    detail: str = ""
    panels: Sequence[Panel]


@lru_cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    # matplotlib brings this font along, so sheets look the same on every machine
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def wrapped(text: str, width: int, font: ImageFont.FreeTypeFont, lines: int) -> list[str]:
    """``text`` broken at spaces into at most ``lines`` lines of ``width`` pixels; what is left over ends in an ellipsis."""
    result: list[str] = []
    words = text.split()
    while words and len(result) < lines:
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        result.append(" ".join(words[:count]))
        words = words[count:]
    if words and result:
        result[-1] = result[-1] + " …"
    for i, line in enumerate(result):
        while font.getlength(line) > width and len(line) > 1:
            line = line.rstrip(" …")[:-1] + "…"
        result[i] = line
    return result


class Sheet:
    """A canvas of a size in pixels that grows no more; ``save`` writes a PNG."""

    def __init__(self, width: int, height: int) -> None:
        self._canvas = Image.new("RGB", (width, height), BACKGROUND)
        self._draw = ImageDraw.Draw(self._canvas)

    def text(self, x: int, y: int, text: str, *, size: int = 12, bold: bool = False, quiet: bool = False) -> int:
        """One line from its upper left corner; returns where it ends."""
        font = _font(size, bold)
        self._draw.text((x, y), text, font=font, fill=QUIET if quiet else INK)
        return x + round(font.getlength(text))

    def lines(self, x: int, y: int, text: str, width: int, *, count: int, size: int = 12, quiet: bool = False) -> None:
        """A paragraph of at most ``count`` lines."""
        for i, line in enumerate(wrapped(text, width, _font(size), count)):
            self.text(x, y + i * LINE, line, size=size, quiet=quiet)

    def panel(self, x: int, y: int, panel: Panel, side: int) -> None:
        """A panel of PANEL x PANEL pixels; images of ``side`` pixels fill it, smaller ones stay smaller, in the middle."""
        self._draw.rectangle((x, y, x + PANEL - 1, y + PANEL - 1), fill=EMPTY)
        if panel.image is None:
            for i, line in enumerate(wrapped(panel.words, PANEL - 12, _font(11), 5)):
                self.text(x + 6, y + 8 + i * 14, line, size=11, quiet=True)
            return
        image = scaled(panel.image, side)
        self._canvas.paste(image, (x + (PANEL - image.width) // 2, y + (PANEL - image.height) // 2))
        if panel.words:
            width = round(_font(10).getlength(panel.words)) + 8
            self._draw.rectangle((x, y + PANEL - 15, x + min(width, PANEL) - 1, y + PANEL - 1), fill=BACKGROUND)
            self.text(x + 4, y + PANEL - 14, panel.words, size=10)

    def block(self, x: int, y: int, block: Block, side: int) -> None:
        """Title, parameters and panels of an op or recipe."""
        end = self.text(x, y, block.title, size=15, bold=True)
        self.text(end + 8, y + 3, block.aside, size=12, quiet=True)
        self.lines(x, y + LINE + 4, block.detail, BLOCK_WIDTH, count=LABEL_LINES, quiet=True)
        top = y + (1 + LABEL_LINES) * LINE + 8
        for i, panel in enumerate(block.panels[: ROWS * COLUMNS]):
            row, column = divmod(i, COLUMNS)
            self.panel(x + column * (PANEL + GAP), top + row * (PANEL + GAP), panel, side)

    def save(self, path: Path) -> None:
        """Write a PNG. Raises OSError when it cannot be written."""
        self._canvas.save(path, optimize=True)


def scaled(array: np.ndarray, side: int) -> Image.Image:
    """An image as it stands in a panel, in which ``side`` of its pixels make PANEL; never larger than the panel."""
    image = Image.fromarray(array)
    factor = min(PANEL / side, PANEL / max(image.size))
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    enlarge = factor >= 1
    return image.resize(size, Image.Resampling.NEAREST if enlarge else Image.Resampling.LANCZOS)
