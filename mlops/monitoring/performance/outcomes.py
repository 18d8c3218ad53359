"""Joins forecasts with their outcomes: once for each service and bar, when the outcome is known.

    bars of a service -> labels, naive forecasts -> new, revised and missing outcomes -> store

An outcome is known when the last bar of its horizon has closed before ``now`` and is there. An
outcome that is due but lacks bars waits. ``patience_bars`` bars of the market's calendar after it
was due it is marked missing, and stays so unless its bars arrive after all. Corrected bars replace
an outcome; its first value is kept and the revision counted. A forecast of a version or of the
declared baseline is never changed.

Only the last ``lookback_bars`` bars are read again, so that an hour costs the same however long a
service has lived. A run with a larger lookback finds what arrived later than that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import numpy as np

from mlops.arrays import BoolArray, FloatArray, IntArray, TimeArray, naive_utc
from mlops.errors import ModelError, StoreError
from mlops.features.dataset import Dataset
from mlops.models.base import build_forecaster, default_recipe, forecaster_class
from mlops.models.baselines import Baseline
from mlops.models.recipe import Recipe
from mlops.service import Service
from mlops.store import ModelVersion, Store, get_version, list_routes
from mlops.store.outcome_writes import OutcomeBatch, ServiceOutcomeChanges, write_outcomes
from mlops.store.outcomes import RecordedOutcomes, read_recorded

log = logging.getLogger(__name__)


PATIENCE_BARS = 24
"""An outcome that is this many bars overdue is marked missing."""
LOOKBACK_BARS = 1000
"""Bars that are read again for late and corrected bars; six weeks of hours."""

SAME_SHARE, SAME_VALUE = 1e-9, 1e-12
"""Values nearer than this, relatively or absolutely, differ by rounding only."""


@dataclass(frozen=True, slots=True, eq=False)
class ServiceBars:
    """The bars of a service, and the forecasts of its declared baseline.

    Attributes:
        baseline: Forecast of each bar (N,); NaN where none can be made. Bars before the first
            forecast are history and get no outcome.
    """

    service: Service
    dataset: Dataset
    baseline: FloatArray

    @classmethod
    def of(cls, service: Service, dataset: Dataset, baseline: Recipe) -> ServiceBars:
        """Make the baseline's forecasts by a naive recipe, which needs no fit."""
        return cls(service, dataset, build_forecaster(baseline, dataset.target).forecast(dataset))


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """What one run changed for a service, in bars (not forecasts).

    Attributes:
        waiting: Bars whose outcome is overdue and not yet marked missing.
        trouble: Why nothing was matched; empty where something was.
    """

    service: str
    new: int = 0
    arrived: int = 0
    revised: int = 0
    missing: int = 0
    waiting: int = 0
    trouble: str = ""


def match_outcomes(
    store: Store,
    bars_of: Callable[[Service], Dataset | None],
    *,
    now: datetime,
    patience_bars: int = PATIENCE_BARS,
    lookback_bars: int | None = LOOKBACK_BARS,
) -> tuple[Matching, ...]:
    """Match all services of a store; an error in one service does not stop the others.

    Args:
        bars_of: Gives the bars of a service, warm-up included. None where no bars are kept: its
            forecasts wait.
        now: Market time; later bars are not read.
    """
    services: list[ServiceBars] = []
    troubles: dict[str, str] = {}
    routes = list_routes(store)
    for route in routes:
        try:
            service = Service.parse(route.service)
            dataset = bars_of(service)
            if dataset is None:
                troubles[route.service] = "nobody keeps bars of this market here"
                continue
            baseline = naive_recipe(get_version(store, route.baseline), dataset)
            services.append(ServiceBars.of(service, dataset, baseline))
        except Exception as error:
            # An error in the bars of one market must not leave the others without outcomes.
            log.exception(
                "service=%s outcomes were not matched",
                route.service,
                extra={"service": route.service},
            )
            troubles[route.service] = f"{type(error).__name__}: {error}"
    matchings = match_bars(
        store, services, now=now, patience_bars=patience_bars, lookback_bars=lookback_bars
    )
    by_service = {matching.service: matching for matching in matchings}
    return tuple(
        by_service.get(route.service)
        or Matching(service=route.service, trouble=troubles[route.service])
        for route in routes
    )


def match_bars(
    store: Store,
    services: Sequence[ServiceBars],
    *,
    now: datetime,
    patience_bars: int = PATIENCE_BARS,
    lookback_bars: int | None = LOOKBACK_BARS,
) -> tuple[Matching, ...]:
    """As `match_outcomes`, for services whose bars are read already.

    Args:
        lookback_bars: None reads all bars again.
    """
    plans = [
        _plan_service(
            store, bars, now=now, patience_bars=patience_bars, lookback_bars=lookback_bars
        )
        for bars in services
    ]
    matchings = []
    all_written = write_outcomes(store, [plan.changes for plan in plans], at=now)
    for plan, written in zip(plans, all_written, strict=True):
        service = plan.changes.service
        matchings.append(Matching(service=service, waiting=plan.waiting, **asdict(written)))
        if len(plan.changes):
            log.info(
                "service=%s outcomes new=%d arrived=%d revised=%d missing=%d waiting=%d",
                service,
                written.new,
                written.arrived,
                written.revised,
                written.missing,
                plan.waiting,
                extra={"service": service},
            )
    return tuple(matchings)


