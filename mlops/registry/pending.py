"""A version as MLflow holds it before the commit: logged, numbered, and tagged pending."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from mlops.code_version import DISTRIBUTION, release
from mlops.registry.connection import BUNDLE_FOLDER
from mlops.registry.mirror import (
    DIGEST_TAG,
    LOGGED_TAG,
    MODEL_ID_TAG,
    PENDING,
    SERVICE_TAG,
    STATUS_TAG,
)
from mlops.registry.tracking import HOST_TAG, Tracking

LOADER = "mlops.models.bundle"


@dataclass(frozen=True, slots=True)
class Draft:
    """A bundle that was written and is to become a version of a service."""

    service: str
    model_id: str
    run_id: str
    staged: Path
    digest: str

    @property
    def tags(self) -> dict[str, str]:
        return {
            MODEL_ID_TAG: self.model_id,
            SERVICE_TAG: self.service,
            DIGEST_TAG: self.digest,
            HOST_TAG: socket.gethostname(),
            STATUS_TAG: PENDING,
        }


@dataclass(frozen=True, slots=True)
class Logged:
    """A draft whose files MLflow keeps."""

    draft: Draft
    logged_model_id: str
    model_uri: str
    bundle_uri: str


def log_model(tracking: Tracking, draft: Draft) -> Logged:
    """Hand the bundle to MLflow; the logged model names our loader and ships no code."""
    import mlflow

    before = tracking.client.get_run(draft.run_id).info.status
    with mlflow.start_run(run_id=draft.run_id, nested=True):
        info = mlflow.pyfunc.log_model(
            name=draft.model_id,
            loader_module=LOADER,
            data_path=str(draft.staged),
            pip_requirements=[f"{DISTRIBUTION}=={release()}"],
            tags=draft.tags,
        )
    if before == "RUNNING":
        # Leaving the block ended the run, which may be a training that goes on.
        tracking.client.update_run(draft.run_id, status=before)
    logged = tracking.client.get_logged_model(info.model_id)
    return Logged(
        draft=draft,
        logged_model_id=str(info.model_id),
        model_uri=str(info.model_uri),
        bundle_uri=f"{logged.artifact_location}/data/{BUNDLE_FOLDER}",
    )


def create_version(tracking: Tracking, logged: Logged) -> int:
    """Number the logged model within its service's registered model, made where missing."""
    from mlflow.exceptions import MlflowException

    client, draft = tracking.client, logged.draft
    try:
        client.get_registered_model(draft.service)
    except MlflowException:
        client.create_registered_model(draft.service, tags={SERVICE_TAG: draft.service})
    created = client.create_model_version(
        draft.service,
        source=logged.model_uri,
        run_id=draft.run_id,
        tags=draft.tags | {LOGGED_TAG: logged.logged_model_id},
        model_id=logged.logged_model_id,
    )
    return int(created.version)
