"""A replica with another key than the store's does not start; a rotation is two commands."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments import keys, replica
from mlops.installation import open_installation
from mlops.models.signing import load_key, load_or_make_key
from mlops.registry.connection import key_file
from mlops.settings import Settings, current_settings
from mlops.store import list_replicas
from mlops.store.identity import record_first_key


@pytest.fixture
def home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlite_template: Path, mlruns: str
) -> Iterator[Path]:
    """A base path whose store knows its key."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("MLOPS_BASE_PATH", str(tmp_path / "first"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlruns)
    monkeypatch.setenv("STORE_URL", f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}")
    key = load_or_make_key(key_file(tmp_path / "first"))
    installation = open_installation(current_settings())
    with installation.store.write() as connection:
        record_first_key(connection, key.fingerprint)
    yield tmp_path / "first"
    installation.close()


@pytest.mark.parametrize("foreign", [True, False])
def test_a_replica_of_a_second_machine_without_the_right_key_does_not_start(
    home: Path, monkeypatch: pytest.MonkeyPatch, foreign: bool
) -> None:
    second = home.with_name("second")
    monkeypatch.setenv("MLOPS_BASE_PATH", str(second))
    if foreign:
        load_or_make_key(key_file(second))
    with pytest.raises(SystemExit, match=r"does not start: signing key .*second.*mode 0600"):
        replica.main(["--port", "0"])
    assert list_replicas(open_installation(current_settings()).store) == ()


def test_the_commands_rotate_the_key(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = load_key(key_file(home))
    assert keys.main(["add"]) == 0
    assert "bundle.key.next to the same folder of every other machine" in capsys.readouterr().out
    assert keys.main(["drop"]) == 0
    assert load_key(key_file(home)).secret != old.secret
    assert keys.main(["drop"]) == 1
    assert "begin a rotation with `python -m deployments.keys add`" in capsys.readouterr().err
