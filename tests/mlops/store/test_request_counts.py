"""Traffic and tallies are running totals: writing a row twice counts no request twice."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from mlops.store import Store
from mlops.store.request_counts import (
    BUCKETS,
    EDGES_S,
    RATIO,
    Source,
    Tally,
    Traffic,
    TrafficRow,
    forget_tallies,
    forget_traffic,
    read_tallies,
    read_traffic,
    record_tallies,
    sum_traffic,
    write_traffic,
)
from mlops.store.schema import evidence
from mlops.store.sql import db_now
from tests.mlops.store.conftest import NOW

HOUR = timedelta(hours=1)


def traffic_of(latencies_s: np.ndarray, **counts: int) -> Traffic:
    places = Counter(bisect_left(EDGES_S, float(one)) for one in latencies_s)
    held = tuple(places[place] for place in range(BUCKETS))
    return Traffic(len(latencies_s), seconds=float(sum(latencies_s)), latencies=held, **counts)


ONE = TrafficRow("s", "m", "r0", "first", NOW, traffic_of(np.array([0.002, 0.004, 20.0]), faults=1))


def read(store: Store, **options: object) -> tuple[TrafficRow, ...]:
    with store.read() as connection:
        return read_traffic(connection, **{"since": NOW - 99 * HOUR} | options)  # type: ignore[arg-type]


def test_buckets_go_from_a_tenth_of_a_millisecond_to_ten_seconds() -> None:
    assert EDGES_S[0] == 1e-4
    assert EDGES_S[-2] < 10.0 <= EDGES_S[-1]
    assert BUCKETS == len(EDGES_S) + 1 == 31


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("typical_s", [3e-3, 0.05, 0.4])
def test_a_quantile_is_read_within_one_bucket(share: float, typical_s: float) -> None:
    drawn = typical_s * np.exp(np.random.default_rng(1).normal(size=997) * 0.7)
    found = traffic_of(drawn).quantile_s(share)
    true = float(np.quantile(drawn, share, method="inverted_cdf"))
    assert found is not None
    assert 1 / RATIO <= found / true <= RATIO


def test_quantiles_beyond_the_buckets_are_their_last_edge_and_of_nothing_none() -> None:
    assert traffic_of(np.array([50.0])).quantile_s(0.99) == EDGES_S[-1]
    assert Traffic().quantile_s(0.99) is None


def test_counts_of_parts_add_up_to_those_of_the_whole() -> None:
    drawn = np.random.default_rng(2).exponential(0.01, size=300)
    parts = [
        traffic_of(drawn[:100], faults=2),
        traffic_of(drawn[100:], faults=1, turned_away=3),
    ]
    rows = [replace(ONE, traffic=part) for part in parts]
    whole = traffic_of(drawn, faults=3, turned_away=3)
    assert replace(sum_traffic(rows), seconds=0.0) == replace(whole, seconds=0.0)
    assert sum_traffic(rows).seconds == pytest.approx(whole.seconds)
    assert sum_traffic(()) == Traffic()


def test_only_what_surely_took_longer_counts_as_slower() -> None:
    drawn = np.array([0.5, 2.0, 4.0, 50.0])
    found = traffic_of(drawn)
    for limit in (0.01, 0.4, 1.0, 3.9, 11.0):
        above = int((drawn > limit).sum())
        assert found.slower_than(limit) <= above
        assert found.slower_than(limit / RATIO) >= above


def test_a_later_total_of_one_life_replaces_the_earlier_one(store: Store) -> None:
    more = replace(ONE, traffic=ONE.traffic + ONE.traffic)
    for rows in ([ONE], [more], [more], []):
        write_traffic(store, rows)
    assert read(store) == (more,)


def test_lives_replicas_hours_and_versions_are_rows_of_their_own(store: Store) -> None:
    others = (
        {"incarnation": "second"},
        {"replica_id": "r1"},
        {"hour": NOW - HOUR},
        {"model_id": "n"},
        {"service": "t"},
    )
    write_traffic(store, [ONE, *(replace(ONE, **other) for other in others)])  # type: ignore[arg-type]
    assert sum_traffic(read(store)).requests == 6 * 3
    assert sum_traffic(read(store, service="s", model_id="m")).requests == 4 * 3
    assert [row.hour for row in read(store, since=NOW - HOUR, until=NOW)] == [NOW - HOUR]


def test_old_hours_are_forgotten(store: Store) -> None:
    write_traffic(store, [ONE, replace(ONE, hour=NOW - HOUR)])
    with store.write() as connection:
        forget_traffic(connection, before=NOW)
    assert read(store) == (ONE,)


# Tallies -----------------------------------------------------------------------------------------


TALLY = Tally(
    scope="rollout-1",
    step=0,
    source=Source.LIVE,
    replica_id="r0",
    incarnation="first",
    weight_bp=1000,
    champion_trials=90,
    champion_faults=1,
    challenger_trials=10,
    challenger_faults=2,
    detail={"challenger": {"timeout": 2}},
)


def read_scope(store: Store, scope: str = "rollout-1", **options: float) -> tuple[Tally, ...]:
    with store.read() as connection:
        return read_tallies(connection, "s", scope, **options)


def test_what_is_counted_is_what_is_read(store: Store) -> None:
    record_tallies(store, {"s": [TALLY]})
    assert read_scope(store) == (TALLY,)


def test_a_later_total_replaces_the_earlier_one(store: Store) -> None:
    more = replace(TALLY, champion_trials=95, challenger_faults=3, detail={})
    record_tallies(store, {"s": [TALLY]})
    record_tallies(store, {"s": [more]})
    record_tallies(store, {"s": [more]})
    assert read_scope(store) == (more,)


@pytest.mark.parametrize(
    "other",
    [
        {"step": 1},
        {"source": Source.MIRROR},
        {"source": Source.REPLAY},
        {"replica_id": "r1"},
        {"incarnation": "second"},
    ],
)
def test_other_steps_sources_and_lives_are_counted_apart(
    store: Store, other: dict[str, object]
) -> None:
    second = replace(TALLY, **other)  # type: ignore[arg-type]
    record_tallies(store, {"s": [TALLY, second]})
    assert set(map(repr, read_scope(store))) == {repr(TALLY), repr(second)}


def test_services_and_scopes_are_read_apart(store: Store) -> None:
    other = replace(TALLY, scope="champion:a")
    record_tallies(store, {"s": [TALLY, other], "t": [replace(TALLY, champion_trials=1)]})
    assert read_scope(store) == (TALLY,)
    assert read_scope(store, "champion:a") == (other,)


def test_nothing_counted_is_nothing_written(store: Store) -> None:
    record_tallies(store, {})
    record_tallies(store, {"s": []})
    assert read_scope(store) == ()


def age(store: Store, seconds: float) -> None:
    with store.write() as connection:
        connection.execute(evidence.update().values(updated_at=db_now() - seconds))


def test_only_what_was_written_lately_can_be_asked_for(store: Store) -> None:
    record_tallies(store, {"s": [TALLY]})
    age(store, 100)
    assert read_scope(store, newer_than_s=90) == ()
    assert read_scope(store, newer_than_s=110) == (TALLY,)
    record_tallies(store, {"s": [TALLY]})
    assert read_scope(store, newer_than_s=90) == (TALLY,)


def test_old_totals_are_forgotten(store: Store) -> None:
    record_tallies(store, {"s": [TALLY]})
    age(store, 100)
    record_tallies(store, {"s": [replace(TALLY, step=1)]})
    with store.write() as connection:
        forget_tallies(connection, after=50)
    assert [one.step for one in read_scope(store)] == [1]
