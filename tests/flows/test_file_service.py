"""A service whose bars come from a file alone is trained, live, watched and retrained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
import pytest

from flows.deploy import deploy
from flows.monitor import monitor
from flows.retrain import retrain
from mlops.data.calendar import load_calendar
from mlops.data.simulator import simulate_bars
from mlops.registry.markets import read_market
from mlops.rollout.plan import RolloutSettings, Strategy
from mlops.service import Service, Timeframe
from mlops.serving.runtime import HeadlessReplica, headless_replica
from mlops.settings import FileClock
from mlops.store import get_route, get_version, list_forecasts
from mlops.store.triggers import Cause, TriggerReason, raise_trigger
from tasks.context import current_installation
from tests.project import BARS, SEED, Place

SHARE = "file.aapl.1h.volatility.24"
NEW = 1200
"""Bars that come after the first training: enough to judge a refit by, in a replay too."""

FAST = RolloutSettings(dwell_s=0.2, bake_s=0.2)


@pytest.fixture
def shares(project: Place) -> Place:
    """A file of hours of New York's sessions, in a folder that only the caller has."""
    opens = load_calendar("XNYS").expected_opens(
        pd.Timestamp("2021-01-01", tz="UTC"), pd.Timestamp("2024-01-01", tz="UTC"), Timeframe("1h")
    )[: BARS + NEW]
    frame = simulate_bars(BARS + NEW, seed=SEED).set_axis(opens.rename("open_time"))
    frame.to_parquet(project.bars)
    # How well a model must do is not what these tests ask.
    project.set(MIN_R2_SCORE=0)
    return project


@contextmanager
def replica(place: Place) -> Iterator[HeadlessReplica]:
    installation = current_installation()
    with headless_replica(
        installation.store,
        home=installation.home,
        trust=installation.trust,
        bundles=installation.bundles,
        bars_root=installation.settings.bars_path,
        on_demand=True,
    ) as running:
        yield running


def train_shares(place: Place, **choice: object) -> str:
    result = place.train(symbol="AAPL", venue="file", horizon=24, **choice)
    assert (result.service, result.refused_by) == (SHARE, ())
    return str(result.model_id)


def test_a_training_sets_the_market_of_its_service(shares: Place) -> None:
    train_shares(shares, file_clock="replay")
    market = read_market(shares.registry.store, Service.parse(SHARE))
    assert (market.calendar.name, market.clock) == ("XNYS", FileClock.REPLAY)
    # Nobody needs the caller's folder any more.
    shares.bars.rename(shares.bars.with_name("moved.parquet"))
    again = shares.train(symbol="AAPL", venue="file", horizon=24, bars_file=None)
    assert (again.service, again.status) == (SHARE, "challenger")


@pytest.mark.slow
@pytest.mark.parametrize("clock", ["replay", "end"])
def test_shares_from_a_file_are_live_watched_and_retrained(shares: Place, clock: str) -> None:
    known = shares.frame.index[BARS].to_pydatetime()
    model_id = train_shares(shares, file_clock=clock, end=known)
    store = shares.registry.store
    shares.bars.unlink()
    with replica(shares) as running:
        deploy(model_id, Strategy.BLUE_GREEN, plan=FAST)
        running.forecast(SHARE)
    route = get_route(store, SHARE)
    assert route is not None
    assert route.champion == model_id
    (row,) = [row for row in list_forecasts(store, SHARE) if row.model_id == model_id]
    recent = current_installation().open_recent_bars().load(Service.parse(SHARE))
    assert recent is not None
    assert row.bar in recent.frame.index[-3:]
    assert ("replayed" if clock == "replay" else "stands at its last bar") in recent.label

    [look] = monitor().looks
    assert (look.model_id, look.why_not) == (model_id, "")
    reason = TriggerReason(
        service=SHARE, cause=Cause.DRIFT, watermark="w", champion=model_id, text="drift"
    )
    with store.write() as connection:
        raise_trigger(connection, reason, at=recent.now)
    retrained = retrain(SHARE, auto_deploy=False)
    assert retrained is not None
    version = get_version(store, retrained.model_id)
    assert version.trained_until is not None
    assert known < version.trained_until <= recent.now
