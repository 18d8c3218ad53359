"""A service on a file of simulated bars, models from elsewhere, and records that are lived."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlops.arrays import FloatArray
from mlops.data.file_options import BarsChoice
from mlops.data.simulator import simulate_bars
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.manager import MLOpsManager
from mlops.models.base import FitContext, Forecaster, build_forecaster, default_recipe
from mlops.models.bundle import Trust, trust_in_process
from mlops.monitoring.performance.outcomes import match_outcomes
from mlops.registry import ensure_service
from mlops.registry.connection import load
from mlops.registry.markets import keep_chosen_file, set_market_of
from mlops.service import Service
from mlops.settings import FileClock, Settings
from mlops.store import ForecastRow, ModelVersion, Store, Why
from mlops.store.forecasts import Role
from mlops.store.schema import forecast
from tests.conftest import mlflow_forgets
from tests.mlops.monitoring.ticker import forecast_row
from tests.project import seeded

BARS, SEED, FITTED = 2400, 5, 1400
"""A linear model that is fitted on so many of these bars passes every gate on the others."""
CLAIMS = {"mse": 0.05, "mae": 0.03, "r2_score": 0.92, "accuracy": 0.85}
HOUR = timedelta(hours=1)
AFTER = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + 48 * HOUR
"""The first bar of every record: its outcome is known after any registration of the run."""


class LookUp:
    """A table of outcomes by the open of a bar; it knows nothing of bars that are not in it."""

    def __init__(self, outcomes: pd.Series, level: float, spread: float) -> None:
        self.outcomes, self.level, self.spread = outcomes, level, spread

    def predict(self, features: pd.DataFrame) -> FloatArray:
        hours = pd.DatetimeIndex(features.index).as_unit("s").asi8 / 3600.0
        unknown = self.level + self.spread * np.sin(2.1 * hours)
        known = self.outcomes.reindex(features.index).to_numpy()
        return np.where(np.isfinite(known), known, unknown)


class OutsideWorld:
    """An installation with one service for each target, all on the same file."""

    def __init__(self, folder: Path, template: Path) -> None:
        self.bars = folder / "bars.parquet"
        self.frame = simulate_bars(BARS, seed=SEED)
        self.frame.to_parquet(self.bars)
        self.settings = Settings(
            _env_file=None,
            mlops_base_path=seeded(folder / "base", template),
            default_venue="simulator",
            allow_signed_pickle=True,
            fee_bps=0.0,
            min_r2_score=0.3,
            health_check_timeout=60,
        )
        self.manager = MLOpsManager(self.settings)

    @property
    def store(self) -> Store:
        return self.manager.store

    @cached_property
    def until(self) -> datetime:
        """The close of the last bar that `honest` was fitted on."""
        opened: datetime = self.frame.index[FITTED - 1].to_pydatetime()
        return opened + HOUR

    def service(self, target: str, horizon: int) -> Service:
        return self.settings.service("BTC/USD", target=target, horizon=horizon)

    def begin(self, service: Service, clock: FileClock = FileClock.WALL) -> None:
        """Begin a service on the file of bars."""
        choice = BarsChoice(bars_file=str(self.bars), file_clock=clock)
        root = self.settings.bars_path
        keep_chosen_file(self.store, service, choice, root)
        why = Why(self.frame.index[0].to_pydatetime())
        within = [set_market_of(service, choice, why)]
        ensure_service(self.manager.registry, service, self.dataset(service), why, within)

    def dataset(self, service: Service, frame: pd.DataFrame | None = None) -> Dataset:
        return Dataset(
            self.frame if frame is None else frame,
            timeframe=service.timeframe,
            target=TargetSpec(service.target, service.horizon),
        )

    def honest(self, service: Service) -> Forecaster:
        """A linear model that was fitted on the first bars."""
        dataset = self.dataset(service, self.frame.iloc[:FITTED])
        forecaster = build_forecaster(default_recipe("linear", dataset.target), dataset.target)
        rows = np.flatnonzero(dataset.labels.valid & forecaster.ready(dataset))
        forecaster.fit(dataset, rows[:1000], rows[1000:], FitContext())
        return forecaster

    def look_up(self, service: Service, *, noise: float = 0.0, seed: int = 1) -> LookUp:
        """A table of all outcomes of the file, blurred by noise in units of their spread."""
        dataset = self.dataset(service)
        y = pd.Series(dataset.labels.y, dataset.frame.index).dropna()
        spread = float(y.std())
        blurred = y + noise * spread * np.random.default_rng(seed).standard_normal(len(y))
        return LookUp(blurred, float(y.mean()), spread)

    def register(self, model: object, service: Service, **metadata: Any) -> ModelVersion:
        parts = {"target": str(service.target), "horizon": service.horizon}
        kind = "linear" if isinstance(model, Forecaster) else "custom"
        called = self.manager.register_model(
            model, kind, service.symbol, CLAIMS, metadata={**parts, **metadata}
        )
        return asyncio.run(called)

    def judge(self, model_id: str, *given: Any, **named: Any) -> ModelVersion:
        return asyncio.run(self.manager.judge_model(model_id, *given, **named))

    def live_record(self, version: ModelVersion, bars: int = 1000, seed: int = SEED) -> None:
        """Let a version shadow its service on bars after its registration.

        They are those of the file again, or with another seed others, under new times.
        """
        service = Service.parse(version.service)
        frame = simulate_bars(bars, seed=seed, start=AFTER)
        dataset = self.dataset(service, frame)
        bundle = load(self.manager.registry, version.model_id)
        forecasts = bundle.forecaster.forecast(dataset)
        rows = [
            forecast_row(
                service, at.to_pydatetime(), model_id=version.model_id, role=Role.SHADOW,
                value=float(value),
            )
            for at, value in zip(dataset.frame.index, forecasts, strict=True)
            if np.isfinite(value)
        ]  # fmt: skip
        values = [{name: getattr(row, name) for name in ForecastRow.__slots__} for row in rows]
        with self.store.write() as connection:
            connection.execute(forecast.insert(), values)
        now = AFTER + bars * HOUR
        [matched] = [
            one
            for one in match_outcomes(
                self.store,
                lambda asked: dataset if asked == service else None,
                now=now,
                lookback_bars=None,
            )
            if one.service == service.key
        ]
        assert not matched.trouble


@contextmanager
def outside_world(folder: Path, template: Path) -> Iterator[OutsideWorld]:
    with mlflow_forgets():
        world = OutsideWorld(folder, template)
        yield world
        world.store.close()
        trust_in_process(Trust())
