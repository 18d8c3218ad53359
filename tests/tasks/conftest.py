"""Tasks run as plain functions: no Prefect server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project import Place, made_place, skip_verification


@pytest.fixture
def project(tmp_path: Path, mlflow_template: Path) -> Iterator[Place]:
    """An empty project; the environment points at it."""
    with made_place(tmp_path, mlflow_template) as place:
        skip_verification(place.patch)
        yield place
