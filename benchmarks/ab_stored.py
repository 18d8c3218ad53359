"""A/A tests through the store: forecasts, outcomes matched with bars, and the monitor's looks.

`benchmarks.ab_harness` judges the same paths by running sums. Here every look reads its pairs
from rows and writes a row of its own, as in production.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.ab_harness import PAIRS_A_LOOK, Ends, Looks, Runs
from benchmarks.ab_paths import BARS_A_WEEK, Paths
from mlops.ab_testing.common_past import read_common_past
from mlops.ab_testing.evaluation import look_at_test
from mlops.ab_testing.pair_reading import Arms, list_due_opens, read_test_bars
from mlops.ab_testing.pairs import Pairs
from mlops.ab_testing.preflight import plan_test, span_of
from mlops.arrays import FloatArray
from mlops.data.calendar import load_calendar
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models.base import default_recipe
from mlops.monitoring.performance.outcomes import ServiceBars, match_bars
from mlops.rollout.plan import ab_test_plan
from mlops.rollout.request import request_test
from mlops.service import Service, Target
from mlops.store import ModelVersion, Status, Store, Verdict, Why, open_store
from mlops.store.ab_tests import AbTest, get_test, new_test_id
from mlops.store.forecasts import Role
from mlops.store.routes import begin_route
from mlops.store.versions import insert_version

START = datetime(2010, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
VOLATILITY = 0.01
"""Standard deviation of an hourly return."""

CHAMPION, CHALLENGER = "champion", "challenger"
LEAST_HOURS = 24.0
WHY = Why(START, actor="benchmark", reason="an A/A test")


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """One test in a store: its rows, and the market time of its looks."""

    store: Store
    arms: Arms
    test: AbTest
    pairs: int

    def look_until_verdict(self) -> tuple[Verdict | None, int]:
        """Look every `PAIRS_A_LOOK` pairs; the verdict, None where none came, and its pairs."""
        for n in range(PAIRS_A_LOOK, self.pairs + 1, PAIRS_A_LOOK):
            now = self.test.since_bar + (n + self.arms.service.horizon) * HOUR
            test = get_test(self.store, self.test.id)
            look = look_at_test(self.store, test, self.arms, now=now, fee_bps=0.0, at=now)
            assert look is not None, "outcomes are due"
            if look.word is not None:
                return look.word, look.pairs
        return None, self.pairs

    def read_pairs(self) -> Pairs:
        """All pairs of the test."""
        since, arms = self.test.since_bar, self.arms
        now = since + (self.pairs + arms.service.horizon) * HOUR
        due = list_due_opens(arms.service, arms.calendar, since=since, now=now)
        return read_test_bars(self.store, arms, since=since, due=due).pairs


def run_stored_tests(paths: Paths, *, pairs: int, template: Path) -> tuple[Ends, Looks]:
    """Run each path's last bars as a test; its verdict, and its losses at the same looks.

    Args:
        pairs: Pairs of each test; the bars before are the record.
        template: An empty store, which each test copies.
    """
    words, counts, differences, losses = [], [], [], []
    for run in range(len(paths.returns)):
        with _stored(paths, run, pairs=pairs, template=template) as stored:
            word, n = stored.look_until_verdict()
            read = stored.read_pairs()
        words.append(word)
        counts.append(n)
        differences.append(read.champion_loss - read.challenger_loss)
        losses.append(read.champion_loss)
    runs = Runs(np.stack(differences), np.stack(losses), paths.horizon)
    return Ends(words, np.array(counts)), Looks(runs, bars_a_week=BARS_A_WEEK)


@contextmanager
def empty_store_file() -> Iterator[Path]:
    """A migrated store without a row, to be copied."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "template.db"
        open_store(f"sqlite:///{path}").close()
        yield path


@contextmanager
def _stored(paths: Paths, run: int, *, pairs: int, template: Path) -> Iterator[Stored]:
    with tempfile.TemporaryDirectory() as folder:
        copied = shutil.copy(template, Path(folder) / "store.db")
        with closing(open_store(f"sqlite:///{copied}")) as store:
            yield _begin(store, paths, run, pairs)


