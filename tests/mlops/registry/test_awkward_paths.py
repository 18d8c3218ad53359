"""A base path with characters that mean something in URLs holds all that is written, and works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from mlops.backup import find_problems, restore_backup, take_backup
from mlops.features.dataset import Dataset
from mlops.installation import Installation
from mlops.paths import path_of
from mlops.registry import ensure_service, reconcile
from mlops.registry.connection import load
from mlops.settings import Settings
from mlops.store import Why, list_versions
from tests.awkward import COMBINED, NAMES
from tests.conftest import mlflow_forgets
from tests.project import seeded

from .conftest import AT, SERVICE


@contextmanager
def opened(base: Path) -> Iterator[Installation]:
    with mlflow_forgets():
        settings = Settings(_env_file=None, mlops_base_path=base)  # type: ignore[call-arg]
        installation = Installation(settings)
        yield installation
        installation.close()


def begin_service(installation: Installation, dataset: Dataset) -> str:
    """Register and load the baseline; returns its model id."""
    route = ensure_service(installation.registry, SERVICE, dataset, Why(AT))
    assert load(installation.registry, route.champion).check_examples() == 0.0
    assert not reconcile(installation.registry)
    assert find_problems(installation) == ()
    return route.champion


def load_by_mlflow(installation: Installation, bars: pd.DataFrame) -> None:
    """Load by plain MLflow: by its name, by the URI of its folder, and by its path."""
    import mlflow

    (version,) = list_versions(installation.store)
    folder = version.bundle_uri.partition("/data/bundle")[0]
    for uri in (f"models:/{SERVICE.key}@champion", folder, str(path_of(folder))):
        forecasts = mlflow.pyfunc.load_model(uri).predict(bars)
        assert forecasts.index[-1] == bars.index[-1]


def written_outside(root: Path, *folders: Path) -> list[Path]:
    return [
        path
        for path in root.rglob("*")
        if not any(path.is_relative_to(one) or one.is_relative_to(path) for one in folders)
    ]


@pytest.mark.usefixtures("unverified")
def test_an_installation_lives_in_an_awkward_folder_and_moves_to_another(
    tmp_path: Path,
    mlflow_template: Path,
    dataset: Dataset,
    bars: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    base, copies, moved = (tmp_path / place / COMBINED for place in ("base", "copies", "moved"))
    seeded(base, mlflow_template)
    with opened(base) as installation:
        model_id = begin_service(installation, dataset)
        load_by_mlflow(installation, bars)
        copy, _ = take_backup(installation, copies)
    base.rename(tmp_path / "base" / "gone")
    with opened(moved) as installation:
        restore_backup(installation, copy)
        assert find_problems(installation) == ()
        assert load(installation.registry, model_id).check_examples() == 0.0
        load_by_mlflow(installation, bars)
    places = (tmp_path / "base" / "gone", copies, moved, tmp_path / "cwd")
    assert written_outside(tmp_path, *places) == []
    assert list((tmp_path / "cwd").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_registered_and_loaded_in_each_of_these_folders(
    tmp_path: Path,
    dataset: Dataset,
    bars: pd.DataFrame,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MLflow makes its database by itself, and a clean process verifies the bundle."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    with opened(tmp_path / "base" / name) as installation:
        begin_service(installation, dataset)
        load_by_mlflow(installation, bars)
    assert written_outside(tmp_path, tmp_path / "base" / name, tmp_path / "cwd") == []
    assert list((tmp_path / "cwd").iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("unverified")
def test_two_folders_that_are_alike_up_to_such_a_character_share_nothing(
    tmp_path: Path, mlflow_template: Path, dataset: Dataset
) -> None:
    for name in ("team", "team#1", "team#2", "team?1", "team?2", "team%20", "team "):
        with opened(seeded(tmp_path / name, mlflow_template)) as installation:
            assert not list_versions(installation.store)
            begin_service(installation, dataset)
            (version,) = list_versions(installation.store)
            assert path_of(version.bundle_uri).is_relative_to(tmp_path / name / "mlruns")
