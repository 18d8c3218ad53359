"""Bars from a CSV or Parquet file; arguments say what its stamps mean, nothing is guessed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from mlops.arrays import FloatArray
from mlops.data.bar_columns import COLUMNS, rename_columns, require_columns
from mlops.data.file_options import FileOptions
from mlops.data.numbers import parse_numbers
from mlops.data.sources.archives import open_content
from mlops.data.sources.arrow_tables import read_arrow_table
from mlops.data.sources.base import cut_to_period
from mlops.data.sources.csv_tables import read_csv_table
from mlops.data.time_columns import TIME_COLUMN, parse_time_column
from mlops.errors import SourceError
from mlops.service import Timeframe


class FileSource:
    """One file with the bars of one symbol: CSV, Parquet or Arrow, packed or not.

    Args:
        path: The file; what it is, is read from its content.
        options: How its rows are read.
        arguments: Fields of `FileOptions`, given singly; they go before those of ``options``.

    Raises:
        SourceError: for an argument that `FileOptions` does not have or not allow.
    """

    def __init__(
        self,
        *,
        path: Path | str,
        venue: str = "file",
        options: FileOptions | None = None,
        **arguments: Any,
    ) -> None:
        self.path = Path(path)
        self.venue = venue
        given = options.model_dump() if options is not None else {}
        try:
            self.options = FileOptions(**(given | arguments))
        except ValidationError as error:
            wrong = error.errors()[0]
            name = wrong["loc"][0] if wrong["loc"] else "options"
            raise SourceError(f"FileSource({name}={wrong['input']!r}): {wrong['msg']}") from error

    def label(self, symbol: str) -> str:
        return f"{symbol} from {self.path.name}"

    def fetch(
        self,
        symbol: str,
        timeframe: Timeframe,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> pd.DataFrame:
        """Rows in file order with UTC opens as index; a file does not check ``symbol``.

        Other columns are kept as they are: one of them may tell what a row is of. The frame's
        ``attrs`` name the column that the opens were read from.

        Raises:
            SourceError: when the file cannot be read.
            BarsError: when a column is missing, or a stamp or number cannot be understood.
        """
        table = require_columns(self._read_table())
        now, options = pd.Timestamp(datetime.now(UTC)), self.options
        opened, column = parse_time_column(
            table,
            timeframe=timeframe,
            now=now,
            stamps=options.stamps,
            timezone=options.timezone,
            dayfirst=options.dayfirst,
            time_column=options.time_column,
            time_format=options.time_format,
        )
        bars = self._take_bars(table.drop(columns=column, errors="ignore"), opened, timeframe, now)
        bars.attrs[TIME_COLUMN] = column
        return cut_to_period(bars, start, end)

    def _read_table(self) -> pd.DataFrame:
        content = open_content(self.path, self.options.member)
        if content.form == "text":
            return read_csv_table(content, self.options)
        table, columns = read_arrow_table(content), self.options.columns
        if isinstance(table.columns, pd.MultiIndex) or not columns:
            return table.rename(columns=columns)
        levels = [str(name or "") for name in table.index.names]
        given = [*levels, *map(str, table.columns)]
        names = rename_columns(content.name, given, columns)
        index = [new if old else None for old, new in zip(levels, names, strict=False)]
        table.index.names = index
        return table.set_axis(list(names[len(levels) :]), axis=1)

    def _take_bars(
        self, table: pd.DataFrame, opened: pd.DatetimeIndex, timeframe: Timeframe, now: pd.Timestamp
    ) -> pd.DataFrame:
        """The columns of bars, text as numbers, and all others."""
        taken: dict[str, pd.Series | FloatArray] = {}
        for name in COLUMNS:
            values = table[name]
            if values.dtype.kind in "OTU" or isinstance(values.dtype, pd.StringDtype):
                complete = np.flatnonzero(opened + timeframe.step <= now)
                taken[name] = parse_numbers(values, complete, decimal=self.options.decimal or ".")
            else:
                taken[name] = values.array
        extras = {name: table[name].array for name in table.columns if name not in COLUMNS}
        return pd.DataFrame({**taken, **extras}, index=opened.rename("open_time"), copy=False)
