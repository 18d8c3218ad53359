"""An installation is opened once for each process and each set of settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops.installation import MOST_OPEN, Installation, open_installation
from mlops.manager import MLOpsManager
from mlops.settings import Settings
from mlops.store import list_versions


def settings_of(folder: Path, **changes: Any) -> Settings:
    return Settings(_env_file=None, mlops_base_path=folder, **changes)


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    opened = open_installation(settings_of(tmp_path))
    yield opened
    opened.close()


def test_equal_settings_name_one_installation(installation: Installation, tmp_path: Path) -> None:
    assert open_installation(settings_of(tmp_path)) is installation
    assert MLOpsManager(settings_of(tmp_path)).store is installation.store


@pytest.mark.parametrize(
    "changes",
    [
        {"drift_threshold": 0.2},
        {"fee_bps_by_symbol": {"BTC/USD": 1.0}},
        {"store_url": "postgresql://anna:one@host/database"},
    ],
)
def test_each_setting_that_differs_names_another(
    installation: Installation, tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert open_installation(settings_of(tmp_path, **changes)) is not installation


def test_passwords_tell_installations_apart_though_they_are_never_shown() -> None:
    one, other = (
        Settings(_env_file=None, store_url=f"postgresql://anna:{word}@host/database")
        for word in ("one", "other")
    )
    assert repr(one) == repr(other)
    assert open_installation(one) is not open_installation(other)


def test_relative_paths_count_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        opened = open_installation(Settings(_env_file=None))
        assert list_versions(opened.store) == ()
        homes.append(opened.store.engine.url.database)
        opened.close()
    assert homes == [f"{tmp_path}/{name}/.mlops/store.db" for name in ("here", "there")]


def test_callers_with_another_patience_have_their_own_store(
    installation: Installation, tmp_path: Path
) -> None:
    impatient = open_installation(settings_of(tmp_path), patience_s=0.2)
    with installation.store.read():
        assert timeouts(installation, impatient) == [30_000, 200]
    assert open_installation(settings_of(tmp_path), patience_s=0.2) is impatient
    impatient.close()


def timeouts(*installations: Installation) -> list[int]:
    """Milliseconds that a connection of each store waits for a lock."""
    found = []
    for one in installations:
        with one.store.read() as connection:
            found.append(connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one())
    return found


def test_a_forked_process_opens_its_own(installation: Installation, tmp_path: Path) -> None:
    assert list_versions(installation.store) == ()
    child = os.fork()
    if not child:
        own = open_installation(settings_of(tmp_path))
        same = own is open_installation(settings_of(tmp_path))
        os._exit(0 if same and own is not installation and not list_versions(own.store) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert list_versions(installation.store) == ()


def test_a_closed_installation_is_opened_anew(installation: Installation, tmp_path: Path) -> None:
    assert list_versions(installation.store) == ()
    installation.close()
    assert installation.store.engine.pool.checkedin() == 0
    again = open_installation(settings_of(tmp_path))
    assert again is not installation
    again.close()


def test_a_store_that_was_replaced_is_opened_anew(
    installation: Installation, tmp_path: Path
) -> None:
    assert list_versions(installation.store) == ()
    for file in tmp_path.glob("store.db*"):
        file.unlink()
    again = open_installation(settings_of(tmp_path))
    assert list_versions(again.store) == ()
    again.close()


def test_a_process_keeps_a_limited_number_open(installation: Installation, tmp_path: Path) -> None:
    for number in range(MOST_OPEN):
        open_installation(settings_of(tmp_path, api_port=9000 + number))
    assert open_installation(settings_of(tmp_path)) is not installation


def test_mlflow_points_at_the_installation_used_last(tmp_path: Path, mlruns: str) -> None:
    import mlflow

    one, other = (
        open_installation(settings_of(tmp_path, mlflow_tracking_uri=mlruns, api_port=port))
        for port in (9001, 9002)
    )
    kept = one.registry
    mlflow.set_tracking_uri("sqlite:///elsewhere.db")
    assert one.registry is kept
    assert mlflow.get_tracking_uri() == kept.tracking.uri == other.registry.tracking.uri
    one.close()
    other.close()
