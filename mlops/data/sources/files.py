"""Bars from a CSV or Parquet file; arguments say what its stamps mean, nothing is guessed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pandas as pd

from mlops.data.bar_columns import COLUMNS, require_columns
from mlops.data.sources.base import cut_to_period
from mlops.data.time_columns import parse_time_column
from mlops.errors import BarsError, SourceError
from mlops.service import Timeframe


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """One file with the bars of one symbol.

    Args:
        stamps: Whether a row is stamped at its open or its close.
        timezone: The zone of stamps that name none.
        dayfirst: Whether 03/04 is the third of April; needed where a date can be read both ways.
        time_column: Which column holds the time, where the file has two that disagree.
        columns: New names of columns by their names in the file.
        skip_rows: Lines of a CSV file above its header.
    """

    path: Path | str
    venue: str = "file"
    stamps: Literal["open", "close"] = "open"
    timezone: str | None = None
    dayfirst: bool | None = None
    time_column: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    separator: str = ","
    skip_rows: int = 0

    def label(self, symbol: str) -> str:
        return f"{symbol} from {Path(self.path).name}"

    def fetch(
        self,
        symbol: str,
        timeframe: Timeframe,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> pd.DataFrame:
        """Rows in file order with UTC opens as index; a file does not check ``symbol``.

        Raises:
            SourceError: when the file cannot be read.
            BarsError: when a column is missing or a stamp cannot be understood.
        """
        table = require_columns(self._read_table().rename(columns=dict(self.columns)))
        opened, _ = parse_time_column(
            table,
            timeframe=timeframe,
            now=pd.Timestamp(datetime.now(UTC)),
            stamps=self.stamps,
            timezone=self.timezone,
            dayfirst=self.dayfirst,
            time_column=self.time_column,
        )
        bars = table[list(COLUMNS)].set_axis(opened.rename("open_time"), axis=0)
        return cut_to_period(bars, start, end)

    def _read_table(self) -> pd.DataFrame:
        path = Path(self.path)
        if not path.is_file():
            raise SourceError(f"no file {path}; check the path")
        suffix = path.suffix.lower()
        if suffix in (".parquet", ".pq"):
            return _read_parquet(path)
        if suffix in (".csv", ".txt", ".gz"):
            return self._read_csv(path)
        raise SourceError(f"{path.name} ends in {suffix!r}; use .csv, .csv.gz or .parquet")

    def _read_csv(self, path: Path) -> pd.DataFrame:
        try:
            with warnings.catch_warnings():
                # pandas only warns where a row has more cells than the header, and cuts it.
                warnings.simplefilter("error", pd.errors.ParserWarning)
                return pd.read_csv(
                    path,
                    sep=self.separator,
                    skiprows=self.skip_rows,
                    index_col=False,
                    low_memory=False,
                )
        except pd.errors.EmptyDataError as error:
            raise BarsError(f"{path.name} is empty; check the file") from error
        except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
            raise BarsError(f"{path.name} is not a regular table: {error}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{path.name} cannot be read: {error}") from error


def _read_parquet(path: Path) -> pd.DataFrame:
    from pyarrow import ArrowException

    try:
        return pd.read_parquet(path)
    except (OSError, ArrowException) as error:
        raise SourceError(f"{path.name} is not a readable Parquet file: {error}") from error
