"""The table of a Parquet or Arrow file."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa

from mlops.data.sources.archives import Content
from mlops.errors import BarsError, SourceError

_NAMES = {"parquet": "Parquet", "arrow": "Arrow"}


def read_arrow_table(content: Content) -> pd.DataFrame:
    """The rows of the file, with the index that pandas may have stored in it.

    Raises:
        SourceError: when the file is damaged.
    """
    from pyarrow import feather, parquet

    read = parquet.read_table if content.form == "parquet" else feather.read_table
    kind = _NAMES[content.form]
    with content.reading() as stream:
        source: Any = pa.BufferReader(stream.read()) if content.packing else stream
        try:
            table = read(source)
        except (OSError, pa.ArrowException, ValueError) as error:
            raise SourceError(
                f"{content.name} is not a readable {kind} file: {error}; fetch the file again"
            ) from error
    repeated = [name for name in table.column_names if table.column_names.count(name) > 1]
    if repeated:
        raise BarsError(f"{content.name}: column {repeated[0]!r} occurs twice; keep one")
    try:
        frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
        return frame
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise SourceError(f"{content.name} holds what is no table of bars: {error}") from error
