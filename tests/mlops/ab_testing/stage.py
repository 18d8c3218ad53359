"""A service with a running A/B test whose forecasts and outcomes a test writes row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from mlops.ab_testing.evaluation import look_at_test
from mlops.ab_testing.pair_reading import Arms, Readings, list_due_opens, read_test_bars
from mlops.arrays import FloatArray, TimeArray, naive_utc
from mlops.data.calendar import Calendar, load_calendar
from mlops.service import Service
from mlops.store import Phase, Rollout, Store, Why, get_route
from mlops.store.ab_tests import (
    AbLook,
    AbTest,
    ForecastGap,
    GapReason,
    get_test,
    insert_test,
    record_gaps,
)
from mlops.store.forecasts import ForecastRow, Role
from mlops.store.outcome_writes import OutcomeBatch, ServiceOutcomeChanges, write_outcomes
from mlops.store.rollouts import insert_rollout
from mlops.store.routes import begin_route
from mlops.store.schema import forecast
from mlops.store.versions import insert_version
from tests.mlops.monitoring.ticker import forecast_row
from tests.mlops.rollout.rows import make_version

HOUR = timedelta(hours=1)
START = datetime(2024, 1, 1, tzinfo=UTC)
"""Open of the first bar of every test, a Monday."""

CHAMPION, CHALLENGER = "champion", "challenger"
VOLATILITY = Service.of(
    venue="simulator", symbol="BTC/USD", timeframe="1h", target="volatility", horizon=1
)
WHY = Why(START, actor="anna", reason="a new recipe")
RECORD = {
    "blocks": 26,
    "block_bars": 336,
    "variance_difference": 1e-6,
    "variance_loss": 1e-6,
    "covariance": 0.0,
}


def hour(number: int) -> datetime:
    """The open of a bar, counted from the first of the test."""
    return START + number * HOUR


@dataclass
class Stage:
    """The rows of one test in a store, and its market."""

    store: Store
    service: Service = VOLATILITY
    calendar: Calendar = field(default_factory=lambda: load_calendar("24/7"))
    fitted_until: datetime | None = None
    test_id: str = ""

    @property
    def arms(self) -> Arms:
        return Arms(
            service=self.service,
            calendar=self.calendar,
            champion_id=CHAMPION,
            challenger_id=CHALLENGER,
            fitted_until=self.fitted_until,
        )

    @property
    def test(self) -> AbTest:
        return get_test(self.store, self.test_id)

    def begin_service(self) -> None:
        with self.store.write() as connection:
            for number, model_id in enumerate((CHAMPION, CHALLENGER), start=1):
                version = make_version(
                    model_id, number, service=self.service.key, trained_until=START, report=None
                )
                insert_version(connection, version, WHY)
            begin_route(connection, self.service.key, CHAMPION, WHY)

    def begin(self, *, hours: int = 1000, least: int = 24, **changes: Any) -> AbTest:
        """Begin the service and a test of so many bars, by rows alone."""
        if get_route(self.store, self.service.key) is None:
            self.begin_service()
        rollout = Rollout(
            id="rollout-1",
            service=self.service.key,
            strategy="ab_test",
            from_version=CHAMPION,
            to_version=CHALLENGER,
            plan={},
            phase=Phase.STEP,
            step=0,
            since=START,
            deadline=START + timedelta(days=400),
            reason="",
            abort_requested=None,
            forced=False,
            requested_by="anna",
            requested_why="",
            requested_at=START,
        )
        row = AbTest(
            id="ab-1",
            service=self.service.key,
            champion_id=CHAMPION,
            challenger_id=CHALLENGER,
            champion_is="a",
            name="",
            split_bp=5000,
            alpha=0.05,
            since_bar=START,
            min_until_bar=hour(least - 1),
            until_bar=hour(hours - 1),
            record=RECORD,
            promote=True,
            rollout_id=rollout.id,
            requested_by="anna",
            requested_why="",
            requested_at=START,
        )
        with self.store.write() as connection:
            insert_rollout(connection, rollout, WHY)
            insert_test(connection, replace(row, **changes), WHY)
        self.test_id = row.id
        return self.test

    def forecast(
        self,
        bars: Sequence[int],
        champion: float | FloatArray | None,
        challenger: float | FloatArray | None,
    ) -> None:
        """Forecasts of these bars by either arm; None where an arm made none."""
        rows = []
        for model_id, said, role in (
            (CHAMPION, champion, Role.RECORD),
            (CHALLENGER, challenger, Role.SHADOW),
        ):
            if said is None:
                continue
            values = np.broadcast_to(np.asarray(said, dtype=np.float64), (len(bars),))
            rows += [
                forecast_row(self.service, hour(bar), value=float(value), model_id=model_id,
                             role=role)
                for bar, value in zip(bars, values, strict=True)
            ]  # fmt: skip
        # At once: the production path writes row by row.
        values = [{name: getattr(row, name) for name in ForecastRow.__slots__} for row in rows]
        with self.store.write() as connection:
            connection.execute(forecast.insert(), values)

    def settle(
        self, bars: Sequence[int], value: float | FloatArray = 0.0, *, kind: str = "new"
    ) -> None:
        """Outcomes of these bars."""
        opened = np.array([naive_utc(hour(bar), "us") for bar in bars])
        size = len(bars)
        batch = OutcomeBatch(
            bar=opened,
            known_at=opened + np.timedelta64(self.service.horizon + 1, "h"),
            value=np.broadcast_to(np.asarray(value, dtype=np.float64), (size,)).copy(),
            persistence=np.linspace(1.0, 2.0, size),
            baseline=np.zeros(size),
            next_return=np.full(size, 0.01),
        )
        none = OutcomeBatch(*(column[:0] for column in _columns(batch)))
        kinds = {"new": none, "arrived": none, "revised": none} | {kind: batch}
        revisions = np.zeros(size if kind == "revised" else 0, dtype=np.int64)
        changes = ServiceOutcomeChanges(
            service=self.service.key, revisions=revisions, missing=opened[:0], **kinds
        )
        write_outcomes(self.store, [changes], at=START + timedelta(days=900))

    def lose(self, bars: Sequence[int]) -> None:
        """Mark the outcomes of these bars as missing."""
        opened = np.array([naive_utc(hour(bar), "us") for bar in bars])
        none = OutcomeBatch(opened[:0], opened[:0], *(np.empty(0) for _ in range(4)))
        changes = ServiceOutcomeChanges(
            service=self.service.key,
            new=none,
            arrived=none,
            revised=none,
            revisions=np.empty(0, dtype=np.int64),
            missing=opened,
        )
        write_outcomes(self.store, [changes], at=START + timedelta(days=900))

    def gaps(self, bars: Sequence[int], reason: GapReason, model_id: str = CHALLENGER) -> None:
        record_gaps(
            self.store,
            [
                ForecastGap(self.service.key, hour(bar), model_id, reason, "r0", START)
                for bar in bars
            ],
        )

    def due(self, bars: int) -> TimeArray:
        """Opens of the bars that are due when so many bars of the test have closed."""
        now = START + bars * HOUR
        return list_due_opens(self.service, self.calendar, since=START, now=now)

    def read(self, bars: int) -> Readings:
        return read_test_bars(self.store, self.arms, since=START, due=self.due(bars))

    def look(self, bars: int) -> AbLook | None:
        """A look when so many bars of the test have closed."""
        now = START + bars * HOUR
        return look_at_test(self.store, self.test, self.arms, now=now, fee_bps=10.0, at=now)


def _columns(batch: OutcomeBatch) -> list[Any]:
    return [getattr(batch, name) for name in OutcomeBatch.__slots__]
