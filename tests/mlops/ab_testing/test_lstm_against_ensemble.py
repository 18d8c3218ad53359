"""On real bars an LSTM is tested against an ensemble, from a fixed start and for 600 bars.

What is expected is computed here: losses from the versions' forecasts and the bars' ranges.

The start has the longest record before it, 24 two-week blocks, of all first days of a month that
leave 600 bars and their outcomes. The first look that counts is at 480 pairs, so 600 have bounds.

The half-widths are compared in units of the loss. The preflight gives a share of the champion's
mean loss on the common past. In the test that loss is half as large, so the same half-width is
twice the share (70 % where 35 % was said), and the share has no bounds of its own yet. In units of
the loss it is met exactly: the variance is that of the record, ten times what a few lags of the
test's own pairs say. By those alone the half-width would be a third.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops.ab_testing.decision import Judgement, Moment, judge_pairs, summarise_record
from mlops.ab_testing.lifecycle import AbTesting, Started
from mlops.ab_testing.pairs import Missing, Pairs
from mlops.ab_testing.requests import AbTestRequest
from mlops.arrays import FloatArray, IntArray
from mlops.data.load import load_bars
from mlops.data.recent_bars import RecentBars
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models.base import FitContext, default_recipe
from mlops.models.bundle import Bundle, open_bundle
from mlops.models.signing import SigningKey, load_or_make_key
from mlops.models.small_networks import compact_config
from mlops.monitoring.performance.outcomes import ServiceBars, match_bars
from mlops.registry import bundle_parts, write_bundle
from mlops.rehearsal.hours import RehearsalClock
from mlops.search.config import TrainingConfig
from mlops.search.slices import cut_slices
from mlops.search.walk_forward import run_walk_forward
from mlops.service import Service
from mlops.settings import Settings
from mlops.store import Status, Store, Why
from mlops.store.ab_tests import AbLook, AbTest, get_test
from mlops.store.forecasts import Role, record_forecasts
from mlops.store.routes import begin_route, change_route
from mlops.validation.records import cut_record
from tests.mlops.monitoring.ticker import forecast_row
from tests.mlops.rollout.rows import BASELINE, CHALLENGER, CHAMPION, add_version

pytestmark = pytest.mark.slow

SERVICE = Service.of(
    venue="sample", symbol="BTC/USD", timeframe="1h", target="volatility", horizon=24
)
TARGET = TargetSpec(SERVICE.target, SERVICE.horizon)
START = datetime(2019, 9, 1, tzinfo=UTC)
BARS, BARS_A_LOOK = 600, 120
HOUR = timedelta(hours=1)
BARS_PER_WEEK = 168.0
ALPHA = 0.05
TRAINING = TrainingConfig(holdout_share=0.49, holdout_refits=4)
WHY = Why(START, actor="anna", reason="it passed its gates")


@dataclass(frozen=True, eq=False)
class Arm:
    """The forecasts (N,) of a version for every bar of the sample: before and in the test."""

    bundle: Bundle
    past: FloatArray
    said: FloatArray


@dataclass(frozen=True, eq=False)
class Conducted:
    """A test that has lasted `BARS` bars."""

    frame: pd.DataFrame
    arms: Mapping[str, Arm]
    started: Started
    looks: list[AbLook]
    ended: AbTest

    @property
    def first(self) -> int:
        """The row of the test's first bar."""
        return int(self.frame.index.searchsorted(pd.Timestamp(START)))

    def pairs(self, forecasts: Mapping[str, FloatArray], rows: IntArray) -> Pairs:
        """Squared errors of both arms on these rows."""
        outcome = mean_log_ranges(self.frame)
        losses = {name: (said - outcome) ** 2 for name, said in forecasts.items()}
        known = rows[np.all([np.isfinite(loss[rows]) for loss in losses.values()], axis=0)]
        closed = self.frame.index.tz_convert(None).to_numpy() + np.timedelta64(1, "h")
        return Pairs(
            horizon=SERVICE.horizon,
            closed_at=closed[known].astype("datetime64[us]"),
            champion_loss=losses[CHAMPION][known],
            challenger_loss=losses[CHALLENGER][known],
        )

    @property
    def past(self) -> Pairs:
        """The pairs of the holdout, whose outcomes were known when the test began."""
        forecasts = {name: arm.past for name, arm in self.arms.items()}
        return self.pairs(forecasts, np.arange(self.first - SERVICE.horizon))

    def judge(self, bars: int, *, lowest_p: float) -> Judgement:
        """What the pairs of the first bars say."""
        forecasts = {name: arm.said for name, arm in self.arms.items()}
        return judge_pairs(
            self.pairs(forecasts, self.first + np.arange(bars)),
            summarise_record(self.past, bars_per_week=BARS_PER_WEEK),
            Missing(bars=bars, holes=0, champion={}, challenger={}),
            Moment(may_win=True, is_over=bars == BARS),
            alpha=ALPHA,
            bars_per_week=BARS_PER_WEEK,
            lowest_p=lowest_p,
        )


def mean_log_ranges(frame: pd.DataFrame) -> FloatArray:
    """The outcome (N,) of each bar: Parkinson's log volatility, averaged over the next bars."""
    span = np.log(frame["high"].to_numpy() / frame["low"].to_numpy())
    logs = 0.5 * np.log(np.maximum(span**2 / (4.0 * np.log(2.0)), 1e-10))
    ahead = np.lib.stride_tricks.sliding_window_view(logs[1:], SERVICE.horizon).mean(axis=1)
    return np.concatenate([ahead, np.full(SERVICE.horizon, np.nan)])


