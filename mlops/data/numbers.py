"""Columns of numbers: what is written in one way only is parsed, the rest refused by its row."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
import pandas as pd

from mlops.arrays import BoolArray, FloatArray, IntArray
from mlops.data.timestamps import bad_rows_error
from mlops.errors import BarsError

REMEDY = "correct or remove these rows at the source"
_NO_NUMBER = ("nan", "null", "n/a")
_FACTORS = {"K": 1e3, "M": 1e6, "B": 1e9}
_CURRENCY = re.compile(r"^([+-]?)\s*[$€£¥₿]\s*|\s*[$€£¥₿]$")
_SPACES = re.compile(r"(?<=\d)[ \u00a0\u202f'\u2019](?=\d{3}(?!\d))")


def parse_numbers(
    values: pd.Series, rows: IntArray, *, decimal: Literal[".", ","] = "."
) -> FloatArray:
    """A column as float64; only ``rows``, positions in it, must be numbers, others may be NaN.

    Text may have separators of thousands and a currency sign, a volume also K, M or B for
    thousands, millions and billions, where that leaves one reading.

    Args:
        decimal: The decimal mark of text.

    Raises:
        BarsError: for a cell that is missing, infinite, or no number; it names the rows.
    """
    name = str(values.name)
    if values.dtype.kind in "Mmb":
        raise BarsError(f"column {name!r} holds {values.dtype}, not numbers", column=name)
    if values.dtype == np.float64:
        parsed: FloatArray = values.to_numpy()
    elif values.dtype.kind in "iuf":
        parsed = values.to_numpy(dtype="float64", na_value=np.nan)
    else:
        parsed = _parse_cells(values, rows, decimal)
    _refuse_rows(np.isnan(parsed), rows, name, "no number (NaN)")
    _refuse_rows(np.isinf(parsed), rows, name, "an infinite value")
    return parsed


def _parse_cells(values: pd.Series, rows: IntArray, decimal: str) -> FloatArray:
    """Cells of text and of other objects, such as Decimals."""
    name, cells = str(values.name), values.to_numpy(dtype=object)
    is_text = np.fromiter((isinstance(cell, str) for cell in cells), bool, len(cells))
    others = pd.to_numeric(pd.Series(cells[~is_text]), errors="coerce")
    parsed = np.full(len(cells), np.nan)
    parsed[~is_text] = others.to_numpy(dtype="float64", na_value=np.nan)
    unread = ~is_text & np.isnan(parsed) & ~values.isna().to_numpy()
    texts = pd.Series(cells[is_text], dtype="str").str.strip()
    numbers, is_read = _parse_texts(texts, decimal, may_be_short=name == "volume")
    parsed[is_text] = numbers
    unread[is_text] = ~is_read & ~texts.str.lower().isin(_NO_NUMBER).to_numpy()
    offenders = rows[unread[rows]]
    if len(offenders):
        _refuse_cells(name, cells, offenders, decimal)
    return parsed


def _parse_texts(
    texts: pd.Series, decimal: str, *, may_be_short: bool
) -> tuple[FloatArray, BoolArray]:
    """Numbers, NaN where a text is none, and which texts are numbers."""
    mark = re.escape(decimal)
    plain = rf"[+-]?(?:[0-9]+(?:{mark}[0-9]*)?|{mark}[0-9]+)(?:[eE][+-]?[0-9]+)?"
    numbers = np.full(len(texts), np.nan)
    read = np.zeros(len(texts), bool)
    factors = np.ones(len(texts))
    is_infinite = texts.str.fullmatch(r"[+-]?inf(?:inity)?", case=False).to_numpy(dtype=bool)
    todo = ~texts.str.fullmatch(plain).to_numpy(dtype=bool) & ~is_infinite
    bare = texts
    if todo.any():
        bare = texts.str.replace(_CURRENCY, r"\1", regex=True)
        if may_be_short:
            unit = bare.str.extract(r"[0-9]\s?([KMB])$")[0]
            factors = np.asarray(unit.map(_FACTORS).fillna(1.0), np.float64)
            bare = bare.str.replace(r"(?<=[0-9])\s?[KMB]$", "", regex=True)
        bare = _join_thousands(bare, decimal)
    read = bare.str.fullmatch(plain).to_numpy(dtype=bool) | is_infinite
    chosen = bare[read].str.replace(decimal, ".", regex=False)
    numbers[read] = chosen.to_numpy(dtype=object).astype("float64")
    return numbers * factors, read


def _join_thousands(texts: pd.Series, decimal: str) -> pd.Series:
    """Without separators of thousands, where the column shows that they are none of decimals.

    A comma is one where ``decimal=','`` is not meant: another cell of the column has two commas,
    or a comma before its point. A point is one because the caller said ``decimal=','``.
    """
    other = "," if decimal == "." else r"\."
    mark = re.escape(decimal)
    grouped = rf"[+-]?[0-9]{{1,3}}(?:{other}[0-9]{{3}})+(?:{mark}[0-9]*)?"
    begun = rf"[+-]?[0-9]{{1,3}}(?:{other}[0-9]{{3}})"
    proof = rf"{begun}+{mark}[0-9]*|{begun}{{2,}}"
    texts = texts.str.replace(_SPACES, "", regex=True)
    is_grouped = texts.str.fullmatch(grouped)
    if decimal == "." and not texts.str.fullmatch(proof).any():
        return texts
    joined = texts.str.replace("," if decimal == "." else ".", "", regex=False)
    return texts.where(~is_grouped, joined)


def _refuse_cells(name: str, cells: np.ndarray, offenders: IntArray, decimal: str) -> None:
    """Refuse cells that are no numbers, and say which argument would read the first."""
    first = cells[offenders[0]]
    shown, remedy = str(first)[:40], REMEDY
    other = "," if decimal == "." else "."
    if isinstance(first, str) and re.fullmatch(rf"\s*[+-]?\d+\{other}\d+\s*", first):
        remedy = f"pass decimal={other!r} if that is the decimal mark"
        if re.fullmatch(rf"\s*[+-]?\d{{1,3}}\{other}\d{{3}}\s*", first):
            remedy += ", or write thousands without a separator"
    raise bad_rows_error(f"text where a number belongs, {shown!r},", name, offenders, remedy)


def _refuse_rows(bad: BoolArray, rows: IntArray, column: str, what: str) -> None:
    offenders = rows[bad[rows]]
    if len(offenders):
        raise bad_rows_error(what, column, offenders, REMEDY)
