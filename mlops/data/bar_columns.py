"""Tables of bars and the names of their columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mlops.errors import BarsError

COLUMNS = ("open", "high", "low", "close", "volume")
_KINDS = (
    "a data frame, a table of Arrow or Polars, a list of records or a dict of columns with "
    f"{', '.join(COLUMNS)} and the time of each bar"
)


def tidy_name(name: object) -> str:
    """A column's name in lower case, without the space or the <> around it."""
    return _strip_brackets(str(name)).lower()


def rename_columns(
    source: str, names: Sequence[str], columns: Mapping[str, str]
) -> tuple[str, ...]:
    """The caller's names, else those of the source; a nameless column gets the one pandas gives.

    A name is given as the source writes it, or without the space, the <> and the capitals.

    Args:
        source: What messages call it.

    Raises:
        BarsError: when a name to replace is no column.
    """
    bare = [_strip_brackets(name) for name in names]
    got = {key for name, short in zip(names, bare, strict=True) for key in _keys_of(name, short)}
    unknown = [old for old in columns if old not in got and not old.startswith("Unnamed: ")]
    if unknown:
        raise BarsError(
            f"{source}: columns= renames {unknown[0]!r}, which is no column; got "
            f"{', '.join(map(repr, names))}"
        )
    renamed = []
    for position, (name, short) in enumerate(zip(names, bare, strict=True)):
        nameless = f"Unnamed: {position}"
        keys = _keys_of(name, short) if short else (nameless,)
        given = (columns[key] for key in keys if key in columns)
        renamed.append(next(given, short or nameless))
    return tuple(renamed)


def tell_missing(missing: str, names: Sequence[str]) -> str:
    """What to pass where a column of bars has another name, or is not there."""
    if missing != "volume":
        return f"pass columns={{'its name in the file': {missing!r}}}"
    near = [name for name in names if re.search(r"vol|ticks?$|qty|quantity", name.lower())]
    if near:
        return f"pass columns={{{near[0].strip()!r}: 'volume'}} if that is the volume"
    return (
        "pass columns={'its name in the file': 'volume'}; if the file has no volume, add a column "
        "of it, because features are made of it"
    )


def _keys_of(name: str, short: str) -> tuple[str, ...]:
    """The spellings of a column by which it can be named."""
    return (name, name.strip(), short, short.lower())


def _strip_brackets(name: str) -> str:
    """A name without the space or the <> around it, which MetaTrader writes."""
    stripped = name.strip()
    is_in_brackets = stripped.startswith("<") and stripped.endswith(">")
    return stripped[1:-1].strip() if is_in_brackets else stripped


def to_table(raw: object) -> pd.DataFrame:
    """What holds named columns, as a data frame.

    Raises:
        BarsError: when it has no columns with names, or they differ in length.
    """
    if isinstance(raw, pd.DataFrame):
        return raw
    named: Any = raw
    if hasattr(raw, "__arrow_c_stream__") and not isinstance(raw, pd.Series):
        import pyarrow as pa

        return pd.DataFrame(pa.table(named).to_pandas())
    if not _has_named_columns(raw):
        raise BarsError(f"got {_describe(raw)}, whose columns have no names; pass {_KINDS}")
    try:
        return pd.DataFrame(named)
    except ValueError as error:
        raise BarsError(f"got {_describe(raw)} that is no table ({error}); pass {_KINDS}") from None


def require_columns(raw: object) -> pd.DataFrame:
    """The table with column names in lower case.

    Of names in pairs, as Yahoo's bars have them, the name of the symbol is left out.

    Raises:
        BarsError: when it is no table, has no rows or several symbols, lacks a column of a bar, or
            has one twice.
    """
    table = _drop_symbol_names(to_table(raw))
    if not len(table):
        raise BarsError("the table has no rows; check the file or the period asked for")
    named = table.rename(columns=tidy_name)
    for name in COLUMNS:
        count = int((named.columns == name).sum())
        if count == 0:
            got = ", ".join(map(str, table.columns))
            raise BarsError(
                f"column {name!r} is missing; got {got}; rename the columns to "
                f"{', '.join(COLUMNS)}, or of a file {tell_missing(name, list(map(str, named)))}",
                column=name,
            )
        if count > 1:
            raise BarsError(f"column {name!r} occurs {count} times; keep one", column=name)
    return named


def _has_named_columns(raw: object) -> bool:
    if isinstance(raw, list | tuple):
        return bool(raw) and all(isinstance(row, Mapping) or hasattr(row, "_fields") for row in raw)
    return isinstance(raw, Mapping) or (isinstance(raw, np.ndarray) and bool(raw.dtype.names))


def _describe(raw: object) -> str:
    shape = getattr(raw, "shape", None)
    return type(raw).__name__ + (f" of shape {shape}" if shape is not None else "")


def _drop_symbol_names(table: pd.DataFrame) -> pd.DataFrame:
    """Name columns by the level that names open to volume, where the others name one symbol."""
    columns = table.columns
    if not isinstance(columns, pd.MultiIndex):
        return table
    levels = [columns.get_level_values(number) for number in range(columns.nlevels)]
    counts = [sum(tidy_name(name) in COLUMNS for name in level) for level in levels]
    place = int(np.argmax(counts))
    for number, level in enumerate(levels):
        symbols = [str(name) for name in level.unique() if str(name).strip()]
        if number != place and len(symbols) > 1:
            raise BarsError(
                f"the columns belong to {len(symbols)} symbols: {', '.join(symbols[:5])}; pass "
                f"those of one, such as frame.xs({symbols[0]!r}, axis=1, level={number}); no "
                "argument chooses a symbol of a file, so write one file for each"
            )
    return table.set_axis(levels[place], axis=1)
