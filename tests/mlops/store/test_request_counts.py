"""Traffic is added up, written once however often, and read within one bucket."""

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
    Traffic,
    TrafficRow,
    forget_traffic,
    read_traffic,
    sum_traffic,
    write_traffic,
)
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
