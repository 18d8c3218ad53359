"""The three commands of a backup."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments import backup
from mlops.installation import open_installation
from mlops.settings import Settings, current_settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlruns: str) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("MLOPS_BASE_PATH", str(tmp_path / "base"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlruns)
    return tmp_path / "base"


def test_an_installation_is_taken_restored_and_checked(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_installation(current_settings()).store  # noqa: B018 - it is made
    assert backup.main(["take", "copies"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "not in it:" in lines
    open_installation(current_settings()).close()
    home.rename(home.with_name("away"))
    assert backup.main(["restore", lines[-1]]) == 0
    assert "restored the backup of" in capsys.readouterr().out
    assert backup.main(["check"]) == 0
    assert capsys.readouterr().out == "nothing is wrong\n"


def test_a_place_without_a_store_is_neither_copied_nor_said_to_be_well(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home.mkdir()
    assert backup.main(["take", "copies"]) == 1
    assert "store.db, so nothing was copied" in capsys.readouterr().err
    assert backup.main(["check"]) == 1
    assert "there is no store" in capsys.readouterr().out
    assert list(home.iterdir()) == []
    assert not Path("copies").exists()


def test_a_folder_that_is_no_backup_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert backup.main(["restore", "nowhere"]) == 1
    assert "nowhere is no backup" in capsys.readouterr().err
    assert not (home / "store.db").exists()


def test_what_is_wrong_is_the_exit_status(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.mkdir()
    (home / "store.db").write_bytes(b"no database" * 1000)
    assert backup.main(["check"]) == 1
    assert "is damaged" in capsys.readouterr().out
