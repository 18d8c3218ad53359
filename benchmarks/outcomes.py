"""Outcomes: a hundred thousand forecasts matched at once, and an hour of five hundred services."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import sqlalchemy as sa

from benchmarks.figure import Figure
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models.base import default_recipe
from mlops.monitoring.performance.outcomes import Matching, ServiceBars, match_bars
from mlops.service import Service, Target, Timeframe
from mlops.store import Store, open_store
from mlops.store.outcomes import read_matched
from mlops.store.schema import forecast
from tests.stores import start_postgres

FORECASTS = 100_000
SERVICES, BARS_KEPT = 500, 1_000
MATCH_S, HOUR_S = 2.0, 60.0
HORIZON = 24
TROUBLES = 250
"""Bars of each kind: late, missing, corrected."""
START = datetime(2010, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DATABASES = ("sqlite", "postgres")


def service(number: int = 0) -> Service:
    return Service.of(
        venue="sample",
        symbol=f"S{number}/USD",
        timeframe="1h",
        target="volatility",
        horizon=HORIZON,
    )


def random_bars(n: int, seed: int = 0) -> pd.DataFrame:
    """Hours of a random walk."""
    rng = np.random.default_rng(seed)
    close = 1e4 * np.exp(np.cumsum(rng.normal(0, 0.005, n)))
    reach = np.exp(np.abs(rng.normal(0, 0.003, (2, n))))
    columns = {
        "open": close,
        "high": close * reach[0],
        "low": close / reach[1],
        "close": close,
        "volume": np.ones(n),
    }
    index = pd.date_range(START, periods=n, freq="1h", name="open_time").as_unit("ns")
    return pd.DataFrame(columns, index=index)


def record(store: Store, key: str, bars: pd.DatetimeIndex, model_id: str, role: str) -> None:
    """Record a forecast of each bar; this is not part of the measurement."""
    fixed = {"service": key, "model_id": model_id, "role": role, "value": -10.0, "low": None}
    fixed |= {"high": None, "generation": 1, "replica_id": "r0", "bars_digest": "b" * 64}
    rows = [fixed | {"bar": bar, "made_at": bar + HOUR} for bar in bars.to_pydatetime()]
    with store.write() as connection:
        connection.execute(sa.insert(forecast), rows)


def sight(frame: pd.DataFrame, of: Service) -> ServiceBars:
    target = TargetSpec(Target.VOLATILITY, HORIZON)
    dataset = Dataset(frame, timeframe=Timeframe("1h"), target=target)
    return ServiceBars.of(of, dataset, default_recipe("persistence", target))


def hundred_thousand(store: Store, database: str, n: int = FORECASTS) -> Figure:
    """Two looks: without the late bars, then with them and with corrections.

    Half of the forecasts are a challenger's, of the same bars. A third look, by the same bars,
    must change nothing, and is not timed.
    """
    key, count = service().key, n // 2
    frame = random_bars(count + 2 * HORIZON, seed=1)
    made = pd.DatetimeIndex(frame.index[HORIZON - 1 : HORIZON - 1 + count])
    record(store, key, made, "champion", "record")
    record(store, key, made, "challenger", "shadow")
    chosen = np.random.default_rng(2).permutation(np.arange(HORIZON, len(frame)))
    troubles = min(TROUBLES, count // 50)
    late, gone, corrected = (chosen[part * troubles : (part + 1) * troubles] for part in range(3))
    whole = frame.copy()
    whole.iloc[corrected, 1] *= 1.02
    first = frame.drop(frame.index[np.concatenate([late, gone])])
    second = whole.drop(whole.index[gone])
    now = frame.index[-1].to_pydatetime() + 48 * HOUR

    def look(seen: pd.DataFrame) -> Matching:
        bars = sight(seen, service())
        return match_bars(store, [bars], now=now, lookback_bars=None)[0]

    began, busy = time.perf_counter(), time.process_time()
    looks = [look(seen) for seen in (first, second)]
    spent, busy = time.perf_counter() - began, time.process_time() - busy
    looks.append(look(second))
    right = _checked(store, key, looks, made=made, second=second)
    return Figure(
        f"{n:,} forecasts on {database}, {troubles:,} bars late, as many missing and corrected",
        f"{spent:.2f} s for two looks; new {looks[0].new:,}, arrived {looks[1].arrived:,}, "
        f"revised {looks[1].revised:,}, missing {looks[0].missing:,}, a third changes "
        f"{sum((looks[2].new, looks[2].arrived, looks[2].revised, looks[2].missing))}; "
        f"{'all' if right else 'NOT all'} as counted otherwise",
        f"each once, <= {MATCH_S:g} s",
        right and spent <= MATCH_S,
        f"{busy:.2f} s of it this process's own work",
    )


def _checked(
    store: Store, key: str, looks: list[Matching], *, made: pd.DatetimeIndex, second: pd.DataFrame
) -> bool:
    """Compare with the outcomes that pandas computes on the grid of hours."""
    grid = second["high"].div(second["low"]).asfreq("1h")
    logs = 0.5 * np.log(np.maximum(np.log(grid) ** 2 / (4 * np.log(2)), 1e-10))
    ahead = logs.rolling(HORIZON).mean().shift(-HORIZON).reindex(made)
    here = made.isin(second.index)
    ahead = ahead[here].dropna()
    matched = read_matched(store, key)
    champion = matched.take(matched.model_id == "champion")
    same_bars = len(champion) == len(ahead) and bool(
        (champion.bar == ahead.index.tz_localize(None).to_numpy()).all()
    )
    nothing = Matching(service=key)
    return (
        same_bars
        and len(matched) == 2 * len(champion)
        and bool(np.allclose(champion.value, ahead.to_numpy(), rtol=1e-9))
        and int((champion.revisions > 0).sum()) == looks[1].revised > 0
        and looks[0].new + looks[1].arrived == len(ahead)
        and looks[0].new + looks[0].missing == len(made)
        and looks[2] == nothing
    )


def one_hour(store: Store, database: str, services: int = SERVICES) -> Figure:
    """A new outcome of every service, each with its last `BARS_KEPT` bars on record."""
    frame = random_bars(BARS_KEPT + HORIZON)
    markets = [service(1 + number) for number in range(services)]
    made = pd.DatetimeIndex(frame.index[HORIZON - 1 : BARS_KEPT - 1])
    for market in markets:
        record(store, market.key, made, "champion", "record")
    closed = frame.index[BARS_KEPT - 1 + HORIZON - 1].to_pydatetime()
    match_bars(store, [sight(frame.iloc[:-2], market) for market in markets], now=closed)
    began, busy = time.perf_counter(), time.process_time()
    sightings = [sight(frame, market) for market in markets]
    matchings = match_bars(store, sightings, now=closed + HOUR)
    spent, busy = time.perf_counter() - began, time.process_time() - busy
    new = sum(matching.new for matching in matchings)
    return Figure(
        f"an hour of {services} services on {database}, {BARS_KEPT:,} bars looked at again each",
        f"{spent:.1f} s, {1000 * spent / services:.1f} ms a service; new {new:,}",
        f"one each, <= {HOUR_S:g} s",
        new == services and spent <= HOUR_S,
        f"{busy:.1f} s of it this process's own work",
    )


@contextmanager
def open_stores() -> Iterator[dict[str, Store]]:
    """A fresh store on each database."""
    with tempfile.TemporaryDirectory(prefix="mlops-outcomes-") as folder:
        root = Path(folder)
        servers = start_postgres(root)
        server = next(servers)
        server.create("outcomes")
        try:
            with (
                closing(open_store(f"sqlite:///{root / 'store.db'}")) as sqlite,
                closing(open_store(server.url("outcomes"))) as postgres,
            ):
                yield dict(zip(DATABASES, (sqlite, postgres), strict=True))
        finally:
            next(servers, None)


def figures(*, quick: bool = False) -> list[Figure]:
    share = 10 if quick else 1
    with open_stores() as stores:
        return [
            figure
            for database, store in stores.items()
            for figure in (
                hundred_thousand(store, database, FORECASTS // share),
                one_hour(store, database, SERVICES // share),
            )
        ]
