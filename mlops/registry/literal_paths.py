"""Lets MLflow read artifacts below a folder whose name looks like a quoted character, as ``%20``.

MLflow takes each path for a URL and decodes it, also one that it has decoded before: it would look
for the bundles of ``/data/100%20`` in ``/data/100 ``.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any


@lru_cache(maxsize=1)
def take_paths_literally() -> None:
    """Make MLflow, in this process, take the path of an existing file as it is."""
    # MLflow's way to add a kind of repository, an entry point, has no name for plain paths.
    from mlflow.store.artifact.artifact_repository_registry import (
        _artifact_repository_registry,
    )
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    def open_repository(artifact_uri: str, *others: Any, **options: Any) -> LocalArtifactRepository:
        is_literal = os.path.exists(artifact_uri)
        uri = Path(artifact_uri).absolute().as_uri() if is_literal else artifact_uri
        return LocalArtifactRepository(uri, *others, **options)

    _artifact_repository_registry.register("", open_repository)  # type: ignore[no-untyped-call]
