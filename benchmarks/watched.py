"""Hundreds of services in a base path of their own, each with a real champion and its forecasts.

All of them trade the embedded BTC sample: one linear model is trained on its first bars, and
every service's version is that model in a bundle of its own, which no run knows to be like the
others.
"""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import sqlalchemy as sa

from mlops.data.cache import BarCache
from mlops.data.load import load_bars
from mlops.data.segments import Head
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models.base import FitContext, build_forecaster, default_recipe
from mlops.models.bundle import Bundle, open_bundle
from mlops.models.signing import load_or_make_key
from mlops.registry import BundleParts, bundle_parts, write_bundle
from mlops.registry.connection import key_file
from mlops.search.config import TrainingConfig
from mlops.search.slices import cut_slices
from mlops.service import Service, Target, Timeframe
from mlops.store import ModelVersion, Status, Store, Why, open_store
from mlops.store.routes import begin_route, change_route
from mlops.store.schema import forecast
from mlops.store.versions import insert_version
from mlops.training.judgement import declared_baseline, walk_baseline
from mlops.validation.records import cut_record, evaluate_record

HOUR = timedelta(hours=1)
TARGET = TargetSpec(Target.VOLATILITY, 24)
YOUNG_BARS = 1_500
"""Bars after the training: the last ones of the sample."""

FORECAST_BARS = 500
"""The last bars before ``begins`` that have a forecast on record."""

COMING_BARS = 48
"""Bars after ``begins``, forecast as well: one is met in each hourly run."""

VENUE = "kraken"
"""A venue whose bars a feed keeps on disk; nothing asks it for any."""


@dataclass(frozen=True, slots=True)
class Watched:
    """Where the services live, and the market time of the first run."""

    home: Path
    store_url: str
    begins: datetime


def service(number: int) -> Service:
    return Service.of(
        venue=VENUE, symbol=f"S{number}/USD", timeframe="1h", target="volatility", horizon=24
    )


def make_watched(home: Path, store_url: str, services: int) -> Watched:
    """Train, register and serve; what had been forecast by ``begins`` is on record."""
    home.mkdir(parents=True)
    known = load_bars(Service.parse("sample.btc-usd.1h.volatility.24"), cache_root=home)
    bars = known.frame
    parts, key = _trained(_dataset(bars[:-YOUNG_BARS])), load_or_make_key(key_file(home))
    keep_bars(home, bars, services)
    begins = (bars.index[-COMING_BARS - 1] + HOUR).to_pydatetime()
    made: pd.Series | None = None
    with closing(open_store(store_url)) as store:
        for number in range(services):
            of, place = service(number), home / "bundles" / str(number)
            write_bundle(replace(parts, config={**parts.config, "service": of.key}), place, key)
            bundle = open_bundle(place)
            if made is None:
                made = bundle.predict(bars).iloc[-FORECAST_BARS - COMING_BARS :]["forecast"]
            _serve(store, of, bundle, begins)
            _record(store, of, made)
    return Watched(home, store_url, begins)


def keep_bars(home: Path, bars: pd.DataFrame, services: int) -> None:
    """As a feed leaves them, for every service's market."""
    cache = BarCache(home / "bars")
    first, *others = (
        cache.series(VENUE, service(n).symbol, Timeframe("1h")) for n in range(services)
    )
    with first.lock(1.0):
        first.append(bars, Head())
    for series in others:
        shutil.copytree(first.folder, series.folder)


def _trained(dataset: Dataset) -> BundleParts:
    """A linear model with its record on the holdout, as a training leaves it."""
    forecaster = build_forecaster(default_recipe("linear", TARGET), TARGET)
    slices = cut_slices(dataset, TrainingConfig(refits=2, holdout_refits=1), min_bars=1_000)
    fold = slices.holdout[0]
    forecaster.fit(dataset, fold.fit, fold.selection, FitContext())
    forecasts = np.full(len(dataset), np.nan)
    forecasts[fold.test] = forecaster.predict(dataset, fold.test)
    naive = walk_baseline(declared_baseline(dataset), dataset, slices.holdout)
    held = cut_record(dataset, fold.test, forecasts, naive, slices.fold_of_row(len(dataset)))
    return bundle_parts(
        forecaster,
        dataset,
        service(0),
        evaluation=evaluate_record(held, dataset, fee_bps=10.0).to_dict(),
        record=held,
    )


def _serve(store: Store, of: Service, bundle: Bundle, begins: datetime) -> None:
    trained = datetime.fromisoformat(bundle.config["trained_until"])
    champion = ModelVersion(
        model_id=f"linear_{of.key}",
        service=of.key,
        mlflow_version=2,
        run_id="",
        model_type="linear",
        symbol=of.symbol,
        status=Status.DEPLOYED,
        digest=bundle.digest,
        bundle_uri=bundle.path.as_uri(),
        watermark=bundle.config["watermark"],
        trained_until=trained,
        recipe_digest=bundle.forecaster.recipe.digest,
        claims_only=False,
        code_version="",
        created_at=trained,
        notes={"fitted_until": trained.isoformat()},
    )
    baseline = replace(
        champion,
        model_id=f"persistence_{of.key}",
        mlflow_version=1,
        model_type="persistence",
        notes={},
    )
    why = Why(begins)
    with store.write() as connection:
        for version in (baseline, champion):
            insert_version(connection, version, why)
        route = begin_route(connection, of.key, baseline.model_id, why)
        after = replace(route, champion=champion.model_id, previous_champion=baseline.model_id)
        change_route(connection, route, after, "promoted", why)


def _record(store: Store, of: Service, made: pd.Series) -> None:
    """Put a forecast of each bar on record, the coming ones too: none is due before its outcome."""
    fixed: dict[str, object] = {
        "service": of.key,
        "model_id": f"linear_{of.key}",
        "role": "record",
        "low": None,
    }
    fixed |= {"high": None, "generation": 2, "replica_id": "r0", "bars_digest": "b" * 64}
    rows = [
        fixed | {"bar": bar, "made_at": bar + HOUR, "value": float(value)}
        for bar, value in zip(pd.DatetimeIndex(made.index).to_pydatetime(), made, strict=True)
    ]
    with store.write() as connection:
        connection.execute(sa.insert(forecast), rows)


def _dataset(bars: pd.DataFrame) -> Dataset:
    return Dataset(bars, timeframe=Timeframe("1h"), target=TARGET)
