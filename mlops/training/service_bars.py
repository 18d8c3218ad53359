"""Loads the bars of a service from its own source, as a training does."""

from __future__ import annotations

from datetime import datetime, timedelta

from mlops.data.acceptance import accept_bars
from mlops.data.file_options import BarsChoice
from mlops.data.findings import Findings
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.registry.bar_files import load_chosen_bars
from mlops.registry.markets import choose_bars, read_market
from mlops.service import Service
from mlops.settings import Settings
from mlops.store import Store
from mlops.training.retraining import market_time

SPARE, SPARE_DAYS = 1.2, 14
"""Where a market closes, history is loaded from this much further back than on average."""


def load_service_bars(
    store: Store,
    settings: Settings,
    service: Service,
    *,
    since: datetime,
    history: int,
    now: datetime,
) -> Dataset:
    """The bars of a service that are known now.

    Args:
        since: Forecasts from here on are wanted.
        history: Bars that are needed before that.
        now: The wall time; in a replayed market the time of its newest look counts.

    Raises:
        SourceError: when its source cannot be read.
        BarsError: when its bars break the contract, or too many are doubtful or missing.
    """
    choice = choose_bars(store, service, BarsChoice(), clock=settings.file_clock)
    calendar = read_market(store, service).calendar
    days = 365.0 * history / calendar.bars_per_year(service.timeframe)
    bars = load_chosen_bars(
        lambda: store,
        service,
        choice,
        cache_root=settings.bars_path,
        start=since - timedelta(days=SPARE * days + SPARE_DAYS),
        now=market_time(store, service.key, now),
        exchange_base_url=settings.exchange_url,
    )
    accept_bars(bars)
    return Dataset(
        bars.frame,
        timeframe=service.timeframe,
        target=TargetSpec(service.target, service.horizon),
        calendar=bars.calendar,
        provenance=bars.provenance,
        findings=Findings.of(bars),
    )
