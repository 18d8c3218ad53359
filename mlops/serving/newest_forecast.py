"""The forecast of the newest complete bar: computed once a bar, kept in memory, on record.

    bars on disk -> window -> champion (and challenger beside it) -> spool -> published -> store

The first forecast of record of a bar stands, whichever replica made it; a replica that comes
later publishes that one.

[[The interval beside a forecast: where nine in ten of the version's errors have lain.]]
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import orjson
import pandas as pd

from mlops.data.bars import content_hash
from mlops.data.calendar import load_calendar
from mlops.data.market_clock import market_speed
from mlops.data.recent_bars import Recent, RecentBars
from mlops.errors import MlopsError, ModelFault, NotLoaded, ServingError, StoreError
from mlops.logs import bound
from mlops.models import manifest
from mlops.models.bundle import Bundle, read_tensors
from mlops.models.windows import Window, window_of
from mlops.rollout.routing import ask_order
from mlops.service import Service, Target
from mlops.serving.dispatcher import last_of, variant_of
from mlops.serving.engine.batcher import Batcher
from mlops.serving.engine.model_pool import LoadedModel, ModelPool
from mlops.serving.forecast_spool import ForecastSpool
from mlops.serving.route_view import RouteView
from mlops.store import ForecastRow, ModelVersion, Role, Route, Store, list_forecasts

COVERED = 0.9
MIN_ERRORS = 100
"""Errors below which no interval is given."""


def error_quantiles(bundle: Bundle, notes: Mapping[str, object]) -> tuple[float, float] | None:
    """The 5 % and 95 % quantiles of outcome less forecast on the bundle's reference bars.

    Only bars the version was not fitted on count, where enough are there: errors of fitted bars
    are too small. None for a direction, whose forecast is a probability already.
    """
    if bundle.service.target is Target.DIRECTION:
        return None
    table = read_tensors(bundle.path / manifest.REFERENCE)
    errors = table["y"] - table["forecast"]
    fitted = notes.get("fitted_until")
    if isinstance(fitted, str):
        new = table["open_time"] > int(datetime.fromisoformat(fitted).timestamp() * 1e9)
        if new.sum() >= MIN_ERRORS:
            errors = errors[new]
    errors = errors[np.isfinite(errors)]
    if len(errors) < MIN_ERRORS:
        return None
    low, high = np.quantile(errors, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return float(low), float(high)


log = logging.getLogger(__name__)

LOOK_S = 1.0
AWAY_S = 4.0
"""A store that has not been read for so long is not asked what others have forecast."""


@dataclass(frozen=True, slots=True)
class Published:
    """A forecast as it is handed out; it is fresh until that `time.time` second."""

    row: ForecastRow
    variant: str
    fresh_until: float
    closed_at: datetime
    body: bytes

    @property
    def fresh(self) -> bool:
        return time.time() < self.fresh_until


class ForecastPublisher:
    """Looks for new bars and forecasts from them; `of` is what requests read.

    ``versions`` gives the store's row of a loaded version; a bar older than ``max_age_bars``
    bars is stale.
    """

    def __init__(
        self,
        *,
        replica_id: str,
        store: Store,
        shelf: ModelPool,
        batcher: Batcher,
        bars: RecentBars,
        spool: ForecastSpool,
        sight: Callable[[], RouteView],
        versions: Mapping[str, ModelVersion],
        budget_s: float,
        max_age_bars: float,
    ) -> None:
        self.replica_id = replica_id
        self.store = store
        self.shelf = shelf
        self.batcher = batcher
        self.bars = bars
        self.spool = spool
        self.sight = sight
        self.versions = versions
        self.budget_s = budget_s
        self.max_age_bars = max_age_bars
        self._published: dict[str, Published] = {}
        self._unconfirmed: set[str] = set()
        self._shadowed: dict[str, tuple[str, pd.Timestamp]] = {}
        self._quantiles: dict[str, tuple[float, float] | None] = {}
        self.waiting_for: dict[str, str] = {}

    def of(self, service: str) -> Published | None:
        """What was published last."""
        return self._published.get(service)

    async def run(self) -> None:
        """Look again and again; one service in trouble does not hold the others up."""
        while True:
            for sighted in tuple(self.sight().routes.values()):
                route = sighted.route
                with bound(service=route.service, model_id=route.champion):
                    await self._update_safely(route)
            await asyncio.sleep(LOOK_S)

    async def _update_safely(self, route: Route) -> None:
        try:
            await self.update(route)
        except MlopsError as error:
            self.waiting_for[route.service] = str(error)
            log.warning("service=%s no forecast: %s", route.service, error)
        except Exception:
            # Nothing that one market's bars do may end the forecasts of the others.
            self.waiting_for[route.service] = "this replica failed; see its log"
            log.exception("service=%s no forecast", route.service)

    async def update(self, route: Route) -> None:
        """Forecast from the newest bar where that has not been done."""
        version = self.versions.get(route.champion)
        if version is None:
            return
        service = Service.parse(route.service)
        recent = await asyncio.to_thread(self.bars.of, service, version.notes)
        if recent is None:
            self.waiting_for[route.service] = "nobody keeps bars of this market here"
            return
        bar = recent.frame.index[-1]
        before = self._published.get(route.service)
        if before is None or pd.Timestamp(before.row.bar) != bar:
            await self._publish(route, service, recent)
        elif route.service in self._unconfirmed:
            await self._confirm(route, service, recent)
        await self._shadow(route, service, recent)

    async def _publish(self, route: Route, service: Service, recent: Recent) -> None:
        row = await asyncio.to_thread(self._on_record, route, recent)
        if row is None:
            row = await self._champion_row(route, service, recent)
            if not await asyncio.to_thread(self.spool.put, [row]):
                raise ServingError("the spool is full, and what is not on record is not published")
            self._unconfirmed.add(route.service)
        self._published[route.service] = self._finished(route, service, recent, row)
        self.waiting_for.pop(route.service, None)

    async def _confirm(self, route: Route, service: Service, recent: Recent) -> None:
        """Once it has arrived, hand out what stands: another replica may have been first."""
        if self.spool.waiting():
            return
        row = await asyncio.to_thread(self._on_record, route, recent)
        if row is None:
            return
        self._unconfirmed.discard(route.service)
        if row != self._published[route.service].row:
            self._published[route.service] = self._finished(route, service, recent, row)

    def _on_record(self, route: Route, recent: Recent) -> ForecastRow | None:
        """What another replica has said of this bar; None also where the store is away."""
        if time.monotonic() - self.sight().taken_at > AWAY_S:
            # It may be silent: a question would hold up the forecast for as long as it is.
            return None
        bar = recent.frame.index[-1].to_pydatetime()
        try:
            found = list_forecasts(self.store, route.service, since=bar)
        except StoreError:
            return None
        return next((row for row in found if row.bar == bar), None)

    async def _champion_row(self, route: Route, service: Service, recent: Recent) -> ForecastRow:
        last: ServingError | None = None
        for model_id in ask_order(route, self.shelf.ready(), challenger_first=False):
            try:
                return await self._row(route, service, recent, model_id, Role.RECORD)
            except (ModelFault, NotLoaded) as error:
                last = error
        raise last or ServingError("no version is ready")

    async def _shadow(self, route: Route, service: Service, recent: Recent) -> None:
        """What the challenger would have said of the same bar."""
        challenger, bar = route.challenger, recent.frame.index[-1]
        if challenger is None or challenger not in self.shelf.ready():
            return
        if self._shadowed.get(route.service) == (challenger, bar):
            return
        try:
            row = await self._row(route, service, recent, challenger, Role.SHADOW)
            await asyncio.to_thread(self.spool.put, [row])
        except (ModelFault, NotLoaded) as error:
            about = {"service": route.service, "model_id": challenger}
            log.warning("service=%s no shadow forecast: %s", route.service, error, extra=about)
        self._shadowed[route.service] = (challenger, bar)

    async def _row(
        self, route: Route, service: Service, recent: Recent, model_id: str, role: Role
    ) -> ForecastRow:
        with self.shelf.borrow(model_id) as model:
            frame = recent.frame.iloc[-model.warm_up :]
            window = newest_window(model, service, frame)
            forecasts = await self.batcher.forecast(model, window, timeout_s=self.budget_s)
            value = last_of(model, forecasts)
            low, high = await asyncio.to_thread(self._interval, model, value)
        return ForecastRow(
            service=route.service,
            bar=frame.index[-1].to_pydatetime(),
            model_id=model_id,
            role=role,
            value=value,
            low=low,
            high=high,
            made_at=datetime.now(UTC),
            generation=route.generation,
            replica_id=self.replica_id,
            bars_digest=content_hash(frame),
        )

    def _interval(self, model: LoadedModel, value: float) -> tuple[float | None, float | None]:
        if model.model_id not in self._quantiles:
            version = self.versions.get(model.model_id)
            notes = {} if version is None else version.notes
            self._quantiles[model.model_id] = error_quantiles(model.bundle, notes)
        found = self._quantiles[model.model_id]
        return (None, None) if found is None else (value + found[0], value + found[1])

    def _finished(
        self, route: Route, service: Service, recent: Recent, row: ForecastRow
    ) -> Published:
        step = service.timeframe.step
        closed = row.bar + step
        left = (closed + self.max_age_bars * step - recent.now).total_seconds()
        variant = variant_of(route, row.model_id)
        body = {
            "service": row.service,
            "forecast": row.value,
            "low": row.low,
            "high": row.high,
            "bar": row.bar,
            "known_at": closed,
            "forecast_until": closed + service.horizon * step,
            "model_id": row.model_id,
            "variant": variant,
            "generation": row.generation,
            "data": recent.label,
        }
        return Published(
            row=row,
            variant=variant,
            fresh_until=time.time() + left / market_speed(service.venue),
            closed_at=closed,
            body=orjson.dumps(body),
        )


def newest_window(model: LoadedModel, service: Service, frame: pd.DataFrame) -> Window:
    """The bars as the model's own calendar sees them."""
    calendar = load_calendar(str(model.bundle.config["calendar"]))
    return window_of(frame, service.timeframe, calendar)
