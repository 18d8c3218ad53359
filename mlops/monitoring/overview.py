"""One look over an installation: services, rollouts, tests, alerts, queue and newest versions.

It is what a page shows and polls, so it takes a number of statements that does not grow with the
services, and each of its lists is bounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlops.ab_testing.answers import AbTestAnswer, answer_of
from mlops.data.file_options import BarsChoice
from mlops.data.market import Market
from mlops.data.quality import fresh_until
from mlops.json_values import from_json
from mlops.rollout.plan import EVERYTHING_BP, RolloutPlan
from mlops.rollout.reading import Reading, read_rollouts
from mlops.service import Service
from mlops.settings import FileClock
from mlops.store import Rollout, Route, Store
from mlops.store.alerts import AlertRow
from mlops.store.dashboard import Counts, count_models
from mlops.store.engine import Connection
from mlops.store.markets import list_markets
from mlops.store.monitoring_pages import list_trigger_page, read_lasting_first
from mlops.store.rollout_pages import list_test_page
from mlops.store.routes import share_left_s
from mlops.store.services import (
    NewestCheck,
    NewestForecast,
    count_services,
    list_route_page,
    read_champions_since,
    read_newest_checks,
    read_newest_forecasts,
    read_newest_performance,
)
from mlops.store.sql import read_clock, store_time
from mlops.store.triggers import TriggerRow
from mlops.store.version_pages import VersionSummary, list_version_page, read_refusals
from mlops.validation.report import GateReport

SERVICES_PER_PAGE = 50
MOST_ROLLOUTS = 50
NEWEST = 20
"""Tests, alerts, triggers and versions that are shown."""


@dataclass(frozen=True, slots=True)
class LiveSkill:
    """The share of the baseline's loss that a champion removed in its newest decision window.

    ``low`` and ``high`` bound it, ``bar`` is the newest bar of the window.
    """

    value: float
    low: float | None
    high: float | None
    bar: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOverview:
    """One service.

    Attributes:
        champion_since: By the wall clock; all times of bars are market time.
        is_baseline: Whether the baseline serves.
        challenger_share: Share of the requests that the challenger answers now.
        mirrored_share: Share of the requests that both versions get.
        clock: ``wall``; ``replay`` or ``end`` where market time is not the time of the day.
        forecast: The newest forecast of record; None before the first.
        fresh_until: Until when that forecast's bar is fresh; None where time is not the wall's.
        check: The newest look at the champion; None before the first.
        skill: None where no look has measured it.
    """

    service: str
    symbol: str
    timeframe: str
    target: str
    horizon: int
    generation: int
    champion: str
    champion_since: datetime | None
    is_baseline: bool
    previous_champion: str | None
    challenger: str | None
    challenger_share: float
    mirrored_share: float
    clock: FileClock
    forecast: NewestForecast | None
    fresh_until: datetime | None
    check: NewestCheck | None
    skill: LiveSkill | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutOverview:
    """A rollout under way, or one that waits; ``evidence`` says what its trials show."""

    rollout_id: str
    service: str
    strategy: str
    model_id: str
    from_model_id: str
    phase: str
    step: int
    shares: tuple[float, ...]
    since: datetime
    deadline: datetime
    reason: str
    requested_by: str
    evidence: str


@dataclass(frozen=True, slots=True)
class VersionOverview:
    """A version; ``refused_by`` has a sentence for each gate that refused it."""

    version: VersionSummary
    refused_by: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What an installation is doing now.

    Attributes:
        at: When it was read, by the store's clock.
        services_after: The ``after`` of the next page of services; None at the end.
        alerts: Those that last first.
    """

    at: datetime
    counts: Counts
    services_in_use: int
    lasting_alerts: int
    services: tuple[ServiceOverview, ...]
    services_after: str | None
    rollouts: tuple[RolloutOverview, ...]
    tests: tuple[AbTestAnswer, ...]
    alerts: tuple[AlertRow, ...]
    triggers: tuple[TriggerRow, ...]
    versions: tuple[VersionOverview, ...]


