"""A store of SQLite for tests of what an A/B test reads and writes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mlops.store import Store, open_store
from tests.mlops.ab_testing.stage import Stage
from tests.stores import url

__all__ = ["url"]


@pytest.fixture
def store(sqlite_template: Path, tmp_path: Path) -> Iterator[Store]:
    """A migrated store without a row."""
    with closing(open_store(f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}")) as opened:
        yield opened


@pytest.fixture
def stage(store: Store) -> Stage:
    return Stage(store)
