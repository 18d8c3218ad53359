"""No commit and no stage of a load is left out."""

import pytest

from tests.faults.armed import STAGES
from tests.faults.plans import every_fault
from tests.faults.points import commits_in_source, known_points, stages_in_source
from tests.faults.scenes import SCENES
from tests.faults.stage import Stage


def test_the_stages_of_a_load_are_those_of_the_source() -> None:
    assert stages_in_source() == set(STAGES)


def test_the_source_has_commits() -> None:
    found = commits_in_source()
    assert {"controller._take_arrow", "leases.acquire_lease", "replicas.acknowledge"} <= found
    assert len(found) >= 12


@pytest.mark.faults
@pytest.mark.beside
def test_every_commit_and_stage_of_the_source_is_visited(stage: Stage) -> None:
    seen = {visit.point for scene in SCENES for visit in stage.visited(scene)}
    assert known_points() <= seen | {point.partition("[")[0] for point in seen}


@pytest.mark.faults
@pytest.mark.beside
def test_every_point_that_is_visited_has_its_fault(stage: Stage) -> None:
    seen = {
        (role, visit.point)
        for scene in SCENES
        for role, visits in stage.rehearsed(scene).items()
        for visit in visits
    }
    assert seen == every_fault(stage)
