"""MLflow's tables take seconds to make, so they are made once and copied."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty MLflow database, shared by the workers of a parallel run."""
    from mlops.registry.tracking import connect

    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    database = root / "mlflow-template.db"
    with FileLock(f"{database}.lock"):
        if not database.exists():
            made = root / "mlflow-making"
            with mlflow_forgets():
                connect(f"file://{made}", "template")
            (made / "mlflow.db").rename(database)
    return database


@contextmanager
def mlflow_forgets() -> Iterator[None]:
    """Undo what MLflow writes into itself and the environment, where other tests would find it."""
    import mlflow

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        yield
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)


@pytest.fixture
def mlruns(tmp_path: Path, mlflow_template: Path) -> Iterator[str]:
    """The tracking URI of an MLflow of this test's own."""
    folder = tmp_path / "mlruns"
    folder.mkdir()
    shutil.copy(mlflow_template, folder / "mlflow.db")
    with mlflow_forgets():
        yield f"file://{folder}"
