"""The forecast of the newest complete bar: computed once a bar, kept in memory, stored.

    bars on disk -> window -> champion (and challenger beside it) -> spool -> published -> store

The first forecast of record that reaches the store stands, whichever replica made it; a replica
that comes later publishes that one. `record_order` says how long a bar waits for its champion; a
champion that comes after another version went on record is stored beside the record. Where champion
or challenger has no forecast of a bar, `forecast_gaps` stores why.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson
import pandas as pd

from mlops.data.bars import content_hash
from mlops.data.calendar import load_calendar
from mlops.data.market_clock import wall_seconds
from mlops.data.quality import fresh_until
from mlops.data.recent_bars import KnownBars, RecentBars
from mlops.errors import MlopsError, ModelFault, NotLoaded, ServingError, StoreError
from mlops.logs import RepeatedLines, bound
from mlops.models.windows import Window, window_of
from mlops.service import Service
from mlops.serving.dispatcher import last_forecast, variant_of
from mlops.serving.engine.batcher import Batcher
from mlops.serving.engine.model_pool import LoadedModel, ModelPool
from mlops.serving.forecast_gaps import GapRecorder, list_arms, reason_of_fault
from mlops.serving.forecast_interval import error_quantiles
from mlops.serving.forecast_spool import ForecastSpool
from mlops.serving.record_order import RecordOrder, longest_wait_s, order_for_record
from mlops.serving.route_view import RouteView
from mlops.store import (
    ForecastRow,
    ModelVersion,
    Route,
    Store,
    list_forecasts,
    list_replicas,
)
from mlops.store.ab_tests import GapReason
from mlops.store.forecasts import Role
from mlops.store.judgements import find_fitted_until
from mlops.store.replicas import ReplicaState

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Seconds between two looks for new bars."""

AWAY_S = 4.0
"""A store that was last read longer ago is not asked for the forecasts of other replicas."""


@dataclass(frozen=True, slots=True)
class PublishedForecast:
    """A forecast as it is handed out.

    Args:
        fresh_until: The `time.time` second from which its bar is too old.
        closed_at: When its bar closed, UTC.
        body: The JSON answer of ``GET /services/{service}/forecast``.
    """

    row: ForecastRow
    variant: str
    fresh_until: float
    closed_at: datetime
    body: bytes

    @property
    def fresh(self) -> bool:
        """Whether its bar is still new enough."""
        return time.time() < self.fresh_until


@dataclass(frozen=True, slots=True)
class NewestBar:
    """What this replica has done for the newest bar of a service.

    Args:
        seen_at: The `time.monotonic` second at which this replica first saw the bar.
        longest_s: Seconds for which the bar may wait for its champion.
        arms: The champions and challengers of the route since then that this replica should hold.
        forecast_by: The versions that have a forecast of the bar, or failed to make one.
    """

    bar: pd.Timestamp
    seen_at: float
    longest_s: float
    arms: set[str] = field(default_factory=set)
    forecast_by: set[str] = field(default_factory=set)


