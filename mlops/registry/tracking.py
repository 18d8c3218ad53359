"""Opens MLflow and logs runs to it: parameters, losses, data and child runs.

Every call names its run, so that several trainings in one process do not share MLflow's "active
run".
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from mlops.credentials import split_login
from mlops.errors import RegistryError
from mlops.paths import is_sqlite, path_of, scheme_of, sqlite_url
from mlops.registry.literal_paths import take_paths_literally
from mlops.store.connect import find_database_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

BATCH_METRICS = 1000
BATCH_PARAMS = 100
MAX_PARAM_CHARS = 6000
MAX_DATASET_DIGEST = 36
REACH_TIMEOUT_S = 3.0
_PORTS = {"http": 80, "https": 443}
_USER, _PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}


@dataclass(frozen=True, slots=True)
class Location:
    """Where MLflow keeps records and artifacts.

    Args:
        uri: Of the records; that of a server has no credentials.
        artifacts: The folder of the artifacts; None where a server keeps them.
        credentials: Of a server, as the environment variables that MLflow's client reads.
    """

    uri: str = field(repr=False)
    artifacts: Path | None
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)

    @property
    def database(self) -> Path | None:
        """The file of the records; None where a server keeps them."""
        return None if self.artifacts is None else find_database_file(self.uri)


@dataclass(frozen=True, slots=True)
class Tracking:
    """An open MLflow experiment; `connect` makes one."""

    location: Location
    experiment: str
    experiment_id: str
    client: MlflowClient

    @property
    def uri(self) -> str:
        return self.location.uri


def resolve_tracking_uri(uri: str) -> Location:
    """Turn a configured URI into one that MLflow accepts.

    ``file:///dir`` (which MLflow 3 refuses) and a plain path become SQLite and artifacts inside
    that directory. The artifacts of an SQLite file lie beside it; a server keeps its own. User and
    password of a server are taken out: MLflow shows the URI in errors, links and lines.
    """
    scheme = scheme_of(uri)
    if scheme in {"", "file"}:
        root = (path_of(uri) if scheme else Path(uri)).resolve()
        return Location(sqlite_url(root / "mlflow.db"), root / "artifacts")
    database = find_database_file(uri) if is_sqlite(uri) else None
    if database is not None:
        database = database.resolve()
        query = uri.partition("?")[2]
        return Location(sqlite_url(database, query), database.parent / "artifacts")
    address, login = split_login(uri) if scheme in _PORTS else (uri, None)
    return Location(address, None, dict(zip((_USER, _PASSWORD), login or (), strict=False)))


def connect(uri: str, experiment: str) -> Tracking:
    """Point this process's MLflow at ``uri`` and open the experiment, made where missing.

    Raises:
        RegistryError: when MLflow cannot be reached there.
    """
    _import_quietly()
    take_paths_literally()
    import mlflow
    from mlflow.exceptions import MlflowException

    location = resolve_tracking_uri(uri)
    if location.artifacts is not None and location.uri != uri:
        log.info("MLflow keeps %s as %s, artifacts in %s", uri, location.uri, location.artifacts)
    try:
        if location.artifacts is not None:
            location.artifacts.mkdir(parents=True, exist_ok=True)
        point_mlflow_to(location)
        client = mlflow.MlflowClient(location.uri, location.uri)
        opened = _open_experiment(client, experiment, location.artifacts)
    except (MlflowException, OSError) as error:
        raise RegistryError(
            f"MLflow at {location.uri} cannot be used ({error}); "
            "check MLFLOW_TRACKING_URI and that the server or path is there and writable"
        ) from error
    return Tracking(location, experiment, opened, client)


def point_mlflow_to(location: Location) -> None:
    """Make this the address, with its credentials, that MLflow uses in this process."""
    os.environ.update(_ENVIRONMENT)
    import mlflow

    if mlflow.get_tracking_uri() != location.uri:
        _take_back_credentials()
    os.environ.update(location.credentials)
    _credentials_in_use.update(location.credentials)
    mlflow.set_tracking_uri(location.uri)
    mlflow.set_registry_uri(location.uri)


_credentials_in_use: dict[str, str] = {}
"""What `point_mlflow_to` put into the environment; another server must not get it."""


def _take_back_credentials() -> None:
    while _credentials_in_use:
        name, value = _credentials_in_use.popitem()
        if os.environ.get(name) == value:
            del os.environ[name]


@contextmanager
def as_registry_errors(tracking: Tracking) -> Iterator[None]:
    """Turn an error of MLflow in the block into ours.

    Raises:
        RegistryError: then.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise RegistryError(
            f"MLflow at {tracking.uri} does not answer as it should ({error}); check "
            "MLFLOW_TRACKING_URI and the server there, then try again"
        ) from error


def check_reachable(uri: str, *, seconds: float = REACH_TIMEOUT_S) -> None:
    """Check that a server accepts connections there; MLflow's own client would retry for minutes.

    Raises:
        RegistryError: when no server does.
    """
    parsed = urlparse(uri)
    if parsed.scheme not in _PORTS or parsed.hostname is None:
        return
    address = (parsed.hostname, parsed.port or _PORTS[parsed.scheme])
    try:
        socket.create_connection(address, timeout=seconds).close()
    except OSError as error:
        raise RegistryError(
            f"nobody answers at {uri} ({error}); start the MLflow server there, or correct "
            "MLFLOW_TRACKING_URI"
        ) from error


