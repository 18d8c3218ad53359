"""Old files of a base path go, and those in use stay."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from filelock import FileLock

from mlops.errors import RegistryError
from mlops.registry.connection import Registry
from mlops.retention import (
    DAY_S,
    MOST_ITEMS,
    Retention,
    remove_cached,
    remove_drift_pages,
    remove_lock_files,
    remove_old,
    remove_studies,
)
from mlops.settings import Settings
from mlops.store import open_store

DIGEST, OTHER = "a" * 64, "b" * 64


def write(path: Path, *, days_old: float = 100.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return age(path, days_old)


def age(path: Path, days: float) -> Path:
    written = time.time() - days * DAY_S
    os.utime(path, (written, written))
    return path


def test_a_study_goes_once_nothing_was_written_to_it_for_long(tmp_path: Path) -> None:
    old, resumed, locked = (tmp_path / "service" / name for name in ("old", "resumed", "locked"))
    for study in (old, resumed, locked):
        write(study / "journal.log")
        write(study / "study.lock")
    write(resumed / "trial-1.parquet", days_old=1)
    with FileLock(locked / "study.lock"):
        age(locked / "study.lock", 100)
        assert remove_studies(tmp_path, days=30) == 1
    assert not old.exists()
    assert (resumed / "journal.log").exists()
    assert (locked / "journal.log").exists()


def test_old_drift_pages_go_and_model_cards_stay(tmp_path: Path) -> None:
    card = write(tmp_path / "linear_BTC_20250310_000000.html")
    old = write(tmp_path / "linear_BTC_20250310_000000-20250401T0000.html")
    new = write(tmp_path / "linear_BTC_20250310_000000-20250402T0000.html", days_old=1)
    assert remove_drift_pages(tmp_path, days=30) == 1
    assert (card.exists(), old.exists(), new.exists()) == (True, False, True)


def test_a_cached_bundle_goes_unless_it_is_in_use_or_young(tmp_path: Path) -> None:
    for name in ("bundles", "references", "features"):
        (tmp_path / name).mkdir()
    used = write(tmp_path / "bundles" / DIGEST / "manifest.json").parent
    unused = write(tmp_path / "bundles" / OTHER / "manifest.json").parent
    age(used, 100)
    age(unused, 100)
    kept = write(tmp_path / "references" / f"{DIGEST}-168-1.safetensors")
    write(tmp_path / "references" / f"{OTHER}-168-1.safetensors")
    write(tmp_path / "features" / f"{OTHER}.npy")
    young = write(tmp_path / "features" / "young.npy", days_old=1)
    assert remove_cached(tmp_path, {DIGEST}, days=30) == 3
    assert used.exists()
    assert kept.exists()
    assert young.exists()
    assert not unused.exists()


def test_the_lock_of_a_dead_replica_goes_and_that_of_a_live_one_stays(tmp_path: Path) -> None:
    dead, live, waiting = (tmp_path / f"{name}.lock" for name in ("dead", "live", "waiting"))
    for path in (dead, live, waiting):
        write(path)
    write(waiting.with_suffix(".jsonl"))
    with FileLock(live):
        age(live, 100)
        assert remove_lock_files(tmp_path) == 1
    assert (dead.exists(), live.exists(), waiting.exists()) == (False, True, True)


def test_one_call_removes_a_limited_number_of_files(tmp_path: Path) -> None:
    for number in range(MOST_ITEMS + 5):
        write(tmp_path / f"model-20250401T{number:04}.html")
    assert remove_drift_pages(tmp_path, days=30) == MOST_ITEMS
    assert remove_drift_pages(tmp_path, days=30) == 5


def test_a_file_that_cannot_be_removed_keeps_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = write(tmp_path / "stuck-20250401T0000.html")
    write(tmp_path / "other-20250401T0000.html")
    unlink = Path.unlink

    def refuse(path: Path) -> None:
        if path == stuck:
            raise PermissionError("read-only")
        unlink(path)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert remove_drift_pages(tmp_path, days=30) == 1


def test_a_missing_folder_has_nothing_old(tmp_path: Path) -> None:
    assert remove_studies(tmp_path / "studies", days=1) == 0
    assert remove_cached(tmp_path / "nothing", (), days=1) == 0


def test_where_mlflow_is_away_everything_else_is_removed_first(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    page = write(tmp_path / "reports" / "model-20250401T0000.html")

    def refuse() -> Registry:
        raise RegistryError("MLflow is away")

    with pytest.raises(RegistryError):
        remove_old(store, tmp_path, refuse, Retention.of(Settings(_env_file=None)))
    store.close()
    assert not page.exists()
