"""Drift of one version: its columns made of recent bars, against the reference in its bundle.

bundle's reference bars -> reference_frame -> DriftReference
recent bars             -> current_frame   -> check_drift against that reference
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Unpack

import numpy as np
import pandas as pd

from mlops.data.bar_columns import COLUMNS, require_columns, tidy_name, to_table
from mlops.data.bars import validate_bars
from mlops.data.calendar import load_calendar
from mlops.data.time_columns import TimeArguments
from mlops.errors import BarsError
from mlops.features.dataset import Dataset
from mlops.features.indicators import follows_clock, log_range
from mlops.models import manifest
from mlops.models.bundle import Bundle
from mlops.monitoring.drift.reference import load_or_fit_reference, reference_path
from mlops.monitoring.drift.report import (
    DriftConfig,
    DriftReference,
    DriftReport,
    Role,
    check_drift,
    fit_reference,
)
from mlops.registry.bundles import reference_features

FEATURE = "feature."
TARGET, FORECAST, REALISED = "target", "forecast", "realised"
_ROLES = {TARGET: Role.TARGET, FORECAST: Role.FORECAST, REALISED: Role.REALISED}


class VersionDrift:
    """The drift reference of a version, and checks of bars against it.

    Args:
        reference_folder: Where fitted references are kept for other processes; None: nowhere.
    """

    def __init__(
        self, bundle: Bundle, config: DriftConfig, *, reference_folder: Path | None = None
    ) -> None:
        self.bundle = bundle
        self.config = config
        self.reference = (
            self._fit()
            if reference_folder is None
            else load_or_fit_reference(
                reference_path(reference_folder, bundle.digest, config), self._fit
            )
        )

    def _fit(self) -> DriftReference:
        frame = reference_frame(self.bundle)
        return fit_reference(
            frame,
            roles_of(frame),
            window_bars=self.config.window_bars,
            span=self.config.looks_per_budget,
        )

    @property
    def bars_needed(self) -> int:
        """Bars of a whole window, with the bars before it that its columns are made of.

        A feature needs its warm-up, a target and the newest forecast a horizon each.
        """
        horizon = self.bundle.service.horizon
        return self.config.history_bars + int(self.bundle.config["warm_up"]) + 2 * horizon

    def check(self, recent: object, **written: Unpack[TimeArguments]) -> DriftReport:
        """Judge the last window of plain bars, or of columns named as in the reference.

        Args:
            recent: One row a bar. Plain bars must begin before the window, by the warm-up of the
                features; too short a history is a status of the report.
            written: How the time of plain bars is written.

        Raises:
            BarsError: when bars break the contract, or it is a table of neither kind.
        """
        columns = columns_of(self.bundle, recent, **written)
        return check_drift(self.reference, columns, self.config)


def columns_of(bundle: Bundle, recent: object, **written: Unpack[TimeArguments]) -> pd.DataFrame:
    """Make the columns of the reference of plain bars; return a table of these columns as it is.

    Raises:
        BarsError: when bars break the contract, when a table is neither bars nor has a column of
            the version, or when names in pairs leave open which of the two it is.
    """
    table = to_table(recent)
    _refuse_pairs(table)
    if _are_bars(table):
        require_columns(table)
        service, calendar = bundle.service, load_calendar(bundle.config["calendar"])
        checked = validate_bars(
            table,
            timeframe=service.timeframe,
            calendar=calendar,
            now=datetime.now(UTC),
            min_bars=1,
            **written,
        )
        return current_frame(bundle, bundle.dataset(checked.bars))
    _refuse_other_columns(bundle, table)
    return table


def _refuse_pairs(table: pd.DataFrame) -> None:
    if isinstance(table.columns, pd.MultiIndex):
        symbols = int(not _has_price(table.columns.get_level_values(1)))
        raise BarsError(
            f"the columns are named in pairs, such as {table.columns[0]}, but only plain names "
            "tell bars from the version's own columns; pass those of one symbol, such as "
            f"recent_data.droplevel({symbols}, axis=1)"
        )


def _are_bars(table: pd.DataFrame) -> bool:
    """Whether a table has a price; a version's features may have that name, beside its forecast."""
    return _has_price(table.columns) and not {TARGET, FORECAST} <= set(table.columns)


def _has_price(names: pd.Index) -> bool:
    return not {tidy_name(name) for name in names}.isdisjoint(COLUMNS[:4])


def _refuse_other_columns(bundle: Bundle, table: pd.DataFrame) -> None:
    """Refuse a table that is neither bars nor has a watched column of a version.

    Where some are missing, the report says so of each.
    """
    roles = roles_of(reference_frame(bundle))
    features = sorted(name for name, role in roles.items() if role is Role.FEATURE)
    names = [*features, *(name for name in roles if name not in features)]
    if set(names).isdisjoint(map(str, table.columns)):
        raise BarsError(
            f"columns {', '.join(names)} are missing, all that are watched of this version; got "
            f"{', '.join(map(str, table.columns)) or 'no column'}; pass bars with "
            f"{', '.join(COLUMNS)} and their time, or the version's own columns",
            column=names[0],
        )


def reference_frame(bundle: Bundle) -> pd.DataFrame:
    """The columns of the bars that a version was trained and validated on, by open time."""
    table = bundle.tensors(manifest.REFERENCE)
    columns = {
        name.removeprefix(FEATURE): table[name] for name in table if name.startswith(FEATURE)
    }
    times = pd.DatetimeIndex(table["open_time"].astype("datetime64[ns]"), tz="UTC")
    # Older bundles lack the column; their target is watched for jumps in its place.
    realised = {REALISED: table[REALISED]} if REALISED in table else {}
    return pd.DataFrame(
        {**columns, TARGET: table["y"], FORECAST: table["forecast"], **realised}, times
    )


def current_frame(bundle: Bundle, dataset: Dataset) -> pd.DataFrame:
    """The same columns of the bars of a dataset, by open time.

    The target of a bar is the label that had become known when the bar closed: it was made a
    horizon earlier. The first bars have none.
    """
    spec = reference_features(bundle.forecaster)
    features = dataset.matrix(spec)
    columns = {name: features[:, place] for place, name in enumerate(spec.names)}
    horizon = dataset.target.horizon
    target = np.full(len(dataset), np.nan)
    target[horizon:] = dataset.labels.y[: max(0, len(dataset) - horizon)]
    forecast = bundle.forecaster.forecast(dataset)
    own = {TARGET: target, FORECAST: forecast, REALISED: log_range(dataset.bars)}
    return pd.DataFrame({**columns, **own}, dataset.frame.index)


def roles_of(frame: pd.DataFrame) -> dict[str, Role]:
    """The roles of the columns to watch, which are all that do not follow the clock."""
    return {
        str(name): _ROLES.get(str(name), Role.FEATURE)
        for name in frame.columns
        if not follows_clock(str(name))
    }