def _import_quietly() -> None:
    """Import MLflow with telemetry and pickles off, without the warnings of its type hints."""
    os.environ.update(_ENVIRONMENT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc  # noqa: F401


def _open_experiment(client: MlflowClient, name: str, artifacts: Path | None) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = None if artifacts is None else artifacts.as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            # Another process may have made it in between.
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


@dataclass(frozen=True, slots=True)
class RunLog:
    """Logs to one run.

    Args:
        owner: Tags that say whose the run is (`mlops.registry.ownership.owner_tags`); the runs of
            trials inside it carry them too.
    """

    tracking: Tracking
    run_id: str
    owner: Mapping[str, str] = field(default_factory=dict)

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; lists and mappings as JSON, long values cut."""
        from mlflow.entities import Param

        entries = [Param(name, _text(value)[:MAX_PARAM_CHARS]) for name, value in values.items()]
        for first in range(0, len(entries), BATCH_PARAMS):
            batch = entries[first : first + BATCH_PARAMS]
            self.tracking.client.log_batch(self.run_id, params=batch)

    def log_metrics(self, values: Mapping[str, float | None], *, step: int = 0) -> None:
        """Log figures, without those that are None or not finite (MLflow stores inf as 1.8e308)."""
        self.log_epochs([values], first_step=step)

    def log_epochs(
        self, rows: Sequence[Mapping[str, float | None]], *, first_step: int = 0
    ) -> None:
        """Log one row of figures for each epoch, all epochs in few requests."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        entries = [
            Metric(name, float(value), now_ms, step)
            for step, row in enumerate(rows, start=first_step)
            for name, value in row.items()
            if value is not None and math.isfinite(value)
        ]
        for first in range(0, len(entries), BATCH_METRICS):
            batch = entries[first : first + BATCH_METRICS]
            self.tracking.client.log_batch(self.run_id, metrics=batch)

    def set_tags(self, values: Mapping[str, Any]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        tags = [RunTag(name, _text(value)) for name, value in values.items()]
        self.tracking.client.log_batch(self.run_id, tags=tags)

    def log_dataset(
        self, name: str, *, content_hash: str, source: str, rows: int, context: str = "training"
    ) -> None:
        """Log which bars were used; the full SHA-256 is a tag of the input and of the run."""
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.exceptions import MlflowException

        entity = Dataset(
            name=name,
            digest=content_hash[:MAX_DATASET_DIGEST],
            source_type="bars",
            source=json.dumps({"source": source}),
            profile=json.dumps({"num_rows": rows}),
        )
        tags = [InputTag("mlflow.data.context", context), InputTag("sha256", content_hash)]
        inputs = [DatasetInput(entity, tags)]
        try:
            self.tracking.client.log_inputs(self.run_id, inputs)
        except MlflowException:
            # MLflow reads and then inserts: another training may log the same bars in between.
            self.tracking.client.log_inputs(self.run_id, inputs)
        self.set_tags({"dataset_sha256": content_hash})

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a file with the run."""
        self.tracking.client.log_artifact(self.run_id, str(path), folder)

    def log_text(self, text: str, name: str) -> None:
        """Keep a text, such as a model card, with the run."""
        self.tracking.client.log_text(self.run_id, text, name)

    def log_child(
        self, name: str, *, params: Mapping[str, Any], metrics: Mapping[str, float | None]
    ) -> str:
        """Log a finished trial as a child run; returns its id."""
        with open_run(self.tracking, name, owner=self.owner, parent_run_id=self.run_id) as run:
            run.log_params(params)
            run.log_metrics(metrics)
        return run.run_id


@contextmanager
def open_run(
    tracking: Tracking,
    name: str,
    *,
    tags: Mapping[str, Any] | None = None,
    owner: Mapping[str, str] | None = None,
    parent_run_id: str | None = None,
) -> Iterator[RunLog]:
    """Open a run that ends FINISHED, or FAILED where the block raises, KILLED by an interrupt.

    Args:
        owner: Tags by which `reconcile` recognises that the run's process has died; without them
            it leaves the run alone.

    Raises:
        RegistryError: when MLflow makes no run.
    """
    owner = owner or {}
    run_tags = {str(key): _text(value) for key, value in (tags or {}).items()} | dict(owner)
    run_tags["mlflow.runName"] = name
    if parent_run_id is not None:
        run_tags["mlflow.parentRunId"] = parent_run_id
    with as_registry_errors(tracking):
        run = tracking.client.create_run(tracking.experiment_id, tags=run_tags, run_name=name)
    run_id = str(run.info.run_id)
    status = "KILLED"
    try:
        yield RunLog(tracking, run_id, owner)
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        _end_run(tracking, run_id, status)


def _end_run(tracking: Tracking, run_id: str, status: str) -> None:
    """End a run; what was done in it stands even where MLflow does not hear of its end."""
    from mlflow.exceptions import MlflowException

    try:
        tracking.client.set_terminated(run_id, status)
    except MlflowException as error:
        log.warning("MLflow does not show that run %s has ended: %s", run_id, error)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
