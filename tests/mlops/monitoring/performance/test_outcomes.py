"""Outcomes meet their forecasts once, whatever order bars and forecasts come in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from mlops.errors import ModelError, StoreError
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models.base import default_recipe
from mlops.monitoring.performance.outcomes import (
    Matching,
    ServiceBars,
    match_bars,
    match_outcomes,
    naive_recipe,
)
from mlops.service import Service, Timeframe
from mlops.store import ModelVersion, Store, Why, open_store
from mlops.store.forecasts import Role, record_forecasts
from mlops.store.outcomes import OutcomeCounts, count_outcomes, read_matched, read_recorded
from mlops.store.routes import begin_route
from tests.mlops.data.conftest import make_bars
from tests.mlops.monitoring.ticker import (
    HOUR,
    RETURNS,
    START,
    SlowMatcher,
    Ticker,
    bars_of_service,
    forecast_row,
)

VOLATILITY = Service.of(
    venue="sample", symbol="BTC/USD", timeframe="1h", target="volatility", horizon=4
)
BARS = make_bars(60)
EVER = START + timedelta(days=10_000)


def at(hours: int) -> datetime:
    return START + hours * HOUR


def forecast(store: Store, *hours: int, service: Service = RETURNS, **changes: object) -> None:
    record_forecasts(store, [forecast_row(service, at(hour), **changes) for hour in hours])


def match(
    store: Store,
    now: int,
    frame: pd.DataFrame = BARS,
    *,
    service: Service = RETURNS,
    patience_bars: int = 5,
    lookback_bars: int | None = None,
) -> Matching:
    """Match one service by the bars that have closed by the hour ``now``."""
    known = frame[frame.index < pd.Timestamp(at(now))]
    bars = bars_of_service(known, service, "zero" if service is RETURNS else "persistence")
    (found,) = match_bars(
        store,
        [bars],
        now=at(now),
        patience_bars=patience_bars,
        lookback_bars=lookback_bars,
    )
    return found


def matching(**counts: int) -> Matching:
    return Matching(service=RETURNS.key, **counts)


def test_an_outcome_is_known_when_its_last_bar_has_closed(store: Store) -> None:
    forecast(store, 10)
    assert match(store, 13) == matching()
    assert match(store, 14) == matching(new=1)
    found = read_matched(store, RETURNS.key)
    close = BARS["close"].to_numpy()
    assert found.value[0] == pytest.approx(np.log(close[13] / close[10]), rel=1e-12)
    assert found.known_at[0] == np.datetime64(at(14).replace(tzinfo=None))
    assert found.next_return[0] == pytest.approx(close[11] / close[10] - 1)
    assert (found.baseline[0], found.persistence[0]) == (0.0, 0.0)


def test_bars_that_close_later_than_now_are_not_looked_at(store: Store) -> None:
    forecast(store, 10, 11)
    bars = bars_of_service(BARS, RETURNS, "zero")
    (found,) = match_bars(store, [bars], now=at(14))
    assert found == matching(new=1)


def test_a_second_run_over_the_same_bars_changes_nothing(store: Store) -> None:
    forecast(store, *range(10, 20))
    assert match(store, 40) == matching(new=10)
    assert match(store, 40) == matching()
    assert match(store, 60) == matching()


def test_champion_challenger_and_baseline_meet_the_same_outcome(store: Store) -> None:
    forecast(store, 10, service=VOLATILITY)
    forecast(store, 10, service=VOLATILITY, model_id="challenger", role=Role.SHADOW, value=2.0)
    assert match(store, 40, service=VOLATILITY).new == 1
    found = read_matched(store, VOLATILITY.key)
    assert found.model_id.tolist() == ["challenger", "champion"]
    assert found.forecast.tolist() == [2.0, 0.001]
    assert found.value[0] == found.value[1]
    bars = bars_of_service(BARS, VOLATILITY, "persistence")
    assert found.baseline.tolist() == 2 * [bars.dataset.persistence[10]]


def test_a_forecast_that_arrives_late_meets_the_outcome_on_record(store: Store) -> None:
    forecast(store, 10)
    match(store, 40)
    forecast(store, 10, model_id="challenger", role=Role.SHADOW)
    forecast(store, 12)
    assert match(store, 41) == matching(new=1)
    assert len(read_matched(store, RETURNS.key)) == 3


def test_missing_bars_are_waited_for_and_then_given_up(store: Store) -> None:
    forecast(store, 10, 20)
    holed = BARS.drop(BARS.index[12])
    assert match(store, 13, holed) == matching()
    assert match(store, 14, holed) == matching(waiting=1)
    assert match(store, 18, holed) == matching(waiting=1)
    assert match(store, 19, holed) == matching(missing=1)
    assert match(store, 30, holed) == matching(new=1)
    assert count_outcomes(store, RETURNS.key) == OutcomeCounts(forecasts=2, known=1, missing=1)


def test_what_was_given_up_is_scored_if_its_bars_come_after_all(store: Store) -> None:
    forecast(store, 10)
    match(store, 30, BARS.drop(BARS.index[12]))
    assert match(store, 31) == matching(arrived=1)
    assert match(store, 32) == matching()
    counts = count_outcomes(store, RETURNS.key)
    assert counts == OutcomeCounts(forecasts=1, known=1, arrived=1)


def test_a_forecast_from_a_bar_that_was_withdrawn_is_missing(store: Store) -> None:
    forecast(store, 10)
    assert match(store, 30, BARS.drop(BARS.index[10])) == matching(missing=1)


def test_a_corrected_bar_revises_its_outcomes_and_keeps_the_first(store: Store) -> None:
    forecast(store, 9, 10, 11)
    match(store, 30)
    corrected = BARS.copy()
    corrected.iloc[13, :4] *= 1.01
    assert match(store, 31, corrected) == matching(revised=1)
    assert match(store, 32, corrected) == matching()
    found = read_matched(store, RETURNS.key)
    assert found.revisions.tolist() == [0, 1, 0]
    assert found.value[1] - found.first_value[1] == pytest.approx(np.log(1.01))


def test_a_correction_never_changes_what_was_forecast(store: Store) -> None:
    forecast(store, 10, service=VOLATILITY)
    match(store, 30, service=VOLATILITY)
    said = read_matched(store, VOLATILITY.key)
    corrected = BARS.copy()
    corrected.iloc[9:13, 1] *= 1.05
    assert match(store, 31, corrected, service=VOLATILITY).revised == 1
    found = read_matched(store, VOLATILITY.key)
    assert found.value[0] != said.value[0]
    assert (found.baseline[0], found.persistence[0]) == (said.baseline[0], said.persistence[0])


def test_an_outcome_stays_when_its_bars_are_gone(store: Store) -> None:
    forecast(store, 10)
    match(store, 30)
    assert match(store, 40, BARS.drop(BARS.index[12])) == matching()
    assert len(read_matched(store, RETURNS.key)) == 1


def test_rounding_is_no_revision(store: Store) -> None:
    forecast(store, *range(4, 50), service=VOLATILITY)
    match(store, 60, service=VOLATILITY)
    assert match(store, 60, BARS * (1 + 1e-13), service=VOLATILITY).revised == 0


def test_bars_before_the_first_with_its_history_are_left_alone(store: Store) -> None:
    forecast(store, 1, 2, 3, service=VOLATILITY)
    assert match(store, 60, service=VOLATILITY).new == 1
    assert count_outcomes(store, VOLATILITY.key).waiting == 2
    assert match(store, 60, BARS.iloc[:0]) == matching()
    assert match(store, 60, BARS.iloc[:3], service=VOLATILITY).new == 0


def test_an_hour_looks_back_so_far_and_a_longer_look_finds_the_rest(store: Store) -> None:
    forecast(store, 10, 50)
    assert match(store, 60, lookback_bars=20) == matching(new=1)
    assert match(store, 60, lookback_bars=50) == matching(new=1)


def test_a_weekend_is_no_delay(store: Store) -> None:
    """Friday's last hours of a currency are due on Sunday night, not on Saturday."""
    service = Service.of(
        venue="sample", symbol="EUR/USD", timeframe="1h", target="return", horizon=3
    )
    opened = pd.date_range("2024-01-05 00:00", "2024-01-08 12:00", freq="1h", tz="UTC")
    week = opened[(opened < "2024-01-05 22:00Z") | (opened >= "2024-01-07 22:00Z")]
    frame = make_bars(len(week)).set_index(pd.DatetimeIndex(week, name="open_time").as_unit("ns"))
    from mlops.data.calendar import calendar_for

    def match_at(now: str) -> Matching:
        dataset = Dataset(
            frame[frame.index < now],
            timeframe=Timeframe("1h"),
            target=TargetSpec(service.target, service.horizon),
            calendar=calendar_for(service.venue, service.symbol),
        )
        bars = ServiceBars(service, dataset, np.zeros(len(dataset)))
        moment = pd.Timestamp(now).to_pydatetime()
        return match_bars(store, [bars], now=moment, patience_bars=2)[0]

    last = pd.Timestamp("2024-01-05 21:00Z").to_pydatetime()
    record_forecasts(store, [forecast_row(service, last)])
    assert (match_at("2024-01-07 21:00Z").waiting, match_at("2024-01-08 00:00Z").waiting) == (0, 0)
    assert match_at("2024-01-08 01:00Z").new == 1


