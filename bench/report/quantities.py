"""How numbers are written: three significant digits, a unit in the words around them, spread and n beside them."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.records.measurements import finite

UNKNOWN = "not known"


def rounded(value: float, digits: int = 3) -> str:
    """``digits`` significant digits, thousands separated: 41,200, 3.05, 0.00123."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else UNKNOWN
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # of the rounded value: 9.999 becomes 10.0
    places = digits - 1 - exponent
    value = round(value, places)
    return f"{value:,.{max(0, places)}f}"


def half_range(values: Sequence[float]) -> float | None:
    """Half the distance from the smallest to the largest, as a share of the median; None for fewer than two values."""
    middle = statistics.median(values) if values else 0.0
    return None if len(values) < 2 or middle <= 0 else (max(values) - min(values)) / 2 / middle


NOISY = 0.25
"""Half a range between passes, as a share of the median, beyond which a figure is no more than an order of magnitude."""


def spread(values: Sequence[float]) -> str:
    """Such as "±1.6 %", or "noisy, ±38 %" beyond ``NOISY``; empty where fewer than two values tell nothing of it."""
    share = half_range(values)
    if share is None:
        return ""
    words = f"±{share:.1%}".replace("%", " %") if share < 0.0995 else f"±{share:.0%}".replace("%", " %")
    return f"noisy, {words}" if share > NOISY else words


def percent(share: float, digits: int = 1) -> str:
    """A share of one, such as "62.4 %"."""
    return f"{share * 100:.{digits}f} %"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Such as "1 pass", "3 passes"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(words: Iterable[str], most: int = 12) -> str:
    """Words with commas, cut off after ``most``."""
    every = list(words)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def number(record: Mapping[str, Any], name: str) -> float | None:
    """A finite number of a record; None for what is missing, null, NaN or no number."""
    value = record.get(name)
    return float(value) if isinstance(value, int | float) and finite(value) else None


def word(record: Mapping[str, Any], name: str, default: str = UNKNOWN) -> str:
    """A field of a record as words."""
    value = record.get(name)
    return default if value is None or value == "" else str(value)