def naive_recipe(baseline: ModelVersion, dataset: Dataset) -> Recipe:
    """The recipe of a declared baseline, which forecasts from the bars without a bundle.

    Raises:
        ModelError: when the version is no naive forecaster.
    """
    if not issubclass(forecaster_class(baseline.model_type), Baseline):
        raise ModelError(
            f"the baseline {baseline.model_id} is a {baseline.model_type}, whose forecasts are not "
            "known from the bars alone; declare a naive one such as persistence"
        )
    noted = baseline.notes.get("recipe")
    if noted is not None:
        return Recipe.from_dict(noted)
    return default_recipe(baseline.model_type, dataset.target)


@dataclass(frozen=True, slots=True, eq=False)
class OutcomeChanges:
    """What a run would change, and the bars whose outcome is overdue and not yet missing."""

    changes: ServiceOutcomeChanges
    waiting: int = 0


def plan_changes(
    recorded: RecordedOutcomes, bars: ServiceBars, *, now: datetime, patience_bars: int
) -> OutcomeChanges:
    """Compare the outcomes on record with those of the bars as they are now. Pure.

    Args:
        recorded: The outcomes on record, one for each bar with a forecast.
    """
    dataset = bars.dataset
    labels, opened = dataset.labels, dataset.bars.open_time.astype("datetime64[us]")
    moment = _naive_utc(now)
    rows = np.minimum(np.searchsorted(opened, recorded.bar), len(opened) - 1)
    # NaT compares as false, so a label that does not exist is not known.
    known = (opened[rows] == recorded.bar) & (labels.known_at[rows] <= moment)
    value = np.where(known, labels.y[rows], np.nan)
    known &= np.isfinite(value)

    def batch_of(chosen: BoolArray) -> OutcomeBatch:
        row = rows[chosen]
        return OutcomeBatch(
            bar=recorded.bar[chosen],
            known_at=labels.known_at[row],
            value=value[chosen],
            persistence=labels.persistence[row],
            baseline=bars.baseline[row],
            next_return=dataset.next_returns[row],
        )

    was_known = np.isfinite(recorded.value)
    same = np.isclose(value, recorded.value, rtol=SAME_SHARE, atol=SAME_VALUE)
    revised = known & was_known & ~same
    overdue = _bars_overdue(recorded.bar, bars, moment)
    late = ~known & ~recorded.recorded & (overdue >= 0)
    given_up = late & (overdue >= patience_bars)
    return OutcomeChanges(
        ServiceOutcomeChanges(
            service=bars.service.key,
            new=batch_of(known & ~recorded.recorded),
            arrived=batch_of(known & recorded.recorded & ~was_known),
            revised=batch_of(revised),
            revisions=recorded.revisions[revised],
            missing=recorded.bar[given_up],
        ),
        waiting=int(late.sum() - given_up.sum()),
    )


def _plan_service(
    store: Store,
    bars: ServiceBars,
    *,
    now: datetime,
    patience_bars: int,
    lookback_bars: int | None,
) -> OutcomeChanges:
    since = _first_bar(bars, now, lookback_bars)
    if since is None:
        none, never = np.empty(0), np.empty(0, dtype="datetime64[us]")
        empty = OutcomeBatch(never, never, none, none, none, none)
        revisions = np.empty(0, dtype=np.int64)
        return OutcomeChanges(
            ServiceOutcomeChanges(bars.service.key, empty, empty, empty, revisions, never)
        )
    recorded = read_recorded(store, bars.service.key, since=since, until=now)
    return plan_changes(recorded, bars, now=now, patience_bars=patience_bars)


def _first_bar(bars: ServiceBars, now: datetime, lookback_bars: int | None) -> datetime | None:
    """The open of the first bar to match; None where no bar has the history of a forecast."""
    ready = np.isfinite(bars.baseline) & np.isfinite(bars.dataset.persistence)
    if not ready.any():
        return None
    opened = bars.dataset.bars.open_time
    first = int(np.argmax(ready))
    if lookback_bars is not None:
        known = int(np.searchsorted(opened, _naive_utc(now)))
        first = max(first, min(known, len(opened)) - lookback_bars)
    moment: datetime = opened[first].astype("datetime64[us]").item()
    return moment.replace(tzinfo=UTC)


def _bars_overdue(bar: TimeArray, bars: ServiceBars, now: np.datetime64) -> IntArray:
    """Bars that the market could trade since each outcome was due (n,); negative before."""
    step = np.timedelta64(bars.dataset.step)
    closes: TimeArray = np.add(bar.astype("datetime64[ns]"), step)
    passed = bars.dataset.calendar.missing_between(
        closes, np.full(len(bar), now), bars.dataset.timeframe
    )
    overdue: IntArray = passed - bars.service.horizon
    return overdue


def _naive_utc(now: datetime) -> np.datetime64:
    if now.tzinfo is None:
        raise StoreError(f"time {now.isoformat()} has no zone; pass an aware UTC datetime")
    return naive_utc(now, "us")
