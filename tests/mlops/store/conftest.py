"""A fresh store, and rows to put in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlops.store import ModelVersion, Status, Store, Why, open_store
from mlops.store.live import begin_route
from mlops.store.versions import insert_version

NOW = datetime(2025, 1, 1, tzinfo=UTC)
SERVICE = "sample.btc-usd.1h.volatility.24"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = open_store(url)
    yield opened
    opened.close()


@pytest.fixture
def add(store: Store) -> Callable[..., ModelVersion]:
    """Put a version into the store; every field can be given."""

    def insert(model_id: str = "persistence_BTC_1", number: int = 1, **changes: object):
        values: dict[str, object] = {
            "model_id": model_id,
            "service": SERVICE,
            "mlflow_version": number,
            "run_id": "run",
            "model_type": "persistence",
            "symbol": "BTC/USD",
            "status": Status.DEPLOYED,
            "digest": "d" * 64,
            "bundle_uri": "file:///bundle",
            "watermark": "w" * 64,
            "trained_until": NOW,
            "recipe_digest": "r" * 64,
            "claims_only": False,
            "code_version": "0.1.0",
            "created_at": NOW,
        }
        row = ModelVersion(**(values | changes))  # type: ignore[arg-type]
        with store.write() as connection:
            insert_version(connection, row, Why(NOW))
        return row

    return insert


@pytest.fixture
def began(store: Store, add: Callable[..., ModelVersion]) -> Store:
    """A store whose one service has begun on its baseline."""
    baseline = add()
    with store.write() as connection:
        begin_route(connection, SERVICE, baseline.model_id, Why(NOW))
    return store