def _begin(store: Store, paths: Paths, run: int, pairs: int) -> Stored:
    """Write forecasts and outcomes of a whole path, and begin the test of its last bars."""
    service = Service.of(
        venue="simulator",
        symbol="BTC/USD",
        timeframe="1h",
        target=Target.RETURN,
        horizon=paths.horizon,
    )
    with store.write() as connection:
        for number, model_id in enumerate((CHAMPION, CHALLENGER), start=1):
            insert_version(connection, _make_version(service, model_id, number), WHY)
        begin_route(connection, service.key, CHAMPION, WHY)
    bars = _make_bars(paths.returns[run])
    opened = pd.DatetimeIndex(bars.index)
    _insert_forecasts(store, service, opened, CHAMPION, paths.champion[run])
    _insert_forecasts(store, service, opened, CHALLENGER, paths.challenger[run])
    target = TargetSpec(service.target, service.horizon)
    dataset = Dataset(bars, timeframe=service.timeframe, target=target)
    of_service = ServiceBars.of(service, dataset, default_recipe("zero", target))
    end = bars.index[-1].to_pydatetime() + HOUR
    match_bars(store, [of_service], now=end, lookback_bars=None)
    arms = Arms(
        service=service,
        calendar=load_calendar("24/7"),
        champion_id=CHAMPION,
        challenger_id=CHALLENGER,
    )
    since_bar = bars.index[paths.champion.shape[1] - pairs].to_pydatetime()
    test = _request(store, arms, since_bar, hours=float(pairs + service.horizon))
    return Stored(store, arms, test, pairs)


def _request(store: Store, arms: Arms, since_bar: datetime, *, hours: float) -> AbTest:
    past = read_common_past(store, arms, champion=None, challenger=None, before=since_bar)
    alpha = 0.05
    _, record = plan_test(arms, past, since_bar=since_bar, hours=hours, alpha=alpha)
    assert record is not None, "the path is long enough for a record"
    span = span_of(arms, since_bar, hours=hours, min_hours=LEAST_HOURS)
    row = AbTest(
        id=new_test_id(),
        service=arms.service.key,
        champion_id=CHAMPION,
        challenger_id=CHALLENGER,
        champion_is="a",
        name="",
        split_bp=5000,
        alpha=alpha,
        since_bar=span.since_bar,
        min_until_bar=span.min_until_bar,
        # The last bar is never due, so that the last look says what it found and no more.
        until_bar=span.until_bar + HOUR,
        record=record.to_dict(),
        promote=True,
        rollout_id="",
        requested_by="",
        requested_why="",
        requested_at=since_bar,
    )
    plan = ab_test_plan(row.split_bp, duration_s=hours * 3600.0)
    return request_test(store, row, plan, WHY, now=since_bar)


def _make_version(service: Service, model_id: str, number: int) -> ModelVersion:
    return ModelVersion(
        model_id=model_id,
        service=service.key,
        mlflow_version=number,
        run_id="",
        model_type="linear",
        symbol=service.symbol,
        status=Status.DEPLOYED if model_id == CHAMPION else Status.CHALLENGER,
        digest="",
        bundle_uri="",
        watermark="",
        trained_until=START,
        recipe_digest="",
        claims_only=False,
        code_version="",
        created_at=START,
        report={"passed": True},
    )


def _make_bars(returns: FloatArray) -> pd.DataFrame:
    """Hourly bars whose log returns, from open to close, are these."""
    path = 1e4 * np.exp(VOLATILITY * np.cumsum(np.concatenate([[0.0], returns])))
    opened, close = path[:-1], path[1:]
    columns = {
        "open": opened,
        "high": np.maximum(opened, close),
        "low": np.minimum(opened, close),
        "close": close,
        "volume": np.ones(len(close)),
    }
    index = pd.date_range(START, periods=len(close), freq="1h", name="open_time").as_unit("ns")
    return pd.DataFrame(columns, index)


def _insert_forecasts(
    store: Store, service: Service, opened: pd.DatetimeIndex, model_id: str, said: FloatArray
) -> None:
    """The forecasts ``said`` (n,) of the first n bars, all at once."""
    role = Role.RECORD if model_id == CHAMPION else Role.SHADOW
    times = opened[: len(said)].strftime("%Y-%m-%d %H:%M:%S.%f")
    values = (VOLATILITY * said).tolist()
    rows = [
        (service.key, bar, model_id, str(role), value)
        for bar, value in zip(times, values, strict=True)
    ]
    with store.write() as connection:
        # By the driver, because a hundred such tests are a million rows.
        connection.exec_driver_sql(_INSERT_FORECAST, rows)


_INSERT_FORECAST = """
    INSERT INTO forecast (service, bar, model_id, role, value, made_at, generation, replica_id,
                          bars_digest)
    VALUES (?, ?, ?, ?, ?, '2010-01-01 00:00:00.000000', 1, 'benchmark', '')
"""
