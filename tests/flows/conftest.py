"""One Prefect server for the session, and a project of the test's own for each flow run."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.deployable import deployable, trained
from tests.project import Place, made_place, skip_verification

__all__ = ["deployable", "trained"]


@pytest.fixture(scope="session", autouse=True)
def _served(prefect_server: None) -> None:
    """Every flow needs a server."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Prefect leaves client sockets to the garbage collector; nothing of ours does."""
    leftover = r"ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(leftover))


@pytest.fixture(scope="module", autouse=True)
def _no_sockets_left() -> Iterator[None]:
    """Collect those sockets here, not in a test of something else."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def verified(tmp_path: Path, mlflow_template: Path) -> Iterator[Place]:
    """An empty project in which every version is loaded by a clean process, as in earnest."""
    with made_place(tmp_path, mlflow_template) as place:
        yield place


@pytest.fixture
def project(verified: Place) -> Place:
    """An empty project whose versions are not loaded by a clean process."""
    skip_verification(verified.patch)
    return verified