@pytest.mark.parametrize("service", [RETURNS, VOLATILITY], ids=["return", "volatility"])
@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12))]
)
def test_any_order_of_events_gives_the_outcomes_of_a_slow_matcher(
    store: Store, service: Service, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    ticker, matcher = Ticker.of(90, rng), SlowMatcher(service, patience=12)
    baseline = "zero" if service is RETURNS else "persistence"
    made: set[datetime] = set()
    hour = 8
    while hour < 170:
        hour += int(rng.integers(1, 10))
        for number in rng.integers(max(0, hour - 30), hour, size=int(rng.integers(0, 16))):
            if number < 90:
                version = str(rng.choice(["champion", "challenger"]))
                role = Role.RECORD if version == "champion" else Role.SHADOW
                forecast(store, int(number), service=service, model_id=version, role=role)
                made.add(at(int(number)))
        frame = ticker.seen(at(hour))
        bars = bars_of_service(frame, service, baseline)
        for _ in range(int(rng.integers(0, 3))):
            match_bars(store, [bars], now=at(hour), patience_bars=12, lookback_bars=None)
            matcher.match(made, frame, at(hour))
    _compare(store, service, matcher)


def _compare(store: Store, service: Service, matcher: SlowMatcher) -> None:
    recorded = read_recorded(store, service.key, since=START, until=EVER)
    noted = [matcher.book.get(_aware(bar)) for bar in recorded.bar]
    assert recorded.recorded.tolist() == [entry is not None for entry in noted]
    values = [np.nan if entry is None or entry.value is None else entry.value for entry in noted]
    np.testing.assert_allclose(recorded.value, values, rtol=1e-9, atol=1e-12)
    counts = [0 if entry is None else entry.revisions for entry in noted]
    assert recorded.revisions.tolist() == counts
    found = read_matched(store, service.key)
    first = [matcher.book[_aware(bar)].first for bar in found.bar]
    np.testing.assert_allclose(found.first_value, np.array(first, float), rtol=1e-9, atol=1e-12)
    # What is tried in earnest: every kind of trouble has happened.
    kinds = [entry for entry in noted if entry is not None]
    assert any(entry.revisions for entry in kinds)
    assert any(entry.marked and entry.value is None for entry in kinds)
    assert any(not entry.marked for entry in kinds)


def _aware(bar: np.datetime64) -> datetime:
    return pd.Timestamp(bar, tz="UTC").to_pydatetime()


def test_of_two_jobs_that_match_at_once_one_writes_each_outcome(store: Store, url: str) -> None:
    forecast(store, *range(5, 50))
    found: list[Matching] = []
    ready = threading.Barrier(2)

    def run_job() -> None:
        with closing(open_store(url)) as mine:
            ready.wait(timeout=30)
            found.append(match(mine, 60))

    threads = [threading.Thread(target=run_job) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one.new for one in found) == 45
    assert len(read_matched(store, RETURNS.key)) == 45


def test_a_moment_without_a_zone_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="no zone"):
        match_bars(store, [bars_of_service(BARS, RETURNS, "zero")], now=datetime(2024, 1, 2))


