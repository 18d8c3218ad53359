"""The restore drill: copied under load and a rollout, the original gone, restored elsewhere."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from mlops.settings import Settings
from mlops.store import Phase, get_route, list_versions, open_store
from mlops.store.schema import version
from tests.faults.scenes import begin
from tests.faults.stage import Stage
from tests.faults.template import GOOD, KEY, MODULE
from tests.faults.world import REPLICAS, World, http_status

pytestmark = pytest.mark.faults

APPENDED = ("forecast", "rollout_event", "audit")
"""Tables whose rows stay as they were written."""

SPOILT = {"corrupt", "digest"}
"""Versions of the template whose bundles are not what was registered; it has no MLflow either."""


@pytest.mark.beside
def test_an_installation_copied_under_load_is_restored_elsewhere_without_its_original(
    stage: Stage,
) -> None:
    with stage.world("restore") as world:
        own_all_bundles(world)
        begin(world)
        world.controller()
        rollout = world.ask(GOOD)
        world.reaches(rollout, Phase.STEP)
        committed = rows_of(world.folder / "store.db")
        done = command(world.folder, "take", str(world.folder / "copies"))
        assert done.returncode == 0, done.stderr
        copy = Path(done.stdout.splitlines()[-1])
        world.ends(rollout)
        world.check()
        copied = rows_of(copy / "store.db")
        assert all(committed[name] <= copied[name] for name in APPENDED)

        for process in world.started:
            process.kill()
        put_away(world)
        home = world.folder / "elsewhere"
        done = command(home, "restore", str(copy))
        assert done.returncode == 0, done.stderr
        done = command(home, "check")
        named = {line.partition(":")[0] for line in done.stdout.splitlines()}
        assert named == SPOILT | {"MLflow"}, done.stdout + done.stderr

        url = f"sqlite:///{home / 'store.db'}"
        with closing(open_store(url)) as store:
            uris = [row.bundle_uri for row in list_versions(store)]
            assert all(uri.startswith(home.as_uri()) for uri in uris)
            assert get_route(store, KEY) is not None
        world.replica(REPLICAS[0], home=home, url=url)
        address = f"/services/{KEY}/forecast"
        world.until(lambda: http_status(world.ports[REPLICAS[0]], address) == 200, "it answers")


def own_all_bundles(world: World) -> None:
    """Let the installation have its bundles under its own base path."""
    shutil.copytree(world.template.folder / "bundles", world.folder / "bundles")
    with world.store.write() as connection:
        for row in connection.execute(version.select()).all():
            uri = row.bundle_uri.replace(str(world.template.folder), str(world.folder))
            moved = version.update().where(version.c.model_id == row.model_id)
            connection.execute(moved.values(bundle_uri=uri))


def rows_of(path: Path) -> Mapping[str, set[tuple[object, ...]]]:
    with closing(sqlite3.connect(path)) as connection:
        return {name: set(connection.execute(f"SELECT * FROM {name}")) for name in APPENDED}


def put_away(world: World) -> None:
    """Rename everything that makes the original an installation."""
    (world.folder / "away").mkdir()
    for path in (*world.folder.glob("store.db*"), world.folder / "bundles", world.folder / "keys"):
        path.rename(world.folder / "away" / path.name)


def command(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a person does, with the settings of the base path."""
    own = {name: text for name, text in os.environ.items() if name.lower() not in _SETTINGS}
    return subprocess.run(
        [sys.executable, "-m", "deployments.backup", *arguments],
        env=own | {"MLOPS_BASE_PATH": str(home), "CUSTOM_MODEL_MODULES": MODULE},
        capture_output=True,
        text=True,
        check=False,
    )


_SETTINGS = frozenset(Settings.model_fields)