@pytest.fixture
def conducted(store: Store, tmp_path: Path) -> Conducted:
    frame = load_bars(SERVICE, cache_root=tmp_path / "bars").frame
    known = frame.loc[: pd.Timestamp(START) - HOUR]
    key = load_or_make_key(tmp_path / "key")
    arms = {
        name: train_arm(model_type, frame, known, tmp_path / name, key)
        for name, model_type in ((CHAMPION, "lstm"), (CHALLENGER, "ensemble"))
    }
    begin_service(store, known)
    return conduct(
        store,
        RecentBars(tmp_path / "bars", clock=RehearsalClock(START), held_bars=None),
        arms,
        frame,
    )


def conduct(
    store: Store, bars: RecentBars, arms: Mapping[str, Arm], frame: pd.DataFrame
) -> Conducted:
    """Begin a test of the service by the preflight, and let it last to its end."""
    testing = AbTesting(
        Settings(_env_file=None), store, bars, lambda version: arms[version.model_id].bundle
    )
    hours = float(BARS + SERVICE.horizon)
    request = AbTestRequest(model_a_id=CHAMPION, model_b_id=CHALLENGER, duration_hours=hours)
    started = testing.start(request, WHY, now=START)
    looks = live(testing, started.test.id, frame, arms)
    return Conducted(frame, arms, started, looks, get_test(store, started.test.id))


def train_arm(
    model_type: str, frame: pd.DataFrame, known: pd.DataFrame, folder: Path, key: SigningKey
) -> Arm:
    """Walk a recipe through the holdout of the known bars; the last fit becomes the version."""
    dataset, every_bar = (
        Dataset(bars, timeframe=SERVICE.timeframe, target=TARGET) for bars in (known, frame)
    )
    config = compact_config("lstm", TARGET) if model_type == "lstm" else {}
    folds = cut_slices(dataset, TRAINING, min_bars=1000).holdout
    recipe = default_recipe(model_type, TARGET, config)
    walk = run_walk_forward(recipe, dataset, folds, FitContext(seed=TRAINING.seed))
    rows = np.flatnonzero(np.isfinite(walk.forecasts))
    naive = dataset.labels.persistence
    record = cut_record(dataset, rows, walk.forecasts, naive, walk.fold_of_row)
    write_bundle(bundle_parts(walk.last, dataset, SERVICE, record=record), folder, key)
    bundle = open_bundle(folder)
    in_test = np.asarray(frame.index >= pd.Timestamp(START))
    past = np.full(len(frame), np.nan)
    past[: len(dataset)] = walk.forecasts
    return Arm(bundle, past, bundle.forecaster.forecast(every_bar, in_test))


def begin_service(store: Store, known: pd.DataFrame) -> None:
    """The rows of both versions, of which the LSTM is live."""
    learned = {"fitted_until": (known.index[-1] + HOUR).isoformat()}
    add_version(store, BASELINE, 1, model_type="persistence", report=None)
    add_version(store, CHAMPION, 2, model_type="lstm", notes=learned)
    add_version(
        store, CHALLENGER, 3, model_type="ensemble", status=Status.CHALLENGER, notes=learned
    )
    with store.write() as connection:
        begun = begin_route(connection, SERVICE.key, BASELINE, WHY)
        change_route(connection, begun, replace(begun, champion=CHAMPION), "promote", WHY)


def live(
    testing: AbTesting, test_id: str, frame: pd.DataFrame, arms: Mapping[str, Arm]
) -> list[AbLook]:
    """Both arms forecast bar after bar, outcomes come a horizon later; a look every few days."""
    dataset = Dataset(frame, timeframe=SERVICE.timeframe, target=TARGET)
    bars = ServiceBars.of(SERVICE, dataset, default_recipe("persistence", TARGET))
    first = int(frame.index.searchsorted(pd.Timestamp(START)))
    looks = []
    for done in range(BARS_A_LOOK, BARS + 1, BARS_A_LOOK):
        rows = [
            forecast_row(
                SERVICE,
                frame.index[row].to_pydatetime(),
                value=float(arm.said[row]),
                model_id=name,
                role=Role.RECORD if name == CHAMPION else Role.SHADOW,
            )
            for row in range(first + done - BARS_A_LOOK, first + done)
            for name, arm in arms.items()
        ]
        record_forecasts(testing.store, rows)
        now = START + (done + SERVICE.horizon) * HOUR
        match_bars(testing.store, [bars], now=now)
        look = testing.look(test_id, now=now, at=now).look
        assert look is not None
        looks.append(look)
    return looks


def test_the_verdict_is_that_of_the_same_arrays_and_the_interval_is_as_foretold(
    conducted: Conducted,
) -> None:
    lowest_p = 1.0
    for number, look in enumerate(conducted.looks, start=1):
        judged = conducted.judge(number * BARS_A_LOOK, lowest_p=lowest_p)
        lowest_p = judged.p
        assert look.word == judged.word
        assert look.pairs == judged.pairs == number * BARS_A_LOOK
        for figure in ("mean", "standard_error", "low", "high", "p"):
            assert getattr(look, figure) == pytest.approx(getattr(judged, figure), rel=1e-6)
    last, plan = conducted.looks[-1], conducted.started.plan
    assert conducted.ended.verdict == judged.word is not None
    assert plan.planned_pairs == last.pairs == BARS
    foretold = plan.half_width * conducted.past.champion_loss.mean()
    found = 0.5 * (last.high - last.low)
    print(
        f"{judged.word}: {judged.text} foretold ± {foretold:.4g}, {plan.half_width:.1%}; "
        f"{last.variance_source}, {plan.blocks} blocks"
    )
    assert found == pytest.approx(foretold, rel=1 / 3)
