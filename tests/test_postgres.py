"""The tests' own Postgres: shared, never left running, and never silently left out."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests import postgres
from tests.forked import in_child
from tests.postgres import WITHOUT, PostgresMissing, shared_server


def test_a_second_user_gets_the_server_of_the_first(tmp_path: Path) -> None:
    with shared_server(tmp_path) as first, shared_server(tmp_path) as second:
        assert first == second


def test_a_server_ends_with_its_last_user_however_that_one_ends(tmp_path: Path) -> None:
    def use_and_die() -> None:
        with shared_server(tmp_path) as server:
            (tmp_path / "seen").write_text(str(server.folder))
            os.kill(os.getpid(), 9)

    assert in_child(use_and_die) == 9
    folder = Path((tmp_path / "seen").read_text())
    until = time.monotonic() + 30
    while folder.exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not folder.exists()


def test_where_nothing_can_be_started_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = tmp_path / "keeper.py"
    keeper.write_text("import sys; sys.exit('no initdb and postgres that run, in any place')")
    monkeypatch.setattr(postgres, "__file__", str(keeper))
    with pytest.raises(PostgresMissing, match=rf"no initdb.*\n.*make install.*{WITHOUT}=1"):
        shared_server(tmp_path).__enter__()


def test_binaries_that_do_not_run_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_candidates", lambda: iter([tmp_path / "bin"]))
    with pytest.raises(SystemExit, match=f"no initdb and postgres that run, in {tmp_path}/bin"):
        postgres._binaries(tmp_path, {})
