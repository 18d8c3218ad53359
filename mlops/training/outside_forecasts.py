"""The forecasts on which a version from elsewhere is judged: of later bars, or on record.

    bars after the caller's time -> forecasts of the version itself  } Forecasts
    forecasts stored here, with their outcomes                       }

A forecast on record replaces the one that is computed of the same bar.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from mlops.arrays import FloatArray, TimeArray, naive_utc
from mlops.data.findings import Findings
from mlops.features.causality import prove_causality
from mlops.features.dataset import Dataset
from mlops.features.spec import FeatureSpec
from mlops.models.base import Forecaster
from mlops.service import Service
from mlops.store import Store
from mlops.store.judgements import EvidenceKind
from mlops.store.outcomes import read_matched
from mlops.validation.forecasts import Forecasts
from mlops.validation.records import cut_record

SEED = 20241205


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class OutsideForecasts:
    """The judged forecasts, and what is known of how they were made.

    Args:
        rows: The forecasts with their outcomes.
        recorded: How many of them are on record here.
        live: Whether their market keeps the time of the day.
        own_bars: Whether they are forecasts of the service's own bars.
        trained_until: The caller's word; None where nothing rests on it.
        gap_bars: As `mlops.validation.evidence.Integrity`.
        bars_per_year: By the calendar of the service's market.
        origin: Where the bars come from, in words.
        bars_digest: Content hash of the bars.
        champion: The champion's forecasts of the same bars (n,), NaN where it may have seen the
            outcome; None where the baseline serves.
        findings: What was found of the bars; None where nobody knows.
    """

    kind: EvidenceKind
    rows: Forecasts
    recorded: int
    live: bool
    own_bars: bool
    trained_until: datetime | None
    gap_bars: int
    bars_per_year: float
    origin: str
    bars_digest: str
    champion: FloatArray | None = None
    findings: Findings | None = None

    @property
    def word(self) -> str | None:
        """What only the caller says of these forecasts; None where nothing is."""
        if self.kind is EvidenceKind.RECORD:
            return None
        return (
            f"only the caller's word says that no bar after {self.trained_until:%Y-%m-%d %H:%M} "
            "UTC was trained on, so only a person may take the version live"
        )

    @property
    def digest(self) -> str:
        """Equal for a second judgement of the same forecasts."""
        digest = hashlib.sha256(f"{self.kind} {self.own_bars}".encode())
        for array in (self.rows.made_at, self.rows.forecast, self.rows.y):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def forecast_after(
    dataset: Dataset,
    forecaster: Forecaster,
    baseline: FloatArray,
    since: datetime,
    *,
    recorded: Forecasts | None,
) -> Forecasts | None:
    """The forecasts made after a time, each with its outcome; None where there is none.

    Args:
        baseline: The declared baseline's forecasts (N,).
        since: The close of the last bar that the forecaster was trained on.
        recorded: Its forecasts on record, which replace those that it would make now.

    Raises:
        LookaheadError: when a feature of the forecaster reads the future.
        NotFinite: when it forecasts something that is no number.
    """
    _prove_features_causal(forecaster, dataset)
    labels = dataset.labels
    young = labels.made_at > naive_utc(since)
    forecasts = forecaster.forecast(dataset, young & labels.valid)
    if recorded is not None:
        rows, known = _place(labels.made_at, recorded.made_at)
        forecasts[rows] = recorded.forecast[known]
    keep = young & labels.valid & np.isfinite(forecasts) & np.isfinite(baseline)
    if not keep.any():
        return None
    one_fold = np.zeros(len(dataset), dtype=np.int64)
    return cut_record(dataset, np.flatnonzero(keep), forecasts, baseline, one_fold)


def count_recorded(rows: Forecasts, recorded: Forecasts | None) -> int:
    """How many forecasts of a record are on record in the store."""
    return 0 if recorded is None else int(np.isin(rows.made_at, recorded.made_at).sum())


def measure_gap(dataset: Dataset, rows: Forecasts, since: datetime) -> int:
    """Bars from the last label that was known at a time to the first judged forecast.

    Where the bars begin later than that it is the horizon, which it cannot be below.
    """
    labels = dataset.labels
    known = np.flatnonzero(labels.valid & (labels.known_at <= naive_utc(since)))
    first = int(np.searchsorted(labels.made_at, rows.made_at[0]))
    return first - int(known[-1]) if known.size else dataset.target.horizon


def read_recorded_forecasts(
    store: Store, service: Service, model_id: str, *, known_after: datetime | None
) -> Forecasts | None:
    """A version's forecasts on record whose outcome is known; None where there is none.

    Args:
        known_after: Only outcomes that became known after this time; None for all.
    """
    matched = read_matched(store, service.key, model_id=model_id)
    keep = np.isfinite(matched.persistence) & np.isfinite(matched.baseline)
    if known_after is not None:
        keep &= matched.known_at > naive_utc(known_after, "us")
    if not keep.any():
        return None
    kept = matched.take(keep)
    opened = kept.bar.astype("datetime64[ns]")
    return Forecasts(
        target=service.target,
        horizon=service.horizon,
        made_at=np.add(opened, np.timedelta64(service.timeframe.step)),
        y=kept.value,
        forecast=kept.forecast,
        persistence=kept.persistence,
        baseline=kept.baseline,
        next_return=kept.next_return,
        fold=np.zeros(len(kept), dtype=np.int64),
    )


def align_forecasts(rows: Forecasts, others: Forecasts | None) -> FloatArray:
    """Another version's forecasts (n,) of the bars of ``rows``; NaN where it made none."""
    aligned = np.full(len(rows), np.nan)
    if others is not None:
        places, known = _place(rows.made_at, others.made_at)
        aligned[places] = others.forecast[known]
    return aligned


def digest_of_outcomes(rows: Forecasts) -> str:
    """Content hash of the bars and outcomes of a record."""
    digest = hashlib.sha256()
    for array in (rows.made_at, rows.y):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _place(times: TimeArray, found: TimeArray) -> tuple[Any, Any]:
    """Positions in ``times`` and in ``found`` of the times that both have."""
    _, first, second = np.intersect1d(times, found, assume_unique=True, return_indices=True)
    return first, second


def _prove_features_causal(forecaster: Forecaster, dataset: Dataset) -> None:
    features = forecaster.recipe.every_feature
    if features:
        prove_causality(
            dataset.frame,
            FeatureSpec(features),
            timeframe=dataset.timeframe,
            calendar=dataset.calendar,
            seed=SEED,
        )
