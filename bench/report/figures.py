"""Three kinds of figure as SVG text: bars with intervals, lines, and a scatter plot.

Colours are CSS variables of the page with the light colour as fallback, so one file suits light, dark, print and Markdown.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

WIDTH = 720
FONT_SIZE, CHARACTER = 12, 6.7  # pixels; the width of a character is an estimate that suits the widest usual font
ROW, BAR = 26, 14
PALETTE: Mapping[str, tuple[str, str]] = {  # light, dark
    **{"paper": ("#ffffff", "#15171b"), "ink": ("#222222", "#e9e7e2"), "quiet": ("#6b6b6b", "#a4a8b0")},
    **{"grid": ("#e4e4e4", "#33373f"), "band": ("#f6f6f6", "#1c1f24"), "wait": ("#e3a590", "#c9805f")},
    **{"work": ("#4a5a68", "#8ea6bd")},
    # Okabe and Ito's colours, distinct with any colour vision; markers distinguish them without colour
    **{"pil": ("#8c8c8c", "#9a9a9a"), "torchvision_loop": ("#56b4e9", "#7fd0ff"), "torchvision": ("#0072b2", "#3d8fe0")},
    **{"torchvision_compiled": ("#000000", "#ffffff"), "kornia": ("#e69f00", "#f0ad1e")},
    **{"kornia_shared": ("#d55e00", "#f0703a"), "kornia_compiled": ("#cc79a7", "#d98ab8"), "fused": ("#009e73", "#1fbd8c")},
    # Tol's muted colours, for series that are not backends
    **{"s0": ("#332288", "#8f82e8"), "s1": ("#cc6677", "#dd7788"), "s2": ("#117733", "#3fa861"), "s3": ("#88ccee", "#9bd8f5")},
    **{"s4": ("#999933", "#b5b54d"), "s5": ("#aa4499", "#c964b8"), "s6": ("#44aa99", "#55c2b0"), "s7": ("#882255", "#c2558a")},
}
THEME_CSS = "".join(f"--c-{name}:light-dark({light},{dark});" for name, (light, dark) in PALETTE.items())


def _polygon(corners: int, turn: float, inner: float = 1.0) -> list[tuple[float, float]]:
    """Return the corners of a regular polygon, or of a star if ``inner`` is below 1, around the origin."""
    steps = corners if inner == 1 else 2 * corners
    radii = [1.0 if i % 2 == 0 else inner for i in range(steps)] if inner < 1 else [1.0] * steps
    angles = [math.radians(turn + 360 * i / steps) for i in range(steps)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for radius, angle in zip(radii, angles, strict=True)]


MARKERS = {
    "circle": _polygon(16, 0),
    "square": _polygon(4, 45),
    "down": _polygon(3, 90),
    "up": _polygon(3, -90),
    "diamond": _polygon(4, 0),
    "star": [(1.45 * x, 1.45 * y) for x, y in _polygon(5, -90, 0.42)],
    "plus": _polygon(4, 0, 0.4),
    "cross": _polygon(4, 45, 0.4),
    "hexagon": _polygon(6, 0),
}
BACKEND_MARKERS: Mapping[str, str] = {
    **{"pil": "square", "torchvision_loop": "down", "torchvision": "circle", "torchvision_compiled": "plus"},
    **{"kornia": "diamond", "kornia_shared": "up", "kornia_compiled": "cross", "fused": "star"},
}
DASHES = ("", "6 3", "2 3", "8 3 2 3")


class Look(NamedTuple):
    """Colour (a name of ``PALETTE``), marker and dashes of a series."""

    color: str
    marker: str = "circle"
    dashes: str = ""


def backend_look(backend: str) -> Look:
    """Return the look of a backend; an unknown one always gets the same colour."""
    color = backend if backend in BACKEND_MARKERS else f"s{sum(backend.encode()) % 8}"
    return Look(color, BACKEND_MARKERS.get(backend, "hexagon"))


def series_look(index: int) -> Look:
    """Return the look of the index-th series that is not a backend."""
    return Look(f"s{index % 8}", dashes=DASHES[index // 8 % len(DASHES)])


def shorten(text: str, most: int = 40) -> str:
    """Return ``text`` on one line, cut to ``most`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def tick_words(value: float) -> str:
    """Return a tick's label: 200, 5k, 1.2M; 1,024 in full."""
    size, unit = next(((size, unit) for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= size), (1.0, ""))
    short = f"{value / size:g}{unit}"
    return short if len(short) <= 4 or not unit else f"{value:,.0f}"


@dataclass(frozen=True, kw_only=True)
class Scale:
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
            return cls(low=low / 1.3, high=high * 1.3, start=start, end=end, log=True)
        room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
        return cls(low=0.0 if zero else low - room, high=high + room, start=start, end=end)

    def __call__(self, value: float) -> float:
        place = math.log if self.log else float
        low, high = place(self.low), place(self.high)
        return self.start + (self.end - self.start) * (place(value) - low) / (high - low)

    def ticks(self, most: int = 7) -> list[float]:
        """Return round values within the scale, at most about ``most``."""
        if self.log and self.high > 8 * self.low:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1, 2, 5), (1, 3), (1,)):
                ticks = [v for p in powers for s in steps if self.low <= (v := s * 10.0**p) <= self.high]
                if len(ticks) <= most:
                    return ticks
            return ticks[:: math.ceil(len(ticks) / most)]
        rough = (self.high - self.low) / most
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(m * size for m in (1, 2, 5, 10) if m * size >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 12) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


class Canvas:
    """SVG elements in drawing order."""

    def __init__(self) -> None:
        self._elements: list[str] = []

    def text(self, x: float, y: float, words: str, *, anchor: str = "start", color: str = "ink", size: int = FONT_SIZE) -> None:
        self._elements.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{_color(color)}">'
            f"{escape(words)}</text>"
        )

    def box(self, x: float, y: float, width: float, height: float, color: str) -> None:
        self._elements.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" fill="{_color(color)}"/>'
        )

    def path(
        self, points: Iterable[tuple[float, float]], color: str, width: float = 1, dashes: str = "", opacity: float = 1
    ) -> None:
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        extra = (f' stroke-dasharray="{dashes}"' if dashes else "") + (f' opacity="{opacity}"' if opacity < 1 else "")
        self._elements.append(
            f'<polyline points="{corners}" fill="none" stroke="{_color(color)}" stroke-width="{width}"{extra}/>'
        )

    def marker(self, x: float, y: float, look: Look, size: float = 5, opacity: float = 1) -> None:
        corners = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in MARKERS[look.marker])
        faint = f' opacity="{opacity}"' if opacity < 1 else ""
        self._elements.append(
            f'<polygon points="{corners}" fill="{_color(look.color)}" stroke="{_color("paper")}" stroke-width="0.7"{faint}/>'
        )

    def legend(self, entries: Mapping[str, Look], x: float, y: float, *, filled: bool = False, line: bool = False) -> float:
        """Draw entries in rows from (x, y); return the y below them."""
        left = x
        for label, look in entries.items():
            width = 34 + CHARACTER * len(shorten(label, 60))
            if left > x and left + width > WIDTH - 8:
                left, y = x, y + 18
            if filled:
                self.box(left, y - 9, 14, 10, look.color)
            else:
                if line:
                    self.path([(left - 2, y - 4), (left + 16, y - 4)], look.color, 1.8, look.dashes)
                self.marker(left + 7, y - 4, look)
            self.text(left + 20, y, shorten(label, 60))
            left += width
        return y + 18

    def svg(self, name: str, alternative: str, height: float) -> str:
        """Return the SVG element; ``alternative`` describes it to readers who do not see it."""
        title = alternative.partition(":")[0]
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" width="{WIDTH}" '
            f'aria-labelledby="{name}-title" aria-describedby="{name}-desc" font-family="system-ui, sans-serif">'
            f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(alternative)}</desc>'
            f'<rect width="{WIDTH}" height="{height:.0f}" fill="{_color("paper")}"/>{"".join(self._elements)}</svg>'
        )


def _color(name: str) -> str:
    return f"var(--c-{name},{PALETTE[name][0]})"


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


class Row(NamedTuple):
    """A named row: marks, or stacked parts by name with a thinner second bar below and a note at the end."""

    label: str
    marks: Sequence[Mark] = ()
    parts: Mapping[str, float] = {}
    below: Mapping[str, float] = {}
    note: str = ""


def bars(
    name: str, alternative: str, rows: Sequence[Row], legend: Mapping[str, Look], axis: str, *, log: bool = False
) -> Figure:
    """Draw rows of marks with intervals, or of stacked bars where rows have parts."""
    canvas, stacked = Canvas(), any(row.parts for row in rows)
    left = 16 + CHARACTER * max(len(shorten(row.label, 52)) for row in rows)
    top = canvas.legend(legend, 8, 18, filled=stacked) if legend else 8
    height = ROW + (8 if any(row.below for row in rows) else 0)
    bottom = top + height * len(rows)
    right = WIDTH - (100 if stacked else 16)
    totals = [max(sum(row.parts.values()), sum(row.below.values())) for row in rows]
    ends = [end for row in rows for mark in row.marks for end in (mark.low, mark.high, *mark.dots)]
    scale = Scale.fit(totals if stacked else ends, left, right, log=log, zero=stacked)
    for i in range(0, len(rows), 2):
        canvas.box(0, top + height * i, WIDTH, height, "band")
    _x_axis(canvas, scale, top, bottom, axis)
    for i, row in enumerate(rows):
        middle = top + height * i + height / 2
        canvas.text(left - 8, middle + 4, shorten(row.label, 52), anchor="end")
        for parts, y, thickness in ((row.parts, middle - (4 if row.below else 0), BAR), (row.below, middle + 9, 6)):
            x = scale.start
            for part, value in parts.items():
                width = scale(value) - scale.start
                canvas.box(x, y - thickness / 2, width, thickness, legend[part].color)
                x += width
            if row.note and parts is row.parts:
                canvas.text(x + 6, y + 4, row.note, size=11)
        for mark in row.marks:
            canvas.path([(scale(mark.low), middle), (scale(mark.high), middle)], mark.look.color, 1.8)
            for dot in mark.dots:
                canvas.marker(scale(dot), middle, Look("work"), 3.5, 0.7)
            canvas.marker(scale(mark.value), middle, mark.look)
    return Figure(name, canvas.svg(name, alternative, bottom + 44), alternative)


def _x_axis(canvas: Canvas, scale: Scale, top: float, bottom: float, words: str, ticks: Sequence[float] | None = None) -> None:
    for tick in scale.ticks() if ticks is None else ticks:
        canvas.path([(scale(tick), top), (scale(tick), bottom)], "grid")
        canvas.text(scale(tick), bottom + 16, tick_words(tick), anchor="middle", color="quiet", size=11)
    canvas.text(scale.end, bottom + 34, words, anchor="end", size=11)


# ---- lines --------------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A series of (x, y) with whiskers (x, low, high); ``faint`` lines are single seeds behind their mean."""

    label: str
    look: Look
    points: Sequence[tuple[float, float]]
    whiskers: Sequence[tuple[float, float, float]] = ()
    faint: bool = False


class Panel(NamedTuple):
    """A titled set of lines."""

    title: str
    lines: Sequence[Line]


def lines(
    name: str,
    alternative: str,
    panels: Sequence[Panel],
    x_axis: str,
    y_axis: str,
    *,
    log: bool = False,
    across: int = 3,
    shared_y: bool = True,
    zero: bool = False,
    ticks: Sequence[float] | None = None,
) -> Figure:
    """Draw panels side by side, ``across`` in a row, with the same scales; ``shared_y=False`` fits each panel's own y scale."""
    canvas, across = Canvas(), min(across, len(panels))
    labels = {line.label: line.look for panel in panels for line in panel.lines if not line.faint}
    top = canvas.legend(labels, 8, 18, line=True)
    canvas.text(8, top + 2, y_axis, size=11)
    left, gap, title, height = 52, 22 if shared_y else 50, 24, 130 if across > 1 else 220
    width = (WIDTH - left - 16 - (across - 1) * gap) / across
    xs = [x for panel in panels for line in panel.lines for x, _ in line.points]
    down = math.ceil(len(panels) / across)
    for i, panel in enumerate(panels):
        row, column = divmod(i, across)
        x0, y0 = left + column * (width + gap), top + 4 + row * (height + title + 10) + title
        x_scale = Scale.fit(xs, x0, x0 + width, log=log)
        y_scale = Scale.fit(_heights(panels if shared_y else [panel]), y0 + height, y0, log=log, zero=zero)
        canvas.text(x0, y0 - 7, shorten(panel.title, max(int(width / CHARACTER), 12)))
        for tick in y_scale.ticks(5):
            canvas.path([(x0, y_scale(tick)), (x0 + width, y_scale(tick))], "grid")
            if column == 0 or not shared_y:
                canvas.text(x0 - 5, y_scale(tick) + 4, tick_words(tick), anchor="end", color="quiet", size=10)
        _bottom_ticks(canvas, x_scale, y0 + height, _few(ticks or x_scale.ticks(5), width), labelled=i + across >= len(panels))
        for line in sorted(panel.lines, key=lambda line: not line.faint):
            _draw_line(canvas, line, x_scale, y_scale)
    bottom = top + 4 + down * (height + title + 10) + 22
    canvas.text(WIDTH - 16, bottom, x_axis, anchor="end", size=11)
    return Figure(name, canvas.svg(name, alternative, bottom + 10), alternative)


def _heights(panels: Sequence[Panel]) -> list[float]:
    every = [line for panel in panels for line in panel.lines]
    return [y for line in every for _, y in line.points] + [y for line in every for _, *ends in line.whiskers for y in ends]


def _few(ticks: Sequence[float], width: float) -> Sequence[float]:
    """Return as many ticks as their labels leave room for."""
    return ticks[:: math.ceil(len(ticks) * 34 / width)]


def _bottom_ticks(canvas: Canvas, scale: Scale, bottom: float, ticks: Sequence[float], *, labelled: bool) -> None:
    canvas.path([(scale.start, bottom), (scale.end, bottom)], "quiet")
    for tick in ticks:
        canvas.path([(scale(tick), bottom), (scale(tick), bottom + 3)], "quiet")
        if labelled:
            canvas.text(scale(tick), bottom + 14, tick_words(tick), anchor="middle", color="quiet", size=10)


def _draw_line(canvas: Canvas, line: Line, x_scale: Scale, y_scale: Scale) -> None:
    points = [(x_scale(x), y_scale(y)) for x, y in line.points]
    canvas.path(points, line.look.color, 0.8 if line.faint else 1.8, line.look.dashes, 0.45 if line.faint else 1)
    for x, low, high in line.whiskers:
        canvas.path([(x_scale(x), y_scale(low)), (x_scale(x), y_scale(high))], line.look.color, 1.2)
    if not line.faint and len(points) <= 12:
        for x, y in points:
            canvas.marker(x, y, line.look, 3.5)


# ---- scatter ------------------------------------------------------------------------------------------------------------


class Point(NamedTuple):
    """A labelled point with its intervals along x and y."""

    label: str
    look: Look
    x: float
    y: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]


def scatter(
    name: str,
    alternative: str,
    points: Sequence[Point],
    legend: Mapping[str, Look],
    x_axis: str,
    y_axis: str,
    front: Sequence[tuple[float, float]],
) -> Figure:
    """Draw points with intervals, x logarithmic; a dotted line joins those of the ``front``."""
    canvas = Canvas()
    top = canvas.legend(legend, 8, 18)
    canvas.text(8, top + 2, y_axis, size=11)
    top, bottom = top + 14, top + 294
    x_scale = Scale.fit([x for p in points for x in p.x_range], 52, WIDTH - 110, log=True)
    y_scale = Scale.fit([y for p in points for y in p.y_range], bottom, top)
    for tick in y_scale.ticks():
        canvas.path([(52, y_scale(tick)), (WIDTH - 110, y_scale(tick))], "grid")
        canvas.text(47, y_scale(tick) + 4, tick_words(tick), anchor="end", color="quiet", size=10)
    _x_axis(canvas, x_scale, top, bottom, x_axis)
    canvas.path([(x_scale(x), y_scale(y)) for x, y in front], "quiet", 1, "2 3")
    for p in points:
        canvas.path([(x_scale(x), y_scale(p.y)) for x in p.x_range], p.look.color, 1.2)
        canvas.path([(x_scale(p.x), y_scale(y)) for y in p.y_range], p.look.color, 1.2)
        canvas.marker(x_scale(p.x), y_scale(p.y), p.look)
        canvas.text(x_scale(p.x) + 8, y_scale(p.y) - 5, shorten(p.label, 18), size=10)
    return Figure(name, canvas.svg(name, alternative, bottom + 44), alternative)
