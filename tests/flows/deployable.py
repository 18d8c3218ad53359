"""A project with one challenger, copied once for a file of tests; each finds it as it was.

The fixtures are the whole folder's: its conftest imports them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlops.store import Status, list_versions
from tests.project import SERVICE, Place, copied_place, skip_verification


@dataclass
class Deployable:
    """The project and the id of what passed its gates there."""

    place: Place
    challenger: str


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, trained_template: Path
) -> Iterator[Deployable]:
    with copied_place(tmp_path_factory.mktemp("deployable"), trained_template) as place:
        skip_verification(place.patch)
        store = place.registry.store
        (challenger,) = list_versions(store, service=SERVICE, status=Status.CHALLENGER)
        store.close()
        shutil.copy(place.base / "store.db", place.base / "as-trained.db")
        yield Deployable(place, challenger.model_id)


@pytest.fixture
def deployable(trained: Deployable) -> Iterator[Deployable]:
    """Nothing was rolled out yet; what MLflow shows is put right at the end of a rollout."""
    base = trained.place.base
    for stale in base.glob("store.db*"):
        stale.unlink()
    shutil.copy(base / "as-trained.db", base / "store.db")
    with pytest.MonkeyPatch.context() as own:
        place = Place(base, trained.place.bars, own)
        yield Deployable(place, trained.challenger)
        place.registry.store.close()
