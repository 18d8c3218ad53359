"""kill -9 at seven points of a training: nothing half, and the next run goes on from there."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from tasks.concurrency import TRAINING_LIMIT
from tests.flows.crash import POINTS, live
from tests.project import made_place
from tests.zygote import Zygote

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True)
class Life:
    """One process: what it found, the recipes it walked, and what it left if it finished."""

    found: dict[str, Any]
    walked: list[str]
    left: dict[str, Any]

    @classmethod
    def of(cls, facts: list[dict[str, Any]]) -> Life:
        merged = {key: value for fact in facts for key, value in fact.items()}
        walked = [fact["walked"] for fact in facts if "walked" in fact]
        return cls(merged["found"], walked, merged.get("left", {}))


@pytest.fixture(scope="module")
def lives(
    tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path, zygote: Zygote
) -> Iterator[list[Life]]:
    """What each process said; they run once, for they cost seconds."""
    with made_place(tmp_path_factory.mktemp("killed"), mlflow_template) as place:
        # A killed training holds its slot until the lease runs out, a minute later.
        place.set(MAX_CONCURRENT_TRAINING_JOBS=20, PREFECT_API_URL=PREFECT_API_URL.value())
        place.set(PREFECT_LOGGING_LEVEL="ERROR", PREFECT_FLOWS_HEARTBEAT_FREQUENCY=600)
        log = place.base / "processes.log"
        for turn in range(len(POINTS) + 1):
            process = zygote.spawn(live, str(place.bars), turn, log=log)
            expected = -signal.SIGKILL if turn < len(POINTS) else 0
            assert process.wait(240) == expected, process.tail()
        facts = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        yield [Life.of([fact for fact in facts if fact["turn"] == turn]) for turn in range(8)]
    with get_client(sync_client=True) as client:
        # The server of the tests frees no leases: the dead would hold their slots for ever.
        client.delete_global_concurrency_limit_by_name(TRAINING_LIMIT)


def test_a_killed_training_leaves_no_version_that_the_store_has_not(lives: list[Life]) -> None:
    """Before any repair an alias names a committed version; what is not committed is pending."""
    for life in lives:
        found = life.found
        assert set(found["rows"]) <= set(found["versions"])
        assert set(found["aliases"].values()) <= set(found["rows"])
        if found["rows"] != found["versions"]:
            assert "pending" in found["statuses"]


def test_only_the_committed_version_survives_its_death(lives: list[Life]) -> None:
    assert [life.found["rows"] for life in lives] == [[], *[[1]] * 6, [1, 4]]


def test_the_next_run_puts_everything_right(lives: list[Life]) -> None:
    left = lives[-1].left
    assert left["rows"] == left["versions"] == [1, 4, 5]
    assert left["aliases"] == left["wanted"] == {"champion": 1, "baseline": 1, "challenger": 5}
    assert left["statuses"] == ["challenger", "deployed"]
    assert not left["staged"]


def test_runs_of_dead_processes_are_ended(lives: list[Life]) -> None:
    """Each process finds the one before it still running, and no older one."""
    assert [life.found["running"] for life in lives] == [0] + [1] * 7
    assert lives[-1].left["running"] == 0


def test_kept_trials_are_never_walked_again(lives: list[Life]) -> None:
    assert [len(life.walked) for life in lives] == [0, 2, 2, 0, 0, 0, 0, 0]
    walked = [digest for life in lives for digest in life.walked]
    assert len(set(walked)) == 4


def test_every_trial_is_counted_once(lives: list[Life]) -> None:
    assert [life.found["trials"] for life in lives] == [0, 0, 2, 4, 4, 4, 4, 4]
    assert lives[-1].left["trials"] == 4
