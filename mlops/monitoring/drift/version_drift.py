"""Drift of one version: bars set against its bundle's reference, in the columns it reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops.data.bars import COLUMNS
from mlops.features.dataset import Dataset
from mlops.features.indicators import follows_clock, log_range
from mlops.models import manifest
from mlops.models.bundle import Bundle, read_tensors
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
_OWN = {TARGET: Role.TARGET, FORECAST: Role.FORECAST, REALISED: Role.REALISED}


class VersionDrift:
    """The reference of a version, fitted once; `check` sets bars against it.

    What was fitted is kept in the folder ``reference_folder`` for other processes, if there is one.
    """

    def __init__(
        self, bundle: Bundle, config: DriftConfig, *, reference_folder: Path | None = None
    ) -> None:
        self.bundle = bundle
        self.config = config
        self.reference = (
            self._fitted()
            if reference_folder is None
            else load_or_fit_reference(
                reference_path(reference_folder, bundle.digest, config), self._fitted
            )
        )

    def _fitted(self) -> DriftReference:
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

    def check(self, recent: pd.DataFrame) -> DriftReport:
        """Judge the last window of plain bars, or of columns that carry the reference's names.

        Bars need the history of the features before the window; what is too short is a status
        of the report.

        Raises:
            BarsError: when bars break the contract.
        """
        return check_drift(self.reference, columns_of(self.bundle, recent), self.config)


def columns_of(bundle: Bundle, recent: pd.DataFrame) -> pd.DataFrame:
    """The reference's columns, made of plain bars; a frame of anything else as it is."""
    is_bars = set(COLUMNS) <= {str(name).lower() for name in recent.columns}
    return current_frame(bundle, bundle.dataset(recent)) if is_bars else recent


def reference_frame(bundle: Bundle) -> pd.DataFrame:
    """What the bundle keeps of the bars it was trained and validated on, by open time."""
    table = read_tensors(bundle.path / manifest.REFERENCE)
    columns = {
        name.removeprefix(FEATURE): table[name] for name in table if name.startswith(FEATURE)
    }
    times = pd.DatetimeIndex(table["open_time"].astype("datetime64[ns]"), tz="UTC")
    # Versions of before the column was kept are watched for jumps of their target.
    realised = {REALISED: table[REALISED]} if REALISED in table else {}
    return pd.DataFrame(
        {**columns, TARGET: table["y"], FORECAST: table["forecast"], **realised}, times
    )


def current_frame(bundle: Bundle, dataset: Dataset) -> pd.DataFrame:
    """The same columns from the bars of a dataset.

    The target of a bar is the one that had become known by then.
    """
    spec = reference_features(bundle.forecaster)
    features = dataset.matrix(spec)
    columns = {name: features[:, place] for place, name in enumerate(spec.names)}
    forecast = bundle.forecaster.forecast(dataset)
    own = {
        TARGET: _known_target(dataset),
        FORECAST: forecast,
        REALISED: log_range(dataset.bars),
    }
    return pd.DataFrame({**columns, **own}, dataset.frame.index)


def roles_of(frame: pd.DataFrame) -> dict[str, Role]:
    """Columns to watch; those that follow the clock change with the calendar and are left out."""
    return {
        str(name): _OWN.get(str(name), Role.FEATURE)
        for name in frame.columns
        if not follows_clock(str(name))
    }


def _known_target(dataset: Dataset) -> NDArray[np.float64]:
    horizon = dataset.target.horizon
    known = np.full(len(dataset), np.nan)
    known[horizon:] = dataset.labels.y[: max(0, len(dataset) - horizon)]
    return known
