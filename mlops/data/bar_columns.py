"""The columns of a table of bars, found by their names."""

from __future__ import annotations

import pandas as pd

from mlops.errors import BarsError

COLUMNS = ("open", "high", "low", "close", "volume")


def require_columns(raw: pd.DataFrame) -> pd.DataFrame:
    """The table with column names in lower case.

    Raises:
        BarsError: when it has no rows, lacks a column of a bar, or has one twice.
    """
    if not len(raw):
        raise BarsError("the table has no rows; check the file or the period asked for")
    table = raw.rename(columns=lambda name: str(name).strip().lower())
    for name in COLUMNS:
        count = int((table.columns == name).sum())
        if count == 0:
            got = ", ".join(map(str, raw.columns))
            raise BarsError(
                f"column {name!r} is missing; got {got}; rename the columns to "
                f"{', '.join(COLUMNS)}",
                column=name,
            )
        if count > 1:
            raise BarsError(f"column {name!r} occurs {count} times; keep one", column=name)
    return table
