"""The year's benchmark retrains as shipped; how much a whole year promotes is for `make bench`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import year
from benchmarks.retrains import hourly, retrain, search
from benchmarks.year import NOISE, PLANTED, Year
from mlops.data.simulator import simulate_bars
from mlops.service import Service
from mlops.store import Store, alpha_for_refit, count_trials
from tests.stores import store, url

__all__ = ["store", "url"]

NOTHING = Year(world="noise", searched=False, promoted=None, unbudgeted=None)
SERVICE = Service.of(venue="simulator", symbol="A/USD", timeframe="1h", target="return", horizon=1)
BARS, DAY = 1_500, 24


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_retrain_is_judged_on_young_bars_at_what_it_spent(store: Store) -> None:
    bars = simulate_bars(BARS + 30 * DAY, seed=1)
    search(store, SERVICE, hourly(bars[:BARS]), fee_bps=0.0)
    assert count_trials(store, SERVICE.key) == 1

    early = retrain(store, SERVICE, hourly(bars[: BARS + 10 * DAY]), fee_bps=0.0)
    known = hourly(bars)
    evidence = retrain(store, SERVICE, known, fee_bps=0.0)
    assert (len(early.holdout), len(evidence.holdout)) == (10 * DAY - 1, 30 * DAY - 1)
    # What few bars cannot test spends nothing of the budget.
    assert evidence.alpha == pytest.approx(0.05 * 30 / 365)
    now = (bars.index[-1] + known.step).to_pydatetime()
    assert alpha_for_refit(store, SERVICE.key, now) == 0.0


@pytest.mark.slow
def test_what_is_planted_is_promoted_within_weeks_and_noise_is_not() -> None:
    planted = year.one_year(PLANTED, 0, 30)
    assert planted.promoted is not None
    assert planted.unbudgeted is not None
    assert planted.unbudgeted <= planted.promoted
    assert year.one_year(NOISE, 0, 30).promoted is None


def test_without_the_ledger_the_figure_must_fail() -> None:
    fooled = [replace(NOTHING, unbudgeted=30)] * 3 + [NOTHING] * 37
    kept, contrast = year.kept_out(fooled)
    assert (kept.holds, contrast.holds) == (True, True)
    kept, contrast = year.kept_out([replace(NOTHING, promoted=9, unbudgeted=9)] * 3 + fooled[3:])
    assert (kept.holds, contrast.holds) == (False, True)
    assert not year.kept_out([NOTHING] * 40)[1].holds


@pytest.mark.parametrize(("promoted", "holds"), [(32, True), (31, False)])
def test_four_in_five_of_what_is_planted_must_be_let_in(promoted: int, holds: bool) -> None:
    found = replace(NOTHING, world="planted", promoted=25)
    years = [found] * promoted + [replace(found, promoted=None)] * (40 - promoted)
    figure = year.let_in(years)
    assert figure.holds is holds
    assert f"{promoted} promoted, half of them by day 25" in figure.measured


@pytest.mark.slow
def test_years_are_lived_in_processes_of_their_own() -> None:
    found = list(year.live_years([PLANTED, NOISE], 1, days=1))
    assert sorted(one.world for one in found) == ["noise", "planted"]