class ForecastPublisher:
    """Forecasts each new bar of each service; requests read `latest`.

    Args:
        route_view: Returns the routes as this replica last read them.
        versions: The store's row of each loaded version.
        budget_s: Seconds that a version may take.
        max_age_bars: Age in bars from which a bar is too old to forecast from.
        feed_trouble: Says why no new bars of a service come; empty where nothing is wrong.
    """

    def __init__(
        self,
        *,
        replica_id: str,
        store: Store,
        pool: ModelPool,
        batcher: Batcher,
        bars: RecentBars,
        spool: ForecastSpool,
        route_view: Callable[[], RouteView],
        versions: Mapping[str, ModelVersion],
        budget_s: float,
        max_age_bars: float,
        feed_trouble: Callable[[Service], str],
    ) -> None:
        self.replica_id = replica_id
        self.store = store
        self.pool = pool
        self.batcher = batcher
        self.bars = bars
        self.spool = spool
        self.route_view = route_view
        self.versions = versions
        self.budget_s = budget_s
        self.max_age_bars = max_age_bars
        self.feed_trouble = feed_trouble
        self.gaps = GapRecorder(
            replica_id=replica_id, store=store, spool=spool, is_store_away=self._is_store_away
        )
        self.reasons_missing: dict[str, str] = {}
        self._published: dict[str, PublishedForecast] = {}
        self._unconfirmed: set[str] = set()
        self._newest: dict[str, NewestBar] = {}
        self._lines = RepeatedLines(log)
        self._quantiles: dict[str, tuple[float, float] | None] = {}

    def latest(self, service: str) -> PublishedForecast | None:
        """The forecast published last; None before the first, see `reasons_missing`."""
        return self._published.get(service)

    async def run(self) -> None:
        """Update each service every `LOOK_S` seconds, until cancelled."""
        while True:
            for route in [state.route for state in self.route_view().routes.values()]:
                with bound(service=route.service, model_id=route.champion):
                    try:
                        await self.update(route)
                    except MlopsError as error:
                        self._note_missing(route.service, str(error))
                    except Exception:
                        # The bars of one market must not end the forecasts of the others.
                        if self._note_missing(route.service, "this replica failed; see its log"):
                            log.exception("service=%s no forecast", route.service)
            await asyncio.sleep(LOOK_S)

    async def update(self, route: Route) -> None:
        """Forecast from the newest bar, unless that was done before.

        Raises:
            ServingError: when no version answers, or the spool is full.
            StoreError: when the store is away and the markets were not read before.
        """
        service = Service.parse(route.service)
        recent = await asyncio.to_thread(self.bars.load, service)
        if recent is None:
            why = self.feed_trouble(service) or self.bars.describe_missing(service)
            self._note_missing(route.service, why)
            return
        # Sessions that were not read before take up to a second.
        newest = await asyncio.to_thread(self._open_newest, route.service, service, recent)
        newest.arms.update(list_arms(route, self.replica_id))
        try:
            await self._publish_newest(route, service, recent, newest)
        except MlopsError:
            # The other arm's forecast must not depend on the one that failed.
            await self._forecast_beside(route, service, recent, newest)
            raise
        await self._forecast_beside(route, service, recent, newest)

    async def _publish_newest(
        self, route: Route, service: Service, recent: KnownBars, newest: NewestBar
    ) -> None:
        """Put a forecast of the newest bar on record, or publish the one that is."""
        published = self._published.get(route.service)
        if published is None or pd.Timestamp(published.row.bar) != newest.bar:
            await self._publish(route, service, recent, newest)
        else:
            await self._confirm(route, service, recent)
            self._note_feed_trouble(service, published)

    def _open_newest(self, key: str, service: Service, recent: KnownBars) -> NewestBar:
        """What was done for the newest bar; nothing yet where this replica sees it first now."""
        known, bar = self._newest.get(key), recent.frame.index[-1]
        if known is None or known.bar != bar:
            if known is not None:
                never = dict.fromkeys(known.arms, GapReason.NOT_LOADED)
                self._record_gaps(key, known, never)
            step = service.timeframe.step
            bar_s = wall_seconds(recent.market, step)
            if math.isinf(bar_s):  # market time stands still, and the champion may never come
                bar_s = step.total_seconds()
            longest_s = longest_wait_s(bar_s, self._fresh_s(service, recent))
            known = self._newest[key] = NewestBar(bar, time.monotonic(), longest_s)
        return known

    def _record_gaps(
        self, service: str, newest: NewestBar, reasons: Mapping[str, GapReason]
    ) -> bool:
        """Store why arms have no forecast of a bar; False where the spool has no room.

        Versions that are no arm, or of which all was stored, are passed over.
        """
        left = newest.arms - newest.forecast_by
        new = {model_id: reason for model_id, reason in reasons.items() if model_id in left}
        return self.gaps.record(service, newest.bar.to_pydatetime(), new)

    async def _note_fault(self, service: str, newest: NewestBar, fault: ModelFault) -> None:
        """Ask a version no more for a bar on which it failed, once the reason is stored."""
        reasons = {fault.model_id: reason_of_fault(fault)}
        if await asyncio.to_thread(self._record_gaps, service, newest, reasons):
            newest.forecast_by.add(fault.model_id)

    def _fresh_s(self, service: Service, recent: KnownBars) -> float:
        """Seconds of the wall clock until the newest bar is too old to forecast from."""
        market, closed = recent.market, recent.frame.index[-1] + service.timeframe.step
        limit = fresh_until(closed, service.timeframe, market.calendar, self.max_age_bars)
        return wall_seconds(market, limit - recent.now)

    async def _publish(
        self, route: Route, service: Service, recent: KnownBars, newest: NewestBar
    ) -> None:
        row = await asyncio.to_thread(self._read_stored_row, route, recent)
        if row is None:
            order = await asyncio.to_thread(self._decide_order, route, newest)
            if order.waits_for:
                self._note_missing(route.service, order.waits_for, level=logging.INFO)
                return
            row = await self._forecast_record(route, service, recent, newest, order)
            if not await asyncio.to_thread(self.spool.put, [row]):
                why = self.spool.trouble or "the spool is full"
                raise ServingError(f"{why}, and what is not on record is not published")
            self._unconfirmed.add(route.service)
        newest.forecast_by.add(row.model_id)
        published = await asyncio.to_thread(self._make_published, route, service, recent, row)
        self._published[route.service] = published
        self.reasons_missing.pop(route.service, None)
        self._lines.end(route.service)

    def _decide_order(self, route: Route, newest: NewestBar) -> RecordOrder:
        """Whose forecast of the newest bar goes on record now, by what all live replicas hold."""
        ready = self.pool.ready()
        # A replica without a row of the champion has not come to loading it yet.
        champion_states = {
            name: models.get(route.champion, "loading")
            for name, models in self._read_model_states(route, ready).items()
        }
        return order_for_record(
            route,
            ready,
            champion_states,
            waited_s=time.monotonic() - newest.seen_at,
            longest_s=newest.longest_s,
        )

    def _read_model_states(self, route: Route, ready: Collection[str]) -> dict[str, dict[str, str]]:
        """The states of the models of this replica and, unless the store is away, of all others."""
        own = {model_id: str(model.state) for model_id, model in self.pool.states().items()}
        if route.champion in ready or self._is_store_away():
            return {self.replica_id: own}
        try:
            replicas = list_replicas(self.store)
        except StoreError:
            replicas = ()
        others = {
            replica.id: {held.model_id: held.state for held in replica.models.values()}
            for replica in replicas
            if replica.state is not ReplicaState.DRAINING
        }
        return others | {self.replica_id: own}

    def _is_store_away(self) -> bool:
        """Whether the store may not answer at all, so that waiting for it would delay all."""
        return time.monotonic() - self.route_view().taken_at > AWAY_S

    def _note_feed_trouble(self, service: Service, published: PublishedForecast) -> None:
        """Keep why no bar has come after one that is too old, where that is known."""
        if published.fresh:
            trouble = ""
        else:
            trouble = self.feed_trouble(service) or self.bars.describe_stale(service)
        if trouble:
            self._note_missing(service.key, trouble)
        else:
            self.reasons_missing.pop(service.key, None)

    def _note_missing(self, service: str, reason: str, *, level: int = logging.WARNING) -> bool:
        """Keep why a bar has no forecast; True if it was logged, see `RepeatedLines`."""
        self.reasons_missing[service] = reason
        line = f"service={service} no forecast: {reason}"
        return self._lines.write(service, line, level=level)

    async def _confirm(self, route: Route, service: Service, recent: KnownBars) -> None:
        """Publish the row that the store kept: another replica's may have come first."""
        if route.service not in self._unconfirmed or self.spool.waiting():
            return
        row = await asyncio.to_thread(self._read_stored_row, route, recent)
        if row is None:
            return
        self._unconfirmed.discard(route.service)
        if row != self._published[route.service].row:
            published = await asyncio.to_thread(self._make_published, route, service, recent, row)
            self._published[route.service] = published

    def _read_stored_row(self, route: Route, recent: KnownBars) -> ForecastRow | None:
        """The stored forecast of the newest bar; None where there is none or the store is away."""
        if self._is_store_away():
            return None
        bar = recent.frame.index[-1].to_pydatetime()
        try:
            rows = list_forecasts(self.store, route.service, since=bar)
        except StoreError:
            return None
        return next((row for row in rows if row.bar == bar), None)

    async def _forecast_record(
        self,
        route: Route,
        service: Service,
        recent: KnownBars,
        newest: NewestBar,
        order: RecordOrder,
    ) -> ForecastRow:
        """The forecast of the first of the versions that does not fail on the bar."""
        last: ServingError | None = None
        for model_id in order.versions:
            try:
                return await self._forecast(route, service, recent, model_id, Role.RECORD)
            except ModelFault as error:
                await self._note_fault(route.service, newest, error)
                last = error
        raise last or ServingError("no version is ready")

    async def _forecast_beside(
        self, route: Route, service: Service, recent: KnownBars, newest: NewestBar
    ) -> None:
        """Store a forecast of champion and challenger beside the record, where they have none."""
        ready = self.pool.ready()
        for model_id in (route.champion, route.challenger):
            if model_id is None or model_id not in ready or model_id in newest.forecast_by:
                continue
            try:
                row = await self._forecast(route, service, recent, model_id, Role.SHADOW)
            except (ModelFault, NotLoaded) as error:
                log.warning(
                    "service=%s no forecast beside the record: %s",
                    route.service, error, extra={"service": route.service, "model_id": model_id},
                )  # fmt: skip
                if isinstance(error, ModelFault):
                    await self._note_fault(route.service, newest, error)
                continue
            if not await asyncio.to_thread(self.spool.put, [row]):
                return
            newest.forecast_by.add(model_id)

    async def _forecast(
        self, route: Route, service: Service, recent: KnownBars, model_id: str, role: Role
    ) -> ForecastRow:
        with self.pool.borrow(model_id) as model:
            frame = recent.frame.iloc[-model.warm_up :]
            window = newest_window(model, service, frame)
            forecasts = await self.batcher.forecast(model, window, timeout_s=self.budget_s)
            value = last_forecast(model, forecasts)
            quantiles = await asyncio.to_thread(self._error_quantiles, model)
        return ForecastRow(
            service=route.service,
            bar=frame.index[-1].to_pydatetime(),
            model_id=model_id,
            role=role,
            value=value,
            low=None if quantiles is None else value + quantiles[0],
            high=None if quantiles is None else value + quantiles[1],
            made_at=datetime.now(UTC),
            generation=route.generation,
            replica_id=self.replica_id,
            bars_digest=content_hash(frame),
        )

    def _error_quantiles(self, model: LoadedModel) -> tuple[float, float] | None:
        """`error_quantiles` of a model, cached."""
        if model.model_id not in self._quantiles:
            version = self.versions.get(model.model_id)
            fitted_until = None if version is None else find_fitted_until(version)
            self._quantiles[model.model_id] = error_quantiles(model.bundle, fitted_until)
        return self._quantiles[model.model_id]

    def _make_published(
        self, route: Route, service: Service, recent: KnownBars, row: ForecastRow
    ) -> PublishedForecast:
        step = service.timeframe.step
        closed = row.bar + step
        calendar = recent.market.calendar
        until = calendar.close_after(pd.Timestamp(closed), service.horizon, service.timeframe)
        variant = variant_of(route, row.model_id)
        body = {
            "service": row.service,
            "forecast": row.value,
            "low": row.low,
            "high": row.high,
            "bar": row.bar,
            "known_at": closed,
            "forecast_until": until.to_pydatetime(),
            "model_id": row.model_id,
            "variant": variant,
            "generation": row.generation,
            "data": recent.label,
        }
        return PublishedForecast(
            row=row,
            variant=variant,
            fresh_until=time.time() + self._fresh_s(service, recent),
            closed_at=closed,
            body=orjson.dumps(body),
        )


def newest_window(model: LoadedModel, service: Service, frame: pd.DataFrame) -> Window:
    """A frame of bars as a window; its holes follow the calendar that the model was trained on."""
    calendar = load_calendar(str(model.bundle.config["calendar"]))
    return window_of(frame, service.timeframe, calendar)
