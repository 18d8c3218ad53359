"""Outcomes meet their forecasts: by service and bar, once, when the outcome is known.

    bars of a service -> labels, naive forecasts -> what is new, revised, missing -> store

The policy. An outcome is known when the last bar of its horizon has closed before ``now`` and is
there. One that is due but cannot be made, because bars are missing, waits: ``patience_bars`` bars
of the market's own calendar after it was due it is marked missing, and stays so unless its bars
come after all. Bars that were corrected replace an outcome; the first value is kept and the
revision counted. What was forecast, by a version or by the declared baseline, is never changed.

Only the last ``lookback_bars`` bars are looked at again, so that an hour costs the same however
long a service has lived; a look with a longer one finds what came later than that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from mlops.errors import ModelError, StoreError
from mlops.features.dataset import Dataset
from mlops.models.base import build_forecaster, default_recipe, forecaster_class
from mlops.models.baselines import Baseline
from mlops.models.recipe import Recipe
from mlops.service import Service
from mlops.store import ModelVersion, Store, get_version, list_routes
from mlops.store.outcome_writes import Changes, OutcomeBatch, Written, write_changes
from mlops.store.outcomes import RecordedOutcomes, TimeArray, read_recorded

log = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

PATIENCE_BARS = 24
"""An outcome that is so many bars overdue is marked missing."""
LOOKBACK_BARS = 1000
"""Bars that are looked at again for late and corrected bars; six weeks of hours."""

SAME_SHARE, SAME_VALUE = 1e-9, 1e-12
"""Two values as near as this, relatively or absolutely, differ by rounding and not by a bar."""


@dataclass(frozen=True, slots=True, eq=False)
class ServiceBars:
    """One service's bars as they are known now, and what its declared baseline says of each.

    ``baseline`` (N,) is NaN where no forecast can be made. Bars before the first that has one
    are history and are not looked at.
    """

    service: Service
    dataset: Dataset
    baseline: FloatArray

    @classmethod
    def of(cls, service: Service, dataset: Dataset, baseline: Recipe) -> ServiceBars:
        """With the forecasts of a naive recipe, which learns nothing."""
        return cls(service, dataset, build_forecaster(baseline, dataset.target).forecast(dataset))


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """What one look changed for a service: how many bars (not forecasts) of each kind.

    ``waiting`` are overdue and not given up; ``trouble`` says why nothing was looked at.
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
    """Match all services of a store; one service's trouble leaves the others alone.

    ``bars_of`` gives a service's bars, warm-up included, and None where nobody keeps any: its
    forecasts wait. ``now`` is market time; later bars are not looked at.
    """
    sightings: list[ServiceBars] = []
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
            sightings.append(ServiceBars.of(service, dataset, baseline))
        except Exception as error:
            # Nothing that one market's bars do may leave the others without outcomes.
            about = {"service": route.service}
            log.exception("service=%s outcomes were not matched", route.service, extra=about)
            troubles[route.service] = f"{type(error).__name__}: {error}"
    found = match_bars(
        store, sightings, now=now, patience_bars=patience_bars, lookback_bars=lookback_bars
    )
    by_service = {matching.service: matching for matching in found}
    return tuple(
        by_service.get(route.service)
        or Matching(service=route.service, trouble=troubles[route.service])
        for route in routes
    )


def match_bars(
    store: Store,
    sightings: Sequence[ServiceBars],
    *,
    now: datetime,
    patience_bars: int = PATIENCE_BARS,
    lookback_bars: int | None = LOOKBACK_BARS,
) -> tuple[Matching, ...]:
    """As `match_outcomes`, of bars that are at hand; ``lookback_bars=None`` looks at them all."""
    plans = [
        _plan(store, sighting, now=now, patience_bars=patience_bars, lookback_bars=lookback_bars)
        for sighting in sightings
    ]
    written = write_changes(store, [plan.changes for plan in plans], at=now)
    return tuple(_counted(plan, done) for plan, done in zip(plans, written, strict=True))


