"""A version with a longer window goes live where clients send enough bars; elsewhere it is held."""

from __future__ import annotations

import pytest

from mlops.rollout.runner import read_progress
from mlops.store import Phase, Rollout, Store
from mlops.store.request_counts import dealt_scope, read_tallies
from tests.bar_forms import FORMS
from tests.faults.laws import broken_in_store
from tests.faults.stage import Stage
from tests.faults.steady import Steady, request_of
from tests.faults.template import CHAMPION, KEY, LONGER
from tests.faults.world import REPLICAS, World

pytestmark = pytest.mark.faults
DATABASES = ("sqlite", "postgres")
ENOUGH_BARS, FEW_BARS = 250, 30


def client(world: World, bars: int) -> Steady:
    """Asks both replicas in every form."""
    sent = world.template.bars.iloc[-bars:]
    requests = {name: request_of(form(sent), KEY) for name, form in FORMS.items()}
    return Steady([world.ports[who] for who in REPLICAS], requests)


def faults_and_short(store: Store, rollout: Rollout) -> tuple[int, int]:
    """Faults of the challenger, and keys that sent too few bars for it."""
    with store.read() as connection:
        counted = read_tallies(connection, KEY, rollout.id)
        dealt = read_tallies(connection, KEY, dealt_scope(rollout.id))
    return (
        sum(tally.challenger_faults for tally in counted),
        sum(tally.challenger_faults for tally in dealt),
    )


@pytest.mark.beside
@pytest.mark.parametrize("database", DATABASES)
def test_it_goes_live_by_every_form_of_a_request(stage: Stage, database: str) -> None:
    with stage.world("longer", database) as world:
        world.replicas(stands_by=False)
        world.controller()
        steady = client(world, ENOUGH_BARS)
        with steady.asking():
            world.until(lambda: len(steady.seen) >= len(FORMS), "every form is answered")
            row = world.rollout(LONGER, dwell_s=2.0)
        assert row.phase is Phase.DONE, row.reason
        assert world.route().champion == LONGER
        assert {status for _, status, _ in steady.seen} == {"200"}, steady.seen
        assert {name for name, _, version in steady.seen if version == LONGER} == set(FORMS)
        assert faults_and_short(world.store, row) == (0, 0)
        assert list(broken_in_store(world.store)) == []


@pytest.mark.beside
@pytest.mark.parametrize("database", DATABASES)
def test_it_is_held_beside_a_client_that_sends_too_few_bars(stage: Stage, database: str) -> None:
    with stage.world("short", database) as world:
        world.replicas(stands_by=False)
        world.controller()
        enough, few = client(world, ENOUGH_BARS), client(world, FEW_BARS)
        with enough.asking(), few.asking():
            row = world.ask(LONGER, hold_s=4.0, load_s=8.0)
            world.reaches(row, Phase.STEP)
            world.until(lambda: read_progress(world.store, row.id).held is not None, "it is held")
            ended = world.ends(row)
        assert ended.phase is Phase.FAILED
        assert f"they send {FEW_BARS}" in ended.reason
        assert world.route().champion == CHAMPION
        assert {status for _, status, _ in enough.seen + few.seen} == {"200"}
        assert {version for _, _, version in few.seen} == {CHAMPION}
        faults, short = faults_and_short(world.store, row)
        assert faults == 0
        assert short > 0
