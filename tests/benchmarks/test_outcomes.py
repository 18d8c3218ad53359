"""The outcomes' benchmark counts right; how fast it is, is for `make bench` to say."""

from __future__ import annotations

import pytest

from benchmarks import outcomes
from mlops.store import Store
from tests.stores import empty_url, store, url

__all__ = ["empty_url", "store", "url"]


def test_every_outcome_is_counted_a_second_way(store: Store) -> None:
    figure = outcomes.hundred_thousand(store, "a store", 4_000)
    assert "4,000 forecasts on a store" in figure.what
    assert "all as counted otherwise" in figure.measured


def test_a_look_that_writes_other_values_is_noticed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = outcomes.sight

    def wrong(frame, of):
        found = right(frame, of)
        found.dataset.labels.y[:] += 1e-6
        return found

    monkeypatch.setattr(outcomes, "sight", wrong)
    figure = outcomes.hundred_thousand(store, "a store", 4_000)
    assert not figure.holds
    assert "NOT all" in figure.measured


def test_each_service_has_its_new_outcome(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "BARS_KEPT", 60)
    assert "new 3" in outcomes.one_hour(store, "a store", 3).measured
