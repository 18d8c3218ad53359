"""The drift reference of a version: fitted on the bars it was trained on, cached in a file.

    load_or_fit_reference: read the file -> where it is missing or unreadable: fit, save the file

Each hourly run is a new process. Reading a reference takes a tenth of the time of fitting it. The
files are only a cache, so they may be deleted at any time.
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

log = logging.getLogger(__name__)

FORMAT = 1
"""Version of the file format, part of each file's name."""
_METADATA_KEY = "reference"

BUDGET_HOURS = 720
"""Looks of hourly bars in 30 days: the default span of one budget of false alarms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReference:
    """The reference of all columns.

    Attributes:
        ends_at: Time of the last row (ISO 8601); None where the rows have no times.
    """

    columns: tuple[ColumnReference, ...]
    ends_at: str | None = None

    @property
    def families(self) -> int:
        """Families with a column that can be tested; a level is divided among them."""
        return len({column.role.family for column in self._testable()})

    @property
    def testable(self) -> int:
        """Number of columns whose windows can be tested."""
        return len(self._testable())

    @property
    def watched_for_jumps(self) -> tuple[str, ...]:
        """Columns that are watched for jumps: REALISED ones, or the targets where there is none."""
        with_jumps = [column for column in self.columns if column.jumps is not None]
        realised = [column for column in with_jumps if column.role is Role.REALISED]
        return tuple(column.name for column in realised or with_jumps)

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
        """The arrays by name, as safetensors stores them; at most 170 kB a column and length."""
        return {
            f"{number}/{key}": array
            for number, column in enumerate(self.columns)
            for key, array in column.to_arrays().items()
        }

    @classmethod
    def from_parts(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Read `to_dict` and `to_arrays` back."""
        by_column: list[dict[str, NDArray[Any]]] = [{} for _ in values["columns"]]
        for key, array in arrays.items():
            number, _, rest = key.partition("/")
            by_column[int(number)][rest] = array
        columns = tuple(map(ColumnReference.from_parts, values["columns"], by_column))
        return cls(columns=columns, ends_at=values["ends_at"])


def fit_reference(
    frame: pd.DataFrame,
    roles: Mapping[str, Role],
    *,
    window_bars: int,
    span: int = BUDGET_HOURS,
    max_bars: int | None = MAX_BARS,
) -> DriftReference:
    """Fit the reference of a frame's columns.

    Args:
        frame: One row a bar, in time order.
        roles: The columns to watch. A column that the frame lacks is kept without values, so that
            reports name it. Leave out columns that follow the clock: they change with the
            calendar and never with the market.
        window_bars: Length of the windows to calibrate for; other lengths are calibrated later.
        span: `DriftConfig.looks_per_budget`.
        max_bars: Keep only so many of the last values of each column; None keeps all.
    """
    columns = columns_by_name(frame)
    absent = pd.Series([], dtype=np.float64)
    fitted = [
        fit_column(
            name,
            columns.get(name, absent),
            Role(role),
            window_bars=window_bars,
            span=span,
            max_bars=max_bars,
        )
        for name, role in roles.items()
    ]
    has_times = len(frame) and isinstance(frame.index, pd.DatetimeIndex)
    ends_at = pd.Timestamp(frame.index[-1]).isoformat() if has_times else None
    return DriftReference(columns=tuple(fitted), ends_at=ends_at)


def columns_by_name(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """The columns of a frame by name; of several with the same name the last."""
    return {str(name): column for name, column in frame.items()}


def reference_path(folder: Path, digest: str, config: DriftConfig) -> Path:
    """The file of a bundle's reference.

    The name holds what the fit depends on: bundle, window, budget, file format and release.

    Args:
        digest: The digest of the bundle.
    """
    settings = f"{config.window_bars}-{config.looks_per_budget}-{FORMAT}-{release()}"
    return folder / f"{digest}-{settings}.safetensors"


def load_or_fit_reference(path: Path, fit: Callable[[], DriftReference]) -> DriftReference:
    """Read the reference at ``path``; fit it and save it there where none can be read."""
    reference = _load(path)
    if reference is None:
        reference = fit()
        _save(path, reference)
    return reference


def _load(path: Path) -> DriftReference | None:
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            values = json.loads(file.metadata()[_METADATA_KEY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return DriftReference.from_parts(values, arrays)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        log.warning("%s is fitted again, for it cannot be read: %s", path, error)
        return None


def _save(path: Path, reference: DriftReference) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(reference.to_arrays(), part, {_METADATA_KEY: json.dumps(reference.to_dict())})
        part.replace(path)
    except (OSError, SafetensorError) as error:
        # A full disk must not stop the look; the next process fits the reference again.
        log.warning("%s was not kept: %s", path, error)
        with suppress(OSError):
            part.unlink(missing_ok=True)