class ThreeServices:
    """A store with three services of which two have bars."""

    def __init__(self, store: Store, add: Callable[..., ModelVersion]) -> None:
        self.store = store
        self.services = [
            Service.of(
                venue="sample", symbol=f"{name}/USD", timeframe="1h", target="return", horizon=3
            )
            for name in ("AAA", "BBB", "CCC")
        ]
        for number, service in enumerate(self.services):
            version = add(f"zero_{number}", service=service.key, model_type="zero")
            with store.write() as connection:
                begin_route(connection, service.key, version.model_id, Why(START))
            forecast(store, 10, 11, service=service)

    def match(self, bars_of: Callable[[Service], Dataset | None]) -> dict[str, Matching]:
        found = match_outcomes(self.store, bars_of, now=at(40))
        return {Service.parse(one.service).symbol[:3]: one for one in found}


def dataset_of(service: Service) -> Dataset:
    target = TargetSpec(service.target, service.horizon)
    return Dataset(BARS.iloc[:40], timeframe=service.timeframe, target=target)


def test_all_services_of_a_store_are_matched_in_one_call(
    store: Store, add: Callable[..., ModelVersion]
) -> None:
    three = ThreeServices(store, add)
    found = three.match(dataset_of)
    assert [one.new for one in found.values()] == [2, 2, 2]
    assert [one.service for one in found.values()] == [one.key for one in three.services]


def test_the_trouble_of_one_service_leaves_the_others_alone(
    store: Store, add: Callable[..., ModelVersion], caplog: pytest.LogCaptureFixture
) -> None:
    def bars_of(service: Service) -> Dataset | None:
        if service.symbol == "AAA/USD":
            raise ValueError("its file is damaged")
        return None if service.symbol == "BBB/USD" else dataset_of(service)

    found = ThreeServices(store, add).match(bars_of)
    assert "its file is damaged" in found["AAA"].trouble
    assert "nobody keeps bars" in found["BBB"].trouble
    assert (found["CCC"].new, found["CCC"].trouble) == (2, "")
    assert "AAA".lower() in caplog.text


def test_a_baseline_is_naive_by_its_type_or_by_its_recipe(
    store: Store, add: Callable[..., ModelVersion]
) -> None:
    dataset = dataset_of(RETURNS)
    assert naive_recipe(add(model_type="zero"), dataset).model_type == "zero"
    recipe = default_recipe("ewma", dataset.target, {"span": 5})
    version = add("ewma_1", 2, model_type="ewma", notes={"recipe": recipe.to_dict()})
    assert naive_recipe(version, dataset) == recipe
    with pytest.raises(ModelError, match="declare a naive one"):
        naive_recipe(add("lstm_1", 3, model_type="lstm"), dataset)