def read_overview(store: Store, *, max_age_bars: float, after: str | None = None) -> Overview:
    """Read what is shown of this moment.

    Args:
        store: The store.
        max_age_bars: FORECAST_MAX_AGE_BARS.
        after: Key of the last service of the page before; None for the first page.
    """
    routes, services_after = list_route_page(
        store, after=after, limit=SERVICES_PER_PAGE, in_use_only=True
    )
    markets = {row.service: BarsChoice.read(row.choice) for row, _ in list_markets(store)}
    with store.read() as connection:
        at = store_time(connection)
        counts, in_use = count_models(connection), count_services(connection)
        services = _read_services(connection, routes, markets, max_age_bars=max_age_bars)
        reading = read_rollouts(connection, at)
        alerts, lasting = read_lasting_first(connection, limit=NEWEST)
    return Overview(
        at=at,
        counts=counts,
        services_in_use=in_use,
        lasting_alerts=lasting,
        services=services,
        services_after=services_after,
        rollouts=tuple(_describe_rollout(reading, row) for row in reading.rollouts[:MOST_ROLLOUTS]),
        tests=tuple(answer_of(*pair) for pair in list_test_page(store, limit=NEWEST).rows),
        alerts=alerts,
        triggers=list_trigger_page(store, limit=NEWEST).rows,
        versions=_list_versions(store),
    )


def _read_services(
    connection: Connection,
    routes: Sequence[Route],
    markets: Mapping[str, BarsChoice],
    *,
    max_age_bars: float,
) -> tuple[ServiceOverview, ...]:
    keys = [route.service for route in routes]
    since = read_champions_since(connection, keys)
    forecasts = read_newest_forecasts(connection, keys)
    checks = read_newest_checks(connection, keys)
    figures = read_newest_performance(connection, keys)
    now_s = read_clock(connection)
    overviews = []
    for route in routes:
        service = Service.parse(route.service)
        market = Market.of(service, markets.get(service.key))
        newest = forecasts.get(service.key)
        overviews.append(
            ServiceOverview(
                **_describe_route(service, route, now_s),
                champion_since=since.get(service.key),
                clock=market.clock,
                forecast=newest,
                fresh_until=_find_fresh_until(service, market, newest, max_age_bars),
                check=checks.get(service.key),
                skill=_read_skill(*figures[service.key]) if service.key in figures else None,
            )
        )
    return tuple(overviews)


def _describe_route(service: Service, route: Route, now_s: float) -> dict[str, Any]:
    holds = share_left_s(route, now_s) > 0.0
    return {
        "service": service.key,
        "symbol": service.symbol,
        "timeframe": service.timeframe.name,
        "target": str(service.target),
        "horizon": service.horizon,
        "generation": route.generation,
        "champion": route.champion,
        "is_baseline": route.champion == route.baseline,
        "previous_champion": route.previous_champion,
        "challenger": route.challenger,
        "challenger_share": route.weight_bp / EVERYTHING_BP if holds else 0.0,
        "mirrored_share": route.mirror_bp / EVERYTHING_BP if holds else 0.0,
    }


def _find_fresh_until(
    service: Service, market: Market, newest: NewestForecast | None, max_age_bars: float
) -> datetime | None:
    if newest is None or not market.is_live:
        return None
    closed = newest.bar + service.timeframe.step
    return fresh_until(closed, service.timeframe, market.calendar, max_age_bars)


def _read_skill(bar: datetime, performance: Mapping[str, Any]) -> LiveSkill | None:
    figures = from_json(dict(performance))
    for measure in figures.get("measures", ()):
        if measure["name"] == "skill":
            return LiveSkill(measure["value"], measure["low"], measure["high"], bar)
    return None


def _describe_rollout(reading: Reading, row: Rollout) -> RolloutOverview:
    plan = RolloutPlan.from_dict(row.plan)
    began = row.id in {rollout.id for rollout in reading.open}
    return RolloutOverview(
        rollout_id=row.id,
        service=row.service,
        strategy=row.strategy,
        model_id=row.to_version,
        from_model_id=row.from_version,
        phase=str(row.phase),
        step=row.step,
        shares=tuple(weight / EVERYTHING_BP for weight in plan.weights_bp),
        since=row.since,
        deadline=row.deadline,
        reason=row.reason,
        requested_by=row.requested_by,
        evidence=str(reading.snapshot_of(row).verdict) if began else "",
    )


def _list_versions(store: Store) -> tuple[VersionOverview, ...]:
    rows = list_version_page(store, limit=NEWEST).rows
    reports = read_refusals(store, [row.model_id for row in rows])
    return tuple(VersionOverview(row, _find_refusals(reports.get(row.model_id))) for row in rows)


def _find_refusals(report: Mapping[str, Any] | None) -> tuple[str, ...]:
    return () if report is None else GateReport.from_dict(report).reasons
