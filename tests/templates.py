"""What many tests start from: a process that forks others, and trainings made once and copied."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from tests.zygote import Zygote, import_pipeline

if TYPE_CHECKING:
    from tests.studied import Studied

__all__ = [
    "returns",
    "returns_once",
    "trained_template",
    "volatility",
    "volatility_once",
    "zygote",
]

RETURNS = {"target": "return", "horizon": 1, "features": ("log_return",)}


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Forks processes that have imported the pipeline."""
    opened = Zygote(tmp_path_factory.mktemp("zygote") / "zygote.log", import_pipeline)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def trained_template(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Path:
    """A project whose service has a linear challenger, to be copied.

    One worker trains it for all. It stays where it was made, because MLflow keeps absolute paths.
    """
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "template-trained"
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            folder.mkdir()
            _register(_study(folder, mlflow_template))
            (folder / "done").touch()
    return folder


@pytest.fixture(scope="session")
def volatility_once(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Studied:
    """A linear model that passes every gate; the environment does not point at its project."""
    return _study(tmp_path_factory.mktemp("volatility"), mlflow_template)


@pytest.fixture(scope="session")
def returns_once(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Studied:
    """A linear model of next hour's return, which is noise; the environment points elsewhere."""
    return _study(tmp_path_factory.mktemp("returns"), mlflow_template, **RETURNS)


@pytest.fixture
def volatility(volatility_once: Studied) -> Iterator[Studied]:
    """A linear model that passes every gate."""
    with volatility_once.entered() as studied:
        yield studied


@pytest.fixture
def returns(returns_once: Studied) -> Iterator[Studied]:
    """A linear model of next hour's return, which is noise."""
    with returns_once.entered() as studied:
        yield studied


def _study(folder: Path, mlflow_template: Path, **asked: Any) -> Studied:
    from tests.project import made_place, skip_verification
    from tests.studied import Studied

    with made_place(folder, mlflow_template) as place:
        skip_verification(place.patch)
        return Studied.of(place, **asked)


def _register(studied: Studied) -> None:
    """Register what must pass, and leave one file of a database that nobody has open."""
    with studied.entered():
        assert studied.registered().status == "challenger"
    store = studied.project.registry.store
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
