"""The error that names the rows of a table which cannot be read."""

from __future__ import annotations

from collections.abc import Sequence

from mlops.arrays import IntArray
from mlops.errors import BarsError

SHOWN_ROWS = 5


def bad_rows_error(what: str, column: str, bad: Sequence[int] | IntArray, remedy: str) -> BarsError:
    """The `BarsError` that names the first bad rows (counted from 0) and how many there are."""
    rows = tuple(int(row) for row in bad[:SHOWN_ROWS])
    more = f" and {len(bad) - len(rows):,} more" if len(bad) > len(rows) else ""
    listed = ", ".join(str(row) for row in rows)
    place = f"row{'s' if len(bad) > 1 else ''} {listed}{more} (counted from 0)"
    return BarsError(f"column {column!r}: {what} in {place}; {remedy}", column=column, rows=rows)