def naive_recipe(baseline: ModelVersion, dataset: Dataset) -> Recipe:
    """The recipe of a service's declared baseline: its forecasts need the bars and no bundle.

    Raises:
        ModelError: where the version is not a naive one.
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
    """What a look would change, and how many bars are overdue and still waited for."""

    changes: Changes
    waiting: int = 0


def plan_changes(
    standing: RecordedOutcomes, sighting: ServiceBars, *, now: datetime, patience_bars: int
) -> OutcomeChanges:
    """Compare what is on record with what the bars say now; pure."""
    dataset = sighting.dataset
    labels, opened = dataset.labels, dataset.bars.open_time.astype("datetime64[us]")
    moment = _naive(now)
    rows = np.minimum(np.searchsorted(opened, standing.bar), len(opened) - 1)
    # What is not a time compares as false: a label that does not exist is not known.
    known = (opened[rows] == standing.bar) & (labels.known_at[rows] <= moment)
    value = np.where(known, labels.y[rows], np.nan)
    known &= np.isfinite(value)

    def labelled(which: BoolArray) -> OutcomeBatch:
        chosen = rows[which]
        return OutcomeBatch(
            bar=standing.bar[which],
            known_at=labels.known_at[chosen],
            value=value[which],
            persistence=labels.persistence[chosen],
            baseline=sighting.baseline[chosen],
            next_return=dataset.next_returns[chosen],
        )

    had = np.isfinite(standing.value)
    same = np.isclose(value, standing.value, rtol=SAME_SHARE, atol=SAME_VALUE)
    revised = known & had & ~same
    overdue = _bars_overdue(standing.bar, sighting, moment)
    late = ~known & ~standing.recorded & (overdue >= 0)
    given_up = late & (overdue >= patience_bars)
    return OutcomeChanges(
        Changes(
            service=sighting.service.key,
            new=labelled(known & ~standing.recorded),
            arrived=labelled(known & standing.recorded & ~had),
            revised=labelled(revised),
            revisions=standing.revisions[revised],
            missing=standing.bar[given_up],
        ),
        waiting=int(late.sum() - given_up.sum()),
    )


def _plan(
    store: Store,
    sighting: ServiceBars,
    *,
    now: datetime,
    patience_bars: int,
    lookback_bars: int | None,
) -> OutcomeChanges:
    since = _first_bar(sighting, now, lookback_bars)
    if since is None:
        return OutcomeChanges(_nothing(sighting.service))
    standing = read_recorded(store, sighting.service.key, since=since, until=now)
    return plan_changes(standing, sighting, now=now, patience_bars=patience_bars)


def _first_bar(sighting: ServiceBars, now: datetime, lookback_bars: int | None) -> datetime | None:
    """The open of the first bar that is looked at; None where no bar has its history."""
    ready = np.isfinite(sighting.baseline) & np.isfinite(sighting.dataset.persistence)
    if not ready.any():
        return None
    opened = sighting.dataset.bars.open_time
    first = int(np.argmax(ready))
    if lookback_bars is not None:
        known = int(np.searchsorted(opened, _naive(now)))
        first = max(first, min(known, len(opened)) - lookback_bars)
    moment: datetime = opened[first].astype("datetime64[us]").item()
    return moment.replace(tzinfo=UTC)


def _bars_overdue(bar: TimeArray, sighting: ServiceBars, now: np.datetime64) -> NDArray[np.int64]:
    """Bars the market could have traded since each outcome was due (n,); below 0 before."""
    step = np.timedelta64(sighting.dataset.step)
    closes: TimeArray = np.add(bar.astype("datetime64[ns]"), step)
    passed = sighting.dataset.calendar.missing_between(
        closes, np.full(len(bar), now), sighting.dataset.timeframe
    )
    overdue: NDArray[np.int64] = passed - sighting.service.horizon
    return overdue


def _counted(plan: OutcomeChanges, done: Written) -> Matching:
    matching = Matching(
        service=plan.changes.service,
        new=done.new,
        arrived=done.arrived,
        revised=done.revised,
        missing=done.missing,
        waiting=plan.waiting,
    )
    if len(plan.changes):
        log.info(
            "service=%s outcomes new=%d arrived=%d revised=%d missing=%d waiting=%d",
            matching.service,
            matching.new,
            matching.arrived,
            matching.revised,
            matching.missing,
            matching.waiting,
            extra={"service": matching.service},
        )
    return matching


def _nothing(service: Service) -> Changes:
    none = np.empty(0)
    never = np.empty(0, dtype="datetime64[us]")
    empty = OutcomeBatch(never, never, none, none, none, none)
    return Changes(service.key, empty, empty, empty, np.empty(0, dtype=np.int64), never)


def _naive(now: datetime) -> np.datetime64:
    if now.tzinfo is None:
        raise StoreError(f"time {now.isoformat()} has no zone; pass an aware UTC datetime")
    return np.datetime64(now.astimezone(UTC).replace(tzinfo=None), "us")
