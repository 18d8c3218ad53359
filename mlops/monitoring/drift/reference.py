"""The reference of a version: fitted once on its training and validation bars, kept with it.

[[A version's fitted reference on this machine: fitted at its first look, read at every later one.

Each hourly run is a new process that would fit every version anew; reading is ten times as fast.
The files are a cache: they may be deleted, and one that cannot be read is fitted again.]]
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops.code_version import release
from mlops.monitoring.drift.columns import ColumnReference, Role, fit_column
from mlops.monitoring.drift.config import DriftConfig
from mlops.stats.window_null import MAX_BARS

FORMAT = 1
BUDGET_HOURS = 720
"""Hourly looks in 30 days, the default span of one budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReference:
    """All columns of a reference; ``ends_at`` is the label of its last row (ISO), if a time."""

    columns: tuple[ColumnReference, ...]
    ends_at: str | None = None

    @property
    def families(self) -> int:
        """Over how many families a level is split: those of which a column can be tested."""
        return len({column.role.family for column in self._testable()})

    @property
    def testable(self) -> int:
        """Columns whose windows can be tested at all."""
        return len(self._testable())

    @property
    def watched_for_jumps(self) -> tuple[str, ...]:
        """What each bar realised of the target, where there is such a column, else targets."""
        able = [column for column in self.columns if column.jumps is not None]
        realised = [column for column in able if column.role is Role.REALISED]
        return tuple(column.name for column in realised or able)

    def _testable(self) -> list[ColumnReference]:
        return [
            column
            for column in self.columns
            if column.null is not None and column.role is not Role.REALISED
        ]

    def to_dict(self) -> dict[str, Any]:
        """All but the arrays, JSON-legal."""
        return {
            "format": FORMAT,
            "ends_at": self.ends_at,
            "columns": [column.to_dict() for column in self.columns],
        }

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, as safetensors keeps them; at most 170 kB a column and length."""
        return {
            f"{number}/{key}": array
            for number, column in enumerate(self.columns)
            for key, array in column.to_arrays().items()
        }

    @classmethod
    def from_parts(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Read `to_dict` and `to_arrays` back."""
        own: list[dict[str, NDArray[Any]]] = [{} for _ in values["columns"]]
        for key, array in arrays.items():
            number, _, rest = key.partition("/")
            own[int(number)][rest] = array
        columns = tuple(map(ColumnReference.from_parts, values["columns"], own))
        return cls(columns=columns, ends_at=values["ends_at"])


def fit_reference(
    frame: pd.DataFrame,
    roles: Mapping[str, Role],
    *,
    window_bars: int,
    span: int = BUDGET_HOURS,
    max_bars: int | None = MAX_BARS,
) -> DriftReference:
    """Fit the reference of a frame's columns, one row a bar in time order.

    ``roles`` names the columns to watch; one that the frame lacks is kept as never seen, so
    that reports name it. ``window_bars`` is the length to calibrate ahead, others are
    calibrated when they come; ``span`` is `DriftConfig.looks_per_budget`. Of each column the
    last ``max_bars`` values are kept. Columns that follow the clock should be left out:
    they change with the calendar, never with the market.
    """
    found = columns_by_name(frame)
    absent = pd.Series([], dtype=np.float64)
    fitted = [
        fit_column(
            name,
            found.get(name, absent),
            Role(role),
            window_bars=window_bars,
            span=span,
            max_bars=max_bars,
        )
        for name, role in roles.items()
    ]
    return DriftReference(columns=tuple(fitted), ends_at=last_label(frame))


def columns_by_name(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """A frame's columns by name; of several with one name the last."""
    return {str(name): column for name, column in frame.items()}


def last_label(frame: pd.DataFrame) -> str | None:
    """The last row's time as ISO text; None where rows have no times."""
    if not len(frame) or not isinstance(frame.index, pd.DatetimeIndex):
        return None
    return pd.Timestamp(frame.index[-1]).isoformat()


log = logging.getLogger(__name__)

_VALUES = "reference"


def reference_path(folder: Path, digest: str, config: DriftConfig) -> Path:
    """Where the reference of the bundle with this digest lies, as this release fits it."""
    fitted = f"{config.window_bars}-{config.looks_per_budget}-{FORMAT}-{release()}"
    return folder / f"{digest}-{fitted}.safetensors"


def load_or_fit_reference(path: Path, fit: Callable[[], DriftReference]) -> DriftReference:
    """The reference at ``path``, fitted and left there where none can be read."""
    found = _read(path)
    if found is None:
        found = fit()
        _leave(path, found)
    return found


def _read(path: Path) -> DriftReference | None:
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            values = json.loads(file.metadata()[_VALUES])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return DriftReference.from_parts(values, arrays)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        log.warning("%s is fitted again, for it cannot be read: %s", path, error)
        return None


def _leave(path: Path, reference: DriftReference) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(reference.to_arrays(), part, {_VALUES: json.dumps(reference.to_dict())})
        part.replace(path)
    except (OSError, SafetensorError) as error:
        # The watch goes on where the disk is full; it takes longer.
        log.warning("%s was not kept: %s", path, error)
        with suppress(OSError):
            part.unlink(missing_ok=True)
