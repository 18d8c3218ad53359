"""Makes `store-9ae3cdf.tar.xz`: an installation as the code of commit 9ae3cdf left it.

It shows that later code opens what was written before it. It lies at a fixed path, because the
URIs of bundles and MLflow's artifact locations are absolute. To make it again, in a checkout of
commit 9ae3cdf where `make install` has run:

    cp <here>/tests/before/make_store.py .
    PYTHONPATH="$PWD" .venv/bin/python make_store.py <here>/tests/before/store-9ae3cdf.tar.xz

It runs with the modules of 9ae3cdf: its imports name those, and stay so when modules move.

In it: one service with its baseline, a linear version that went live by a canary rollout, a small
LSTM, and a refused ensemble; forecasts of record with their outcomes, a look at the champion, an
alert, a trigger and a watched version.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tarfile
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from mlops.data.simulator import simulate_bars
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.manager import MLOpsManager
from mlops.models.base import FitContext, build_forecaster, default_recipe
from mlops.models.recipe import Recipe
from mlops.monitoring.monitor import Monitor
from mlops.registry import Candidate, bundle_parts, ensure_service, load, register
from mlops.service import Service
from mlops.settings import Settings
from mlops.store import Status, Store, Why, get_route
from mlops.store.alerts import Condition, Trouble, raise_alert
from mlops.store.forecasts import ForecastRow, Role, record_forecasts
from mlops.store.triggers import Cause, Reason, raise_trigger

HOME = Path("/tmp/mlops-9ae3cdf")
SERVICE = Service.of(
    venue="simulator", symbol="BTC/USD", timeframe="1h", target="volatility", horizon=24
)
N_BARS, SEED = 1500, 1
LINEAR: dict[str, Any] = {"features": ["har_1", "har_24"], "sequence_length": 3}
LSTM = LINEAR | {"epochs": 1, "lstm_units": [4], "batch_size": 256}
ENSEMBLE = {
    "members": [
        Recipe("persistence"),
        Recipe("linear", features=("har_1", "har_24"), sequence_length=3),
    ]
}
N_FORECASTS = 100
AT = datetime(2025, 3, 10, tzinfo=UTC)
ANNA = {"actor": "anna", "reason": "it is better"}
LEFT_OUT = (".lock", "-wal", "-shm")


def main(archive: Path) -> None:
    """Make the installation at `HOME` and pack it."""
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir()
    # MLflow keeps the working directory as the place of its default experiment.
    os.chdir(HOME)
    frame = simulate_bars(N_BARS, seed=SEED)
    frame.to_parquet(HOME / "bars.parquet")
    dataset = Dataset(
        frame, timeframe=SERVICE.timeframe, target=TargetSpec(SERVICE.target, SERVICE.horizon)
    )
    manager = MLOpsManager(Settings(_env_file=None, mlops_base_path=HOME))
    with closing(manager.store):
        linear, lstm = register_versions(manager, dataset)
        if not asyncio.run(manager.deploy_model(linear, "canary", dwell_s=0, bake_s=0, **ANNA)):
            raise SystemExit(f"{linear} did not go live: {manager.rollouts()}")
        record_past(manager, linear, dataset)
        asyncio.run(manager.start_continuous_monitoring(lstm, 6.0, **ANNA))
        raise_warnings(manager.store, linear)
    forget_checkout(HOME / "mlruns" / "mlflow.db")
    for database in ("store.db", "mlruns/mlflow.db"):
        take_in_wal(HOME / database)
    pack(archive)


def register_versions(manager: MLOpsManager, dataset: Dataset) -> tuple[str, str]:
    """The baseline and three versions beside it; returns the linear one and the LSTM."""
    ensure_service(manager.registry, SERVICE, dataset, Why(AT))
    made = [
        register(manager.registry, candidate(dataset, *given), Why(AT, **ANNA)).model_id
        for given in (
            ("linear", LINEAR, Status.CHALLENGER),
            ("lstm", LSTM, Status.CHALLENGER),
            ("ensemble", ENSEMBLE, Status.REFUSED),
        )
    ]
    return made[0], made[1]


def candidate(
    dataset: Dataset, model_type: str, config: Mapping[str, Any], status: Status
) -> Candidate:
    forecaster = build_forecaster(
        default_recipe(model_type, dataset.target, config), dataset.target
    )
    rows = np.flatnonzero(dataset.labels.valid & forecaster.ready(dataset))
    cut = int(len(rows) * 0.8)
    forecaster.fit(dataset, rows[:cut], rows[cut:], FitContext())
    return Candidate(
        service=SERVICE,
        model_type=model_type,
        parts=bundle_parts(forecaster, dataset, SERVICE),
        status=status,
        recipe_digest=forecaster.recipe.digest,
        metrics={"mse": 0.25, "mae": float("nan")},
        notes={"config": {"bars_file": str(HOME / "bars.parquet")}},
    )


def record_past(manager: MLOpsManager, model_id: str, dataset: Dataset) -> None:
    """Forecasts of the newest bars on record, their outcomes, and a look at the champion."""
    step = pd.Timedelta(SERVICE.timeframe.step)
    route = get_route(manager.store, SERVICE.key)
    assert route is not None
    forecasts = load(manager.registry, model_id).predict(dataset.frame)["forecast"]
    rows = [
        ForecastRow(
            service=SERVICE.key,
            bar=bar.to_pydatetime(),
            model_id=model_id,
            role=Role.RECORD,
            value=float(value),
            low=0.5 * float(value),
            high=None,
            made_at=(bar + step).to_pydatetime(),
            generation=route.generation,
            replica_id="127.0.0.1:8100",
            bars_digest="d" * 64,
        )
        for bar, value in forecasts.iloc[-N_FORECASTS:].items()
    ]
    record_forecasts(manager.store, rows)
    monitor = Monitor(
        manager.store,
        open_bundle=lambda version: load(manager.registry, version.model_id),
        bars_of=lambda service: dataset,
        config=manager.monitor_config,
    )
    now = (dataset.frame.index[-1] + step).to_pydatetime()
    print(monitor.match(now))
    (looked,) = monitor.look(now)
    print("looked:", looked.check, looked.why_not)


def raise_warnings(store: Store, model_id: str) -> None:
    """An alert that lasts, and a trigger that waits."""
    trouble = Trouble(
        Condition.DATA_DRIFT, SERVICE.key, model_id, "The bars have drifted", "volume: 0.31"
    )
    reason = Reason(
        service=SERVICE.key,
        cause=Cause.PERSON,
        watermark=(AT + timedelta(hours=1)).isoformat(),
        champion=model_id,
        text="anna wants a fresh one",
        columns=("volume",),
    )
    with store.write() as connection:
        raise_alert(connection, trouble, at=AT)
        raise_trigger(connection, reason, at=AT)


def forget_checkout(database: Path) -> None:
    """Remove the path of the checkout that made the models, which MLflow keeps as a tag."""
    engine = sa.create_engine(f"sqlite:///{database}")
    with engine.begin() as connection:
        for table, key in (("tags", "key"), ("logged_model_tags", "tag_key")):
            connection.execute(
                sa.text(f"DELETE FROM {table} WHERE {key} = 'mlflow.source.git.repoURL'")
            )
    engine.dispose()


def take_in_wal(database: Path) -> None:
    """Bring what lies in the write-ahead log into the file itself, and drop free pages."""
    engine = sa.create_engine(f"sqlite:///{database}", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"))
        connection.execute(sa.text("VACUUM"))
    engine.dispose()


def pack(archive: Path) -> None:
    """Write `HOME` as an archive whose entries belong to nobody in particular."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return None if entry.name.endswith(LEFT_OUT) else entry

    with tarfile.open(archive, "w:xz", preset=9) as packed:
        packed.add(HOME, arcname=HOME.name, filter=plain)
    print(f"{archive}: {archive.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
