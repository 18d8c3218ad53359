"""A replica knows of its own: a store that is away, a spool that refuses, a full disk."""

from __future__ import annotations

import time
from collections import namedtuple
from pathlib import Path

import pytest

from mlops.serving.local_troubles import AWAY_S, find_local_troubles
from mlops.serving.runtime import Runtime

Usage = namedtuple("Usage", "total used free")


def find(runtime: Runtime, *folders: Path) -> dict[str, str]:
    return find_local_troubles(runtime.store_sync, runtime.spool, folders)


def test_a_replica_in_order_has_none(runtime: Runtime, tmp_path: Path) -> None:
    assert find(runtime, tmp_path) == {}


def test_a_store_is_away_after_a_minute(runtime: Runtime) -> None:
    runtime.store_sync.store_away_since = time.monotonic() - AWAY_S + 30
    assert find(runtime) == {}
    runtime.store_sync.store_away_since = time.monotonic() - AWAY_S
    assert find(runtime)["store away"].startswith("the store has been away for 60 s")


def test_a_spool_that_refuses_and_a_full_disk_are_named(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.spool.trouble = "the spool cannot be written"
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(100, 100, 0))
    troubles = find(runtime, tmp_path)
    assert troubles["spool refused"] == "the spool cannot be written"
    assert f"the disk of {tmp_path} is full (ENOSPC" in troubles["disk full"]
