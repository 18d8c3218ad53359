"""Columns of Arrow, nullable and categorical types, as numpy holds the same values."""

from __future__ import annotations

import pandas as pd
from pandas.api.extensions import ExtensionDtype


def to_plain(values: pd.Series) -> pd.Series:
    """The same values as dates, times, numbers, text or objects of numpy and pandas.

    Args:
        values: Without missing values, which integers of numpy cannot hold.
    """
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return to_plain(values.astype(dtype.categories.dtype))
    if isinstance(dtype, pd.ArrowDtype):
        import pyarrow as pa

        # Days as datetime64, not as one Python object each; a dictionary becomes categories.
        plain = pa.array(values).to_pandas(date_as_object=False)
        return to_plain(pd.Series(plain, index=values.index, name=values.name))
    if isinstance(dtype, pd.PeriodDtype):
        return pd.Series(values.dt.to_timestamp())
    if isinstance(dtype, ExtensionDtype) and dtype.kind in "iufb":
        numbers = values.to_numpy(dtype=dtype.type)
        return pd.Series(numbers, index=values.index, name=values.name)
    return values
