"""A replica that cannot load costs no champion its place, and no other service its replica."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mlops.store import Status, Why, get_version, list_routes
from mlops.store.replicas import LoadCause
from mlops.store.routes import begin_route
from mlops.store.schema import version
from mlops.store.versions import insert_version
from tests.faults.stage import Stage
from tests.faults.template import AT, BASELINE, CHAMPION, KEY
from tests.faults.world import REPLICAS, World, http_status

pytestmark = pytest.mark.faults

OTHERS = (f"{KEY}0", f"{KEY}8")
"""Two services beside the template's."""

TICKS_S = 2.0
"""Some ten ticks of a controller."""


@pytest.mark.beside
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_bundles_that_are_away_while_all_replicas_start_cost_no_champion_its_place(
    stage: Stage, database: str
) -> None:
    with stage.world("bundles-away", database) as world:
        with away(own_bundles(world)):
            for who in REPLICAS:
                world.replica(who, wait=False)
            world.until(lambda: all(lacks(world, who) for who in REPLICAS), "both have failed")
            time.sleep(TICKS_S)
            _is_untouched(world)
            assert not any(world.ready(who) for who in REPLICAS)
        world.until(lambda: all(holds(world, who) for who in REPLICAS), "both have loaded")
        world.prober()
        world.until(world.in_rotation, "both answer")
        _is_untouched(world)
        world.check()
        served = {request.answer.version for request in world.results().requests}
        assert served == {CHAMPION}


@pytest.mark.beside
def test_a_replica_short_of_memory_costs_a_champion_that_works_elsewhere_nothing(
    stage: Stage,
) -> None:
    with stage.world("short-of-memory") as world:
        world.replica(REPLICAS[0])
        short = world.replica(REPLICAS[1], no_memory_for=[CHAMPION])
        world.prober()
        world.until(world.in_rotation, "both answer")
        world.until(lambda: lacks(world, short.who), "one is short of memory")
        time.sleep(TICKS_S)
        _is_untouched(world)
        world.terminate(short)
        world.replica(short.who)
        world.until(lambda: holds(world, short.who), "it has loaded")
        _is_untouched(world)
        world.check()
        served = {request.answer.version for request in world.results().requests}
        assert served == {CHAMPION, BASELINE}


@pytest.mark.beside
def test_a_service_whose_bundle_is_gone_keeps_no_restarted_replica_from_the_others(
    stage: Stage,
) -> None:
    with stage.world("one-bundle-gone") as world:
        bundles = own_bundles(world)
        begin_others(world, bundles)
        shutil.rmtree(bundles / OTHERS[0])
        for _ in range(2):
            replica = world.replica(REPLICAS[0])
            assert [is_ready(world, service) for service in (KEY, *OTHERS)] == [200, 503, 200]
            world.terminate(replica)
        with away(bundles):
            replica = world.replica(REPLICAS[0], wait=False)
            world.until(lambda: lacks(world, REPLICAS[0]), "it has failed to load")
            time.sleep(TICKS_S)
            assert not world.ready(REPLICAS[0])
        world.until(lambda: world.ready(REPLICAS[0]), "it is ready", process=replica)
        assert len(list_routes(world.store)) == 3
        _is_untouched(world)


@pytest.mark.beside
def test_a_second_process_of_a_name_ends_and_harms_the_first_one_in_nothing(stage: Stage) -> None:
    with stage.world("two-of-a-name") as world:
        first = world.replica(REPLICAS[0])
        world.until(lambda: holds(world, first.who), "it has loaded")
        before = world.said(first.who)
        second = world.replica(first.who, wait=False)
        assert second.wait() != 0
        assert "another process serves as replica" in second.tail()
        time.sleep(TICKS_S)
        after = world.said(first.who)
        assert before is not None
        assert after is not None
        assert (after.incarnation, after.started_at) == (before.incarnation, before.started_at)
        assert world.ready(first.who)


def own_bundles(world: World) -> Path:
    """Copies of the bundles of the service, which belong to this scenario alone."""
    folder = world.folder / "bundles"
    for model_id in (BASELINE, CHAMPION):
        shutil.copytree(world.template.folder / "bundles" / model_id, folder / model_id)
        with world.store.write() as connection:
            uri = (folder / model_id).as_uri()
            connection.execute(
                version.update().where(version.c.model_id == model_id).values(bundle_uri=uri)
            )
    return folder


def begin_others(world: World, bundles: Path) -> None:
    """Begin two more services, each on a baseline that is named for it."""
    row = get_version(world.store, BASELINE)
    for service in OTHERS:
        shutil.copytree(bundles / BASELINE, bundles / service)
        baseline = replace(
            row,
            model_id=service,
            service=service,
            status=Status.DEPLOYED,
            bundle_uri=(bundles / service).as_uri(),
        )
        with world.store.write() as connection:
            insert_version(connection, baseline, Why(AT))
            begin_route(connection, service, service, Why(AT))


@contextmanager
def away(folder: Path) -> Iterator[None]:
    """The folder is somewhere else while the block lasts."""
    elsewhere = folder.with_name("away")
    os.rename(folder, elsewhere)
    try:
        yield
    finally:
        os.rename(elsewhere, folder)


def lacks(world: World, who: str) -> bool:
    """Whether a replica has told that it cannot load the champion, by no fault of the version."""
    said = world.said(who)
    return said is not None and said.failed_to_load(CHAMPION, LoadCause.REPLICA)


def holds(world: World, who: str) -> bool:
    said = world.said(who)
    return said is not None and said.holds(CHAMPION)


def is_ready(world: World, service: str) -> int | None:
    return http_status(world.ports[REPLICAS[0]], f"/v2/models/{service}/ready")


def _is_untouched(world: World) -> None:
    route = world.route()
    assert (route.champion, route.previous_champion, route.generation) == (CHAMPION, None, 2)
    assert get_version(world.store, CHAMPION).status is Status.DEPLOYED
