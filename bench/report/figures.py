"""Two kinds of figure as SVG text: bars with intervals, and lines (of single points: a scatter plot).

Colours are CSS variables of the page with the light colour as fallback, so one file suits light, dark, print and Markdown.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

WIDTH = 720
CHARACTER = 7.3  # pixels; an estimate that suits the widest usual font at size 12


# Colours for a light and a dark page, and a marker: Okabe and Ito's colours are distinct with any colour vision, markers
# without colour. They are reserved by name, so that a backend looks the same in every report; a new one gets a series' colour.
BACKENDS: Mapping[str, tuple[str, str]] = {
    "pil": ("#8c8c8c,#9a9a9a", "square"),
    "torchvision_loop": ("#56b4e9,#7fd0ff", "down"),
    "torchvision": ("#0072b2,#3d8fe0", "circle"),
    "torchvision_compiled": ("#000000,#ffffff", "plus"),
    "kornia": ("#e69f00,#f0ad1e", "diamond"),
    "kornia_shared": ("#d55e00,#f0703a", "up"),
    "kornia_compiled": ("#cc79a7,#d98ab8", "cross"),
    "fused": ("#009e73,#1fbd8c", "star"),
}
SERIES = (  # Tol's muted colours
    "#332288,#8f82e8", "#cc6677,#dd7788", "#117733,#3fa861", "#88ccee,#9bd8f5",
    "#999933,#b5b54d", "#aa4499,#c964b8", "#44aa99,#55c2b0", "#882255,#c2558a",
)  # fmt: skip
PALETTE = {
    "paper": "#ffffff,#15171b",
    "ink": "#222222,#e9e7e2",
    "quiet": "#6b6b6b,#a4a8b0",
    "grid": "#e4e4e4,#33373f",
    "band": "#f6f6f6,#1c1f24",
    "wait": "#e3a590,#c9805f",
    "work": "#4a5a68,#8ea6bd",
    **{name: colors for name, (colors, _) in BACKENDS.items()},
    **{f"s{i}": colors for i, colors in enumerate(SERIES)},
}
THEME_CSS = "".join(f"--c-{name}:light-dark({colors});" for name, colors in PALETTE.items())
# Path of each marker around the origin, of radius 1.
MARKERS = {
    "circle": "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0-2 0z",
    "square": "M-.75-.75h1.5v1.5h-1.5z",
    "diamond": "M0-1.1L1.1 0 0 1.1-1.1 0z",
    "hexagon": "M-1 0L-.5-.87H.5L1 0 .5 .87H-.5z",
    "down": "M0 1L-.87-.5H.87z",
    "up": "M0-1L.87 .5H-.87z",
    "star": "M0-1.4L.36-.49 1.33-.43 .58 .19 .82 1.13 0 .61-.82 1.13-.58 .19-1.33-.43-.36-.49z",
    "plus": "M-.3-1H.3V-.3H1V.3H.3V1H-.3V.3H-1V-.3H-.3z",
    "cross": "M-.92-.5L-.5-.92 0-.42 .5-.92 .92-.5 .42 0 .92 .5 .5 .92 0 .42-.5 .92-.92 .5-.42 0z",
}
DASHES = ("", "6 3", "2 3", "8 3 2 3")


class Look(NamedTuple):
    """Colour (a name of ``PALETTE``), marker and dashes of a series."""

    color: str
    marker: str = "circle"
    dashes: str = ""
    is_hollow: bool = False


def backend_look(backend: str) -> Look:
    """Return the look of a backend; one without a reserved look always gets the same colour."""
    if backend in BACKENDS:
        return Look(backend, BACKENDS[backend][1])
    return Look(f"s{sum(backend.encode()) % len(SERIES)}", "hexagon")


def series_look(index: int) -> Look:
    """Return the look of the index-th series that is not a backend."""
    return Look(f"s{index % len(SERIES)}", dashes=DASHES[index // len(SERIES) % len(DASHES)])


def shorten(text: str, limit: int) -> str:
    """Return ``text`` on one line, cut to ``limit`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def tick_words(value: float) -> str:
    """Return a tick's label: 200, 5k, 1.2M; 1,024 in full."""
    size, unit = next(((size, unit) for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= size), (1.0, ""))
    short = f"{value / size:g}{unit}"
    return short if len(short) <= 4 or not unit else f"{value:,.0f}"


class Scale(NamedTuple):
    """Map values to pixels, linearly or logarithmically."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def fit(cls, values: Iterable[float], start: float, end: float, *, log: bool = False, zero: bool = False) -> "Scale":
        """Return the scale that shows all values with some room; ``zero``: it starts at 0."""
        finite = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
        low, high = min(finite), max(finite)
        if log:
            return cls(low / 1.3, high * 1.3, start, end, log=True)
        room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
        return cls(0.0 if zero else low - room, high + room, start, end)

    def __call__(self, value: float) -> float:
        place = math.log if self.log else float
        share = (place(value) - place(self.low)) / (place(self.high) - place(self.low))
        return self.start + (self.end - self.start) * share

    def ticks(self, count: int = 7) -> list[float]:
        """Return round values within the scale, at most about ``count``."""
        if self.log and self.high > 8 * self.low:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if len(powers) <= 3 else (1, 3) if len(powers) <= 4 else (1,)
            ticks = [v for power in powers for step in steps if self.low <= (v := step * 10.0**power) <= self.high]
            return ticks[:: math.ceil(len(ticks) / count)]
        size = 10.0 ** math.floor(math.log10((self.high - self.low) / count))
        step = next(m * size for m in (1, 2, 5, 10) if m * size * count >= 0.999 * (self.high - self.low))
        return [round(i * step, 12) for i in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


Position = tuple[float, float]


class Canvas:
    """SVG elements in drawing order."""

    def __init__(self) -> None:
        self._elements: list[str] = []

    def add(self, tag: str, content: object = "", **attributes: float | str) -> None:
        """Append an element; names of colours become variables, numbers get one decimal."""
        texts = {name: f"{value:.1f}" if isinstance(value, float) else value for name, value in attributes.items()}
        for name in texts.keys() & {"fill", "stroke"}:
            texts[name] = f"var(--c-{texts[name]},{PALETTE[str(texts[name])].partition(',')[0]})"
        words = " ".join(f'{name.replace("_", "-")}="{value}"' for name, value in texts.items())
        self._elements.append(f"<{tag} {words}>{escape(str(content))}</{tag}>")

    def text(self, x: float, y: float, words: str, anchor: str = "start", color: str = "ink", size: int = 12) -> None:
        """Write words on a line."""
        if words:
            self.add("text", words, x=float(x), y=float(y), text_anchor=anchor, font_size=size, fill=color)

    def line(self, points: Iterable[Position], color: str, width: float = 1.0, **attributes: float | str) -> None:
        """Draw straight lines from point to point."""
        self.add(
            "path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), stroke=color, stroke_width=width, **attributes
        )

    def marker(self, x: float, y: float, look: Look, size: float = 5.0, opacity: float = 1.0) -> None:
        """Draw a marker around a point."""
        fill, stroke, width = ("paper", look.color, "0.3") if look.is_hollow else (look.color, "paper", "0.14")
        place = f"translate({x:.1f} {y:.1f}) scale({size:g})"
        self.add("path", d=MARKERS[look.marker], transform=place, fill=fill, stroke=stroke, stroke_width=width, opacity=opacity)

    def legend(self, entries: Mapping[str, Look], *, filled: bool = False, line: bool = False) -> int:
        """Draw entries in rows at the top; return the y below them."""
        x, y = 8.0, 18
        for label, look in entries.items():
            width = 34 + CHARACTER * len(shorten(label, 60))
            if x > 8 and x + width > WIDTH - 8:
                x, y = 8.0, y + 18
            if filled:
                self.add("rect", x=x, y=y - 9, width=14, height=10, fill=look.color)
            else:
                self.line(
                    [(x - 2, y - 4), (x + 16, y - 4)] if line else [(x, y)], look.color, 1.8, stroke_dasharray=look.dashes
                )
                self.marker(x + 7, y - 4, look)
            self.text(x + 20, y, shorten(label, 60))
            x += width
        return y + 18 if entries else 8

    def figure(self, name: str, alternative: str, height: float) -> "Figure":
        """Return the figure; ``alternative`` describes it to readers who do not see it."""
        title = escape(alternative.partition(":")[0])
        attributes = (
            f'role="img" aria-labelledby="{name}-title" aria-describedby="{name}-desc" font-family="system-ui, sans-serif"'
        )
        words = f'<title id="{name}-title">{title}</title><desc id="{name}-desc">{escape(alternative)}</desc>'
        paper = f'<rect width="{WIDTH}" height="{height:.0f}" fill="var(--c-paper,#ffffff)"/>'
        size = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" fill="none"'
        start = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {attributes}>'
        return Figure(name, f"{start}{words}{paper}{''.join(self._elements)}</svg>", alternative)


class Figure(NamedTuple):
    """A figure's file name without suffix, its SVG and the words for readers who do not see it."""

    name: str
    svg: str
    alternative: str


# ---- bars with intervals ------------------------------------------------------------------------------------------------


class Mark(NamedTuple):
    """A value with its interval (low, high) and single measurements (dots)."""

    look: Look
    value: float
    low: float
    high: float
    dots: Sequence[float] = ()

    @classmethod
    def of_rounds(cls, look: Look, rounds: Sequence[float]) -> "Mark":
        """Return the median between the least and the largest of some rounds."""
        return cls(look, statistics.median(rounds), min(rounds), max(rounds))


class Row(NamedTuple):
    """A named row: marks, or stacked parts by name with a thinner second bar below and a note at the end; else a heading."""

    label: str
    marks: Sequence[Mark] = ()
    parts: Mapping[str, float] = {}
    below: Mapping[str, float] = {}
    note: str = ""


def bars(
    name: str, alternative: str, rows: Sequence[Row], legend: Mapping[str, Look], axis: str, *, log: bool = False
) -> Figure:
    """Draw rows of marks with intervals, or of stacked bars if rows have parts."""
    canvas, stacked = Canvas(), any(row.parts for row in rows)
    left = 16 + CHARACTER * max(len(shorten(row.label, 52)) for row in rows)
    top, height = canvas.legend(legend, filled=stacked), 34 if any(row.below for row in rows) else 26
    bottom = top + height * len(rows)
    ends = [end for row in rows for mark in row.marks for end in (mark.low, mark.high, *mark.dots)]
    ends += [max(sum(row.parts.values()), sum(row.below.values())) for row in rows] if stacked else []
    scale = Scale.fit(ends, left, WIDTH - (100 if stacked else 16), log=log, zero=stacked)
    for i in range(0, len(rows), 2):
        canvas.add("rect", y=top + height * i, width=WIDTH, height=height, fill="band")
    for tick in scale.ticks():
        canvas.line([(scale(tick), top), (scale(tick), bottom)], "grid")
        canvas.text(scale(tick), bottom + 16, tick_words(tick), "middle", "quiet", 11)
    canvas.text(scale.end, bottom + 34, axis, "end", size=11)
    for i, row in enumerate(rows):
        middle = top + height * i + height / 2
        is_heading = not (row.marks or row.parts)
        place = (8, "start", "quiet") if is_heading else (left - 8, "end", "ink")
        canvas.text(place[0], middle + 4, shorten(row.label, 52), *place[1:])
        end = _stack(canvas, scale, row.parts, legend, middle - (4 if row.below else 0), 14)
        canvas.text(end + 6, middle + 4, row.note, size=11)
        _stack(canvas, scale, row.below, legend, middle + 9, 6)
        for mark in row.marks:
            canvas.line([(scale(mark.low), middle), (scale(mark.high), middle)], mark.look.color, 1.8)
            for dot in mark.dots:
                canvas.marker(scale(dot), middle, Look("work"), 3.5, 0.7)
            canvas.marker(scale(mark.value), middle, mark.look)
    return canvas.figure(name, alternative, bottom + 44)


def _stack(
    canvas: Canvas, scale: Scale, parts: Mapping[str, float], legend: Mapping[str, Look], y: float, height: float
) -> float:
    """Draw parts side by side; return where they end."""
    x = scale.start
    for part, value in parts.items():
        width = scale(value) - scale.start
        canvas.add("rect", x=x, y=y - height / 2, width=width, height=height, fill=legend[part].color)
        x += width
    return x


# ---- lines --------------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A series of (x, y) with whiskers (x, low, high) and a note at its first point; ``faint`` ones stand behind, unnamed."""

    label: str
    look: Look
    points: Sequence[Position]
    whiskers: Sequence[tuple[float, float, float]] = ()
    faint: bool = False
    note: str = ""

    @classmethod
    def of_rounds(cls, label: str, look: Look, rounds: Iterable[tuple[float, Sequence[float]]]) -> "Line":
        """Return the medians of the rounds at each x, between the least and the largest."""
        marks = [(x, Mark.of_rounds(look, values)) for x, values in rounds if values]
        return cls(label, look, [(x, mark.value) for x, mark in marks], [(x, mark.low, mark.high) for x, mark in marks])


Panels = Mapping[str, Sequence[Line]]
"""Lines by the title of their panel."""


def lines(
    name: str, alternative: str, panels: Panels, x_axis: str, y_axis: str, *, log: str = "", shared_y: bool = True,
    zero: bool = False, ticks: Sequence[float] = (),
) -> Figure:  # fmt: skip
    """Draw panels, at most four in a row, with the same scales.

    ``log`` names logarithmic axes ("xy"); ``shared_y=False`` fits each panel's own y scale; ``zero`` starts it at 0.
    """
    canvas, across = Canvas(), min(4, len(panels))
    series = [line for group in panels.values() for line in group]
    top = canvas.legend({line.label: line.look for line in series if not line.faint}, line=True)
    canvas.text(8, top + 2, y_axis, size=11)
    gap, height = 22 if shared_y else 50, 130 if across > 1 else 220
    width = (WIDTH - 68 - (across - 1) * gap) / across
    for i, (title, group) in enumerate(panels.items()):
        row, column = divmod(i, across)
        x0, y0 = 52 + column * (width + gap), top + 28 + row * (height + 34)
        x_scale = Scale.fit([x for line in series for x, _ in line.points], x0, x0 + width, log="x" in log)
        heights = _heights(series if shared_y else group)
        y_scale = Scale.fit(heights, y0 + height, y0, log="y" in log, zero=zero)
        canvas.text(x0, y0 - 7, shorten(title, max(int(width / CHARACTER), 12)))
        for tick in y_scale.ticks(5):
            canvas.line([(x0, y_scale(tick)), (x0 + width, y_scale(tick))], "grid")
            canvas.text(x0 - 5, y_scale(tick) + 4, tick_words(tick) if column == 0 or not shared_y else "", "end", "quiet", 10)
        canvas.line([(x0, y0 + height), (x0 + width, y0 + height)], "quiet")
        shown = ticks or x_scale.ticks(5)
        for tick in shown[:: math.ceil(len(shown) * 34 / width)]:
            words = tick_words(tick) if i + across >= len(panels) else ""
            canvas.text(x_scale(tick), y0 + height + 14, words, "middle", "quiet", 10)
        for line in sorted(group, key=lambda line: not line.faint):
            _draw_line(canvas, line, x_scale, y_scale)
    bottom = top + 26 + math.ceil(len(panels) / across) * (height + 34)
    canvas.text(WIDTH - 16, bottom, x_axis, "end", size=11)
    return canvas.figure(name, alternative, bottom + 10)


def _heights(group: Sequence[Line]) -> list[float]:
    return [y for line in group for y in (*(y for _, y in line.points), *(y for _, *ends in line.whiskers for y in ends))]


def _draw_line(canvas: Canvas, line: Line, x_scale: Scale, y_scale: Scale) -> None:
    points = [(x_scale(x), y_scale(y)) for x, y in line.points]
    width, opacity = (0.8, 0.45) if line.faint else (1.8, 1.0)
    canvas.line(points, line.look.color, width, stroke_dasharray=line.look.dashes, opacity=opacity)
    for x, low, high in line.whiskers:
        canvas.line([(x_scale(x), y_scale(low)), (x_scale(x), y_scale(high))], line.look.color, 1.2)
    for x, y in points if not line.faint and len(points) <= 12 else ():
        canvas.marker(x, y, line.look, 3.5 if len(points) > 1 else 5.0)
    x, y = points[0]
    canvas.text(x + 8, y - 5, shorten(line.note, 18), size=10)
