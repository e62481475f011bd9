"""How figures look: one colour and one marker a backend wherever it appears, thin lines, light background.

Figures are drawn once, in the colours for light paper; ``THEME`` says what each becomes on dark.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

PAPER = "#ffffff"
INK = "#222222"
QUIET = "#6b6b6b"
GRID = "#e4e4e4"
BAND = "#f6f6f6"
WAIT = "#e3a590"
WORK = "#4a5a68"

# Okabe and Ito's colours, told apart with any colour vision; markers tell them apart without colour.
BACKEND_LOOKS: Mapping[str, tuple[str, str]] = {
    "pil": ("#8c8c8c", "s"),
    "torchvision_loop": ("#56B4E9", "v"),
    "torchvision": ("#0072B2", "o"),
    "torchvision_compiled": ("#000000", "P"),  # white on dark
    "kornia": ("#E69F00", "D"),
    "kornia_shared": ("#D55E00", "^"),
    "kornia_compiled": ("#CC79A7", "X"),
    "fused": ("#009E73", "*"),
}
# Tol's muted colours, for what is no backend.
SERIES = ("#332288", "#CC6677", "#117733", "#88CCEE", "#999933", "#AA4499", "#44AA99", "#882255")
DASHES = ("-", "--", "-.", ":")

# Each colour for light paper, and what takes its place on dark: as far apart from each other, and from the paper.
THEME: Mapping[str, str] = {
    **{PAPER: "#15171b", INK: "#e9e7e2", QUIET: "#a4a8b0", GRID: "#33373f", BAND: "#1c1f24"},
    **{WAIT: "#c9805f", WORK: "#8ea6bd"},
    **{"#8c8c8c": "#9a9a9a", "#56b4e9": "#7fd0ff", "#0072b2": "#3d8fe0", "#000000": "#ffffff"},
    **{"#e69f00": "#f0ad1e", "#d55e00": "#f0703a", "#cc79a7": "#d98ab8", "#009e73": "#1fbd8c"},
    **{"#332288": "#8f82e8", "#cc6677": "#dd7788", "#117733": "#3fa861", "#88ccee": "#9bd8f5"},
    **{"#999933": "#b5b54d", "#aa4499": "#c964b8", "#44aa99": "#55c2b0", "#882255": "#c2558a"},
}

RC: Any = {
    "font.family": "sans-serif",  # the generic name goes into the SVG too, for machines without the font
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "xaxis.labellocation": "right",  # a label longer than its axis then ends below the names at the left, not outside
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # else every draw measures all ticks to place titles
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "text.parse_math": False,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "savefig.dpi": 110,
    "svg.fonttype": "none",  # words that can be searched and copied; DejaVu is wide, so any other font fits in its place
    "svg.hashsalt": "augmark",  # the same figure is the same file
    "figure.constrained_layout.use": True,
}
plt.rcParams.update(RC)


def look(backend: str) -> tuple[str, str]:
    """Colour and marker; a backend that is not in the table gets the same ones each time."""
    return BACKEND_LOOKS.get(backend) or (SERIES[sum(backend.encode()) % len(SERIES)], "h")


def marker_size(marker: str) -> float:
    """In points; a star's arms are thin, so it needs more to weigh the same."""
    return 9.5 if marker == "*" else 6.5


def series_look(index: int) -> tuple[str, str]:
    """Colour and line style of the index-th of many lines."""
    return SERIES[index % len(SERIES)], DASHES[index // len(SERIES) % len(DASHES)]


def fitting(text: str, most: int = 40) -> str:
    """A name for a figure: one line, and no longer than leaves room for the figure."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def short(value: float) -> str:
    """A tick's words: 200, 5k, 1.2M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def epoch_axis(axes: Axes) -> None:
    """Whole numbers only."""
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def log_axis(axes: Axes, which: str, values: Sequence[float]) -> None:
    """A logarithmic axis with words at 1, 2 and 5 where it spans little, else at powers of ten."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    decades = math.log10(max(values) / min(values)) if values else 1.0
    low, high = (min(values) / 1.35, max(values) * 1.35) if values else (1.0, 10.0)
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 3.2 else (1.0,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.set_minor_locator(NullLocator())
