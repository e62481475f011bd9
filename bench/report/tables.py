"""Build tables from columns; a column without content is left out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from bench.records import format_number
from bench.report.blocks import Table, Text


@dataclass(frozen=True)
class Column:
    """A header and how a row's cell is written; numbers are set flush right."""

    header: Text
    write: Callable[[Any], Text]
    is_number: bool = True


def words_column(header: Text, write: Callable[[Any], Text]) -> Column:
    """Return a column of words."""
    return Column(header, write, is_number=False)


def number_column(header: Text, name: str, factor: float = 1.0) -> Column:
    """Return a column with the median of a field times ``factor``, empty where the field is not known."""
    return Column(header, lambda row: "" if (middle := row.median(name)) is None else format_number(middle * factor))


def build_table(columns: Iterable[Column], rows: Iterable[Any]) -> Table:
    """Return a table with a line for each row, without the columns that are empty everywhere."""
    items = list(rows)
    written = [(column, [column.write(row) for row in items]) for column in columns]
    used = [(column, cells) for column, cells in written if any(cells)]
    return Table(
        header=[column.header for column, _ in used],
        rows=[list(cells) for cells in zip(*(cells for _, cells in used), strict=True)],
        numeric=frozenset(i for i, (column, _) in enumerate(used) if column.is_number),
    )
