"""kill -9 at six points of registration: no half version, no broken alias, the next run works."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from tests.mlops.registry.crash import POINTS, live
from tests.zygote import Zygote

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def crashes(
    tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path, zygote: Zygote
) -> list[dict[str, object]]:
    """What each process found; they run once, for they cost seconds."""
    folder = tmp_path_factory.mktemp("crashes")
    (folder / "mlruns").mkdir()
    shutil.copy(mlflow_template, folder / "mlruns" / "mlflow.db")
    log = folder / "processes.log"
    for turn in range(len(POINTS) + 1):
        process = zygote.spawn(live, str(folder), turn, log=log)
        expected = -signal.SIGKILL if turn < len(POINTS) else 0
        assert process.wait(120) == expected, process.tail()
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def test_a_killed_registration_leaves_nothing_half(crashes: list[dict[str, object]]) -> None:
    assert len(crashes) == 6
    for crash in crashes:
        after, final = crash["after"], crash["final"]
        assert isinstance(after, dict)
        assert isinstance(final, dict)
        for state in (after, final):
            assert state["rows"] == state["versions"], crash["point"]
            assert len(state["rows"]) == state["logged"] == state["bundles"], crash["point"]
            assert set(state["statuses"]) <= {"challenger"}, crash["point"]
            assert state["aliases"] == state["wanted"], crash["point"]
            assert not state["staged"], crash["point"]
            assert state["running"] == 0, crash["point"]
        assert crash["changes"], "a crash leaves something to repair"
        assert crash["again"] == []
        assert len(final["rows"]) == len(after["rows"]) + 1


def test_aliases_never_pointed_at_a_half_version(crashes: list[dict[str, object]]) -> None:
    """Before any repair an alias names a committed version, or none."""
    for crash in crashes:
        before = crash["before"]
        assert isinstance(before, dict)
        assert set(before["aliases"].values()) <= set(before["rows"]), crash["point"]


def test_only_what_was_committed_is_kept(crashes: list[dict[str, object]]) -> None:
    kept: dict[object, int] = {}
    earlier = 0
    for crash in crashes:
        assert isinstance(crash["after"], dict)
        kept[crash["point"]] = len(crash["after"]["rows"]) - earlier
        earlier = len(crash["after"]["rows"]) + 1
    assert kept == {
        "_write": 0,
        "log_model": 0,
        "create_version": 0,
        "_verify": 0,
        "_commit": 1,
        "_mirror_aliases": 1,
    }
