"""The store is away for a minute: serving goes on, nobody new is exposed, nothing is lost."""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest

from tests.faults.outage import GONE, LOCKED, SILENT, away
from tests.faults.outages import kinds_of, settle, sit_out
from tests.faults.stage import Stage
from tests.lines import line_to

SECONDS = float(os.environ.get("OUTAGE_SECONDS", "60"))
SILENCE_S = min(SECONDS, 20.0)
"""A server that does not answer is given up after a few seconds, and from then on it is gone."""
SHORT_S = min(SECONDS, 20.0)
"""In the quick run."""

faults = pytest.mark.faults


@faults
@pytest.mark.beside(waits=True)
@pytest.mark.parametrize(
    ("database", "kind", "seconds"),
    [
        ("sqlite", GONE, SHORT_S),
        *(
            (database, kind, SILENCE_S if kind == SILENT else SECONDS)
            for database in ("sqlite", "postgres")
            for kind in kinds_of(database)
        ),
    ],
)
def test_while_the_store_is_away_replicas_serve_the_champion_and_keep_every_forecast(
    stage: Stage, database: str, kind: str, seconds: float
) -> None:
    sit_out(stage, database, kind, seconds=seconds)


@faults
@pytest.mark.beside(waits=True)
@pytest.mark.parametrize(("database", "kind"), [("sqlite", LOCKED), ("postgres", SILENT)])
def test_a_replica_may_be_ended_and_its_forecasts_arrive_though_the_store_is_away(
    stage: Stage, database: str, kind: str
) -> None:
    with stage.world(f"ended-{kind}", database) as world, ExitStack() as stack:
        line, url = None, None
        if database == "postgres":
            line, url = stack.enter_context(line_to(world.url))
        leaving, _ = world.replicas(url=url)
        world.prober()
        world.until(world.in_rotation, "both replicas answer")
        with away(world, kind, line):
            handed_out = len(world.results().published)
            world.until(
                lambda: len(world.results().published) > handed_out + 4, "bars are forecast"
            )
            assert world.terminate(leaving, timeout_s=60.0) == 0, leaving.tail()
        settle(world)
        assert world.check().allowed == 0
