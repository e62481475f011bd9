"""Numbers and lists in words, for messages and pages: three significant digits, thousands separated."""

import math
from collections.abc import Collection, Iterable, Sequence

UNKNOWN = "not known"


def format_number(value: float | None, n: int = 3) -> str:
    """Return ``n`` significant digits with thousands separated: 41,200, 3.05, 0.00123."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0"
    places = n - 1 - int(f"{value:.{n - 1}e}".partition("e")[2])  # of the rounded value: 9.999 becomes 10.0
    return f"{round(value, places):,.{max(0, places)}f}"


def percent(share: float | None, places: int = 1) -> str:
    """Return a share of one such as "62.4 %"."""
    return UNKNOWN if share is None else f"{share * 100:.{places}f} %"


def plural(number: int, noun: str, plural_noun: str = "") -> str:
    """Return "1 round", "3 rounds"."""
    return f"{number:,} {noun if number == 1 else plural_noun or noun + 's'}"


def markdown_table(header: Sequence[str], rows: Iterable[Iterable[str]], numeric: Collection[int] = ()) -> str:
    """Return a Markdown table of cells that are Markdown already; columns in ``numeric`` are set flush right."""
    rule = ["---:" if column in numeric else "---" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def join(words: Iterable[str], most: int = 12) -> str:
    """Return words with commas, cut after ``most``."""
    words = list(words)
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def cut_list(items: Sequence[str], most: int = 20) -> tuple[str, ...]:
    """Return the first items, and the number of those left out as the last one."""
    more = len(items) - most
    return (*items[:most], *([f"and {more:,} more"] if more > 0 else []))


def one_line(error: BaseException | str, limit: int = 300) -> str:
    """Return the first line that says something, for a table; the type's name for an exception without words."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = lines[0] if lines else type(error).__name__
    return message if len(message) <= limit else message[: limit - 1] + "…"
