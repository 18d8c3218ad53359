"""Collects what a version from elsewhere is judged by: its forecasts, and the champion's beside."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Self

import pandas as pd

from mlops.arrays import FloatArray
from mlops.data.market import Market
from mlops.errors import GateError
from mlops.features.dataset import Dataset
from mlops.models.bundle import Bundle
from mlops.registry.connection import Registry, load, load_version
from mlops.registry.markets import read_market
from mlops.service import Service
from mlops.store import ModelVersion, get_route
from mlops.store.judgements import EvidenceKind
from mlops.training.champion import fitted_until, forecast_unseen
from mlops.training.outside_forecasts import (
    OutsideForecasts,
    align_forecasts,
    count_recorded,
    digest_of_outcomes,
    forecast_after,
    measure_gap,
    read_recorded_forecasts,
)
from mlops.training.refit_policy import champion_of
from mlops.validation.forecasts import Forecasts
from mlops.validation.records import bars_per_year


@dataclass(frozen=True, slots=True)
class Subject:
    """A version from elsewhere that is to be judged, opened."""

    registry: Registry
    version: ModelVersion
    bundle: Bundle

    @classmethod
    def open(cls, registry: Registry, version: ModelVersion) -> Self:
        """Open the version's bundle.

        Raises:
            BundleError: when its files are not those that were registered, or were removed.
        """
        return cls(registry, version, load_version(version, registry.trust, registry.bundles))

    @property
    def service(self) -> Service:
        return self.bundle.service

    @property
    def market(self) -> Market:
        """Where the service's bars come from, and whose time it keeps."""
        return read_market(self.registry.store, self.service)

    @property
    def history(self) -> int:
        """Bars that its first judged forecast needs."""
        return int(self.bundle.config["warm_up"]) + self.service.horizon

    @property
    def champion(self) -> ModelVersion | None:
        """The other version that serves; None where that is the baseline, or the subject."""
        champion = champion_of(self.registry.store, self.service)
        own = champion is not None and champion.model_id == self.version.model_id
        return None if own else champion


def read_own_record(subject: Subject) -> Forecasts | None:
    """Its forecasts on record; None where there is none.

    In a market of today only those count whose outcome became known after the registration.
    """
    registered = subject.version.created_at if subject.market.is_live else None
    return read_recorded_forecasts(
        subject.registry.store,
        subject.service,
        subject.version.model_id,
        known_after=registered,
    )


def take_record(subject: Subject, recorded: Forecasts) -> OutsideForecasts:
    """The forecasts on record as what is judged; nothing rests on the caller's word."""
    service, market, champion = subject.service, subject.market, subject.champion
    beside: FloatArray | None = None
    if champion is not None:
        theirs = read_recorded_forecasts(
            subject.registry.store, service, champion.model_id, known_after=None
        )
        beside = align_forecasts(recorded, theirs)
    return OutsideForecasts(
        kind=EvidenceKind.RECORD,
        rows=recorded,
        recorded=len(recorded),
        live=market.is_live,
        own_bars=True,
        trained_until=None,
        gap_bars=service.horizon,  # each was made before its outcome was known
        bars_per_year=market.calendar.bars_per_year(service.timeframe),
        origin="outcomes on record here",
        bars_digest=digest_of_outcomes(recorded),
        champion=beside,
    )


def forecast_own_bars(
    subject: Subject, dataset: Dataset, since: datetime, recorded: Forecasts | None
) -> OutsideForecasts:
    """Its forecasts of the service's own bars after a time.

    Args:
        since: The close of the last bar that it was trained on, by the caller's word.
        recorded: Its forecasts on record, which replace those that it would make now.

    Raises:
        GateError: when it can forecast no such bar.
        ModelError: when it forecasts something that is no number.
        LookaheadError: when a feature of it reads the future.
    """
    rows = _forecast_after(subject, dataset, since, recorded)
    source = dataset.provenance
    return OutsideForecasts(
        kind=EvidenceKind.WORD,
        rows=rows,
        recorded=count_recorded(rows, recorded),
        live=subject.market.is_live,
        own_bars=True,
        trained_until=since,
        gap_bars=measure_gap(dataset, rows, since),
        bars_per_year=bars_per_year(dataset),
        origin="the service's own source" if source is None else source.label,
        bars_digest=dataset.content_hash,
        champion=_forecast_champion(subject, dataset, rows),
        findings=dataset.findings,
    )


def forecast_other_bars(subject: Subject, bars: pd.DataFrame, since: datetime) -> OutsideForecasts:
    """As `forecast_own_bars`, of bars that the caller gives; no champion is met on them.

    Raises:
        BarsError: when the bars break the contract.
    """
    dataset = subject.bundle.dataset(bars)
    rows = _forecast_after(subject, dataset, since, None)
    return OutsideForecasts(
        kind=EvidenceKind.WORD,
        rows=rows,
        recorded=0,
        live=False,
        own_bars=False,
        trained_until=since,
        gap_bars=measure_gap(dataset, rows, since),
        bars_per_year=bars_per_year(dataset),
        origin="given by the caller, not the service's own source",
        bars_digest=dataset.content_hash,
    )


def _forecast_after(
    subject: Subject, dataset: Dataset, since: datetime, recorded: Forecasts | None
) -> Forecasts:
    baseline = _forecast_baseline(subject, dataset)
    rows = forecast_after(dataset, subject.bundle.forecaster, baseline, since, recorded=recorded)
    if rows is None:
        raise GateError(
            f"no bar after {since:%Y-%m-%d %H:%M} UTC has both {subject.history} bars of history "
            f"and an outcome, so {subject.version.model_id} cannot be judged; judge it when later "
            "bars are known"
        )
    return rows


def _forecast_baseline(subject: Subject, dataset: Dataset) -> FloatArray:
    """Forecasts (N,) of the service's declared baseline."""
    route = get_route(subject.registry.store, subject.service.key)
    if route is None:
        return dataset.labels.persistence
    return load(subject.registry, route.baseline).forecaster.forecast(dataset)


def _forecast_champion(subject: Subject, dataset: Dataset, rows: Forecasts) -> FloatArray | None:
    """The champion's forecasts (n,) of bars that are new to it; None where the baseline serves."""
    champion = subject.champion
    if champion is None:
        return None
    return forecast_unseen(
        load(subject.registry, champion.model_id).forecaster,
        fitted_until(champion),
        dataset,
        dataset.labels.made_at.searchsorted(rows.made_at),
    )
