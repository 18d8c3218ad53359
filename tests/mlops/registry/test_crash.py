"""kill -9 at six points of registration: no half version, no broken alias, the next run works."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from tests.mlops.registry.crash import POINTS, live
from tests.zygote import Zygote


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(range(4, 6), id="after its commit"),
        pytest.param(range(len(POINTS) + 1), id="at each point", marks=pytest.mark.slow),
    ],
)
def crashes(
    tmp_path_factory: pytest.TempPathFactory,
    mlflow_template: Path,
    zygote: Zygote,
    request: pytest.FixtureRequest,
) -> list[dict[str, object]]:
    """What each process but the first found; they run once, for they cost seconds."""
    folder = tmp_path_factory.mktemp("crashes")
    (folder / "mlruns").mkdir()
    shutil.copy(mlflow_template, folder / "mlruns" / "mlflow.db")
    log = folder / "processes.log"
    for turn in request.param:
        process = zygote.spawn(live, str(folder), turn, log=log)
        expected = -signal.SIGKILL if turn < len(POINTS) else 0
        assert process.wait(120) == expected, process.tail()
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return lines[-len(request.param) + 1 :]


def test_a_killed_registration_leaves_nothing_half(crashes: list[dict[str, object]]) -> None:
    assert crashes
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
    # The first process of a few has registered a version before its own death.
    earlier = 0 if len(crashes) == len(POINTS) else 1
    for crash in crashes:
        assert isinstance(crash["after"], dict)
        kept[crash["point"]] = len(crash["after"]["rows"]) - earlier
        earlier = len(crash["after"]["rows"]) + 1
    committed = ("_commit", "_mirror_aliases")
    assert kept == {point: int(point in committed) for point in kept}
    assert len(kept) == len(crashes)
