"""How figures look: one colour and one marker a backend wherever it appears, thin lines, light background."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

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
    "torchvision_compiled": ("#000000", "P"),
    "kornia": ("#E69F00", "D"),
    "kornia_shared": ("#D55E00", "^"),
    "kornia_compiled": ("#CC79A7", "X"),
    "fused": ("#009E73", "*"),
}
# Tol's muted colours, for what is no backend.
SERIES = ("#332288", "#CC6677", "#117733", "#88CCEE", "#999933", "#AA4499", "#44AA99", "#882255")
DASHES = ("-", "--", "-.", ":")

RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
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
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 110,
    "figure.constrained_layout.use": True,
}
plt.rcParams.update(RC)


def look(backend: str) -> tuple[str, str]:
    """Colour and marker; a backend that is not in the table gets the same ones each time."""
    return BACKEND_LOOKS.get(backend) or (SERIES[sum(backend.encode()) % len(SERIES)], "h")


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
