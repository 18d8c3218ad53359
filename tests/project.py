"""A project of a test's own: an empty base path, small simulated bars, trainings of a second."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlops.data.file_options import BarsChoice
from mlops.data.simulator import simulate_bars
from mlops.registry.bar_files import identify_file
from mlops.registry.connection import Registry
from mlops.registry.markets import note_market
from mlops.search.config import ModelType, TrainingConfig
from mlops.search.search_plan import request_digest
from mlops.service import Service
from mlops.settings import Settings
from tasks.context import open_project
from tests.conftest import mlflow_forgets

SYMBOL = "BTC/USD"
SERVICE = "simulator.btc-usd.1h.volatility.24"
BARS, SEED = 2400, 4
"""Of these bars a linear model passes every gate with room to spare."""

QUICK = {
    "refits": 2,
    "holdout_refits": 2,
    "features": ("har_1", "har_24"),
    "sequence_length": 3,
}
SMALL_LSTM = {"epochs": 2, "lstm_units": [4], "batch_size": 256}
_CALL = ("target", "horizon", "reason", "symbol", "venue", "timeframe", "deployment_config")


class Place:
    """Where a project lives; the environment points at it."""

    def __init__(self, base: Path, bars: Path, patch: pytest.MonkeyPatch) -> None:
        self.base, self.bars, self.patch = base, bars, patch

    def set(self, **variables: object) -> None:
        """Set environment variables until the project ends."""
        for name, value in variables.items():
            self.patch.setenv(name, str(value))

    @cached_property
    def registry(self) -> Registry:
        return open_project().registry

    @property
    def frame(self) -> pd.DataFrame:
        return pd.read_parquet(self.bars)

    def config(self, **changes: Any) -> TrainingConfig:
        """A configuration that trains within a second."""
        return TrainingConfig(**{"bars_file": str(self.bars), **QUICK, **changes})

    def train(self, model_type: str = "linear", **changes: Any) -> Any:
        """Run the flow; ``changes`` are arguments of the flow or of the quick configuration."""
        from flows.train import train

        own = {name: changes.pop(name) for name in _CALL if name in changes}
        call = {"symbol": SYMBOL, "venue": "simulator", **own}
        return train(model_type=model_type, training=self.config(**changes), **call)


def seeded(base: Path, mlflow_template: Path) -> Path:
    """A new base path whose MLflow need not be migrated, which takes seconds."""
    (base / "mlruns").mkdir(parents=True)
    shutil.copy(mlflow_template, base / "mlruns" / "mlflow.db")
    return base


@contextmanager
def made_place(folder: Path, mlflow_template: Path) -> Iterator[Place]:
    """A new project in an empty folder, with no setting of the developer's own."""
    base = seeded(folder / "base", mlflow_template)
    bars = folder / "bars.parquet"
    simulate_bars(BARS, seed=SEED).to_parquet(bars)
    with entered_place(base, bars) as place:
        yield place


@contextmanager
def copied_place(folder: Path, template: Path) -> Iterator[Place]:
    """A copy of a project in an empty folder; what MLflow has kept beside bundles stays behind.

    Its versions are said to come from the copied bars, which a test may change.
    """
    shutil.copytree(template, folder, dirs_exist_ok=True)
    base, bars = folder / "base", folder / "bars.parquet"
    with closing(sqlite3.connect(base / "store.db")) as database, database:
        moved = (template.as_uri(), folder.as_uri())
        database.execute("UPDATE version SET bundle_uri = replace(bundle_uri, ?, ?)", moved)
        for model_id, text in database.execute("SELECT model_id, notes FROM version").fetchall():
            notes = json.loads(text.replace(str(template / bars.name), str(bars)))
            if "config" in notes:
                # The digest of a request and the id of a file cover the path of the bars.
                config = TrainingConfig.model_validate(notes["config"])
                notes["request"] = request_digest(ModelType(notes["asked_for"]), config)
                notes["market"] = note_market(Service.parse(SERVICE), config)
            row = (json.dumps(notes), model_id)
            database.execute("UPDATE version SET notes = ? WHERE model_id = ?", row)
        _move_markets(database, (str(template / bars.name), str(bars)))
    with entered_place(base, bars) as place:
        yield place


def _move_markets(database: sqlite3.Connection, moved: tuple[str, str]) -> None:
    """Say that the bars of all markets come from the copied file, whose id covers its path."""
    for service, text, old in database.execute("SELECT service, choice, file FROM market"):
        choice = BarsChoice.model_validate_json(text.replace(*moved))
        new = identify_file(Service.parse(service), choice)
        row = (choice.model_dump_json(exclude_defaults=True), new, service)
        database.execute("UPDATE market SET choice = ?, file = ? WHERE service = ?", row)
        database.execute("UPDATE bar_file SET id = ?, path = ? WHERE id = ?", (new, moved[1], old))
        database.execute("UPDATE bar_chunk SET file = ? WHERE file = ?", (new, old))


@contextmanager
def entered_place(base: Path, bars: Path) -> Iterator[Place]:
    """Let the environment point at a project that exists already."""
    with mlflow_forgets(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(base.parent)
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        patch.setenv("MLOPS_BASE_PATH", str(base))
        yield Place(base, bars, patch)


def skip_verification(patch: pytest.MonkeyPatch) -> None:
    """Leave out the clean process, which takes seconds, where a test is about something else."""
    patch.setattr("mlops.registry.registration._verify", lambda registry, logged: None)
