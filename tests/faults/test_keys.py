"""A second machine whose signing key is its own changes nothing, though it could load nothing."""

from __future__ import annotations

import pytest

from mlops.models.signing import load_or_make_key
from mlops.registry.connection import key_file
from mlops.store import list_replicas, list_versions
from tests.faults.scenes import begin
from tests.faults.stage import Stage

pytestmark = pytest.mark.faults


@pytest.mark.beside(waits=True)
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
@pytest.mark.parametrize("has_a_key", [True, False])
def test_a_machine_with_a_foreign_key_does_not_start_and_dethrones_nobody(
    stage: Stage, database: str, has_a_key: bool
) -> None:
    with stage.world(f"foreign-key-{has_a_key}", database) as world:
        begin(world)
        second = world.folder / "second"
        if has_a_key:
            load_or_make_key(key_file(second))
        route, versions = world.route(), list_versions(world.store)
        replicas = {row.id for row in list_replicas(world.store)}
        started = world.replica("replica-3", home=second, wait=False)
        assert started.wait() == 1, started.tail()
        assert "install -m 600 bundle.key" in started.tail()
        assert (world.route(), list_versions(world.store)) == (route, versions)
        assert {row.id for row in list_replicas(world.store)} == replicas
        world.check()
