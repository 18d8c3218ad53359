"""Registered versions: a row exists exactly when its version is registered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from mlops.errors import StoreError, VersionNotFound
from mlops.store import audit
from mlops.store.engine import Store
from mlops.store.requests import RequestKey
from mlops.store.schema import Status, version


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One registered version.

    ``watermark`` is the content hash of the bars it was trained on, ``trained_until`` the close
    of the last of them; ``claims_only`` says that its metrics are the caller's and no gate checked
    them; ``report`` is the gates' verdict as a dict; ``notes`` are the caller's notes;
    ``bundle_removed_at`` is set once the bundle was removed because of its age; ``request_key``
    names the request that registered it, ``request_digest`` is the SHA-256 of what that asked for;
    ``judged_on`` says what the verdict on a model from elsewhere rests on
    (`mlops.store.judgements`).
    """

    model_id: str
    service: str
    mlflow_version: int
    run_id: str
    model_type: str
    symbol: str
    status: Status
    digest: str
    bundle_uri: str
    watermark: str
    trained_until: datetime | None
    recipe_digest: str
    claims_only: bool
    code_version: str
    created_at: datetime
    report: Mapping[str, Any] | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    bundle_removed_at: datetime | None = None
    request_key: str | None = None
    request_digest: str | None = None
    judged_on: Mapping[str, Any] | None = None


def insert_version(connection: sa.Connection, row: ModelVersion, why: audit.Why) -> None:
    """Insert a version, inside the caller's transaction.

    Raises:
        StoreError: when the model_id or the MLflow version is already taken.
    """
    connection.execute(version.insert().values(**asdict(row)))
    audit.record(
        connection,
        why,
        action="register",
        service=row.service,
        subject=row.model_id,
        after={"status": row.status, "digest": row.digest, "claims_only": row.claims_only},
    )


def change_status(
    connection: sa.Connection, model_id: str, status: Status, why: audit.Why
) -> ModelVersion:
    """Give a version another status, inside the caller's transaction; returns the new row.

    Raises:
        VersionNotFound: when there is no such version.
    """
    before = _read_version(connection, model_id)
    connection.execute(version.update().where(version.c.model_id == model_id).values(status=status))
    audit.record(
        connection,
        why,
        action="change_status",
        service=before.service,
        subject=model_id,
        before={"status": before.status},
        after={"status": status},
    )
    return _read_version(connection, model_id)


def get_version(store: Store, model_id: str) -> ModelVersion:
    """The version with this id.

    Raises:
        VersionNotFound: when there is no such version; the text names the newest ids.
    """
    with store.read() as connection:
        return _read_version(connection, model_id)


def lock_version(connection: sa.Connection, model_id: str) -> ModelVersion:
    """As `get_version`, locked until the caller's transaction ends."""
    locked = sa.select(version.c.model_id).where(version.c.model_id == model_id)
    connection.execute(locked.with_for_update())
    return _read_version(connection, model_id)


def list_versions(
    store: Store,
    *,
    service: str | None = None,
    model_type: str | None = None,
    symbol: str | None = None,
    status: str | None = None,
) -> tuple[ModelVersion, ...]:
    """The versions that match all given values, newest first.

    Raises:
        StoreError: for an unknown status.
    """
    if status is not None and status not in set(Status):
        raise StoreError(f"status {status!r} is not one of {', '.join(Status)}")
    query = sa.select(version).order_by(
        version.c.created_at.desc(), version.c.mlflow_version.desc()
    )
    wanted = {"service": service, "model_type": model_type, "status": status}
    for name, value in wanted.items():
        if value is not None:
            query = query.where(version.c[name] == value)
    if symbol is not None:
        # Releases before the one spelling of a symbol stored small letters too.
        query = query.where(sa.func.upper(version.c.symbol) == symbol)
    with store.read() as connection:
        return tuple(build_version(row) for row in connection.execute(query))


def newest_searches(versions: Iterable[ModelVersion]) -> dict[tuple[str, str], ModelVersion]:
    """The newest search of each service and request, whose record its refits continue.

    Args:
        versions: The newest first.
    """
    searches: dict[tuple[str, str], ModelVersion] = {}
    for row in versions:
        if "request" in row.notes and not row.notes["refit"]:
            searches.setdefault((row.service, row.notes["request"]), row)
    return searches


def find_version_of_request(store: Store, request: RequestKey) -> ModelVersion | None:
    """The version that a request registered; None where it has registered none.

    Raises:
        RequestKeyReused: when the key is that of another request.
    """
    query = sa.select(version).where(version.c.request_key == request.key)
    with store.read() as connection:
        row = connection.execute(query).first()
    if row is None:
        return None
    request.check_repeat(row.model_id, row.request_digest)
    return build_version(row)


def has_versions(connection: sa.Connection) -> bool:
    """Whether anything was registered, as the caller's transaction sees it."""
    return connection.execute(sa.select(version.c.model_id).limit(1)).first() is not None


def known_ids(store: Store) -> frozenset[str]:
    """All model_ids in use."""
    with store.read() as connection:
        return frozenset(connection.execute(sa.select(version.c.model_id)).scalars())


def _read_version(connection: sa.Connection, model_id: str) -> ModelVersion:
    row = connection.execute(sa.select(version).where(version.c.model_id == model_id)).first()
    if row is None:
        newest = connection.execute(
            sa.select(version.c.model_id).order_by(version.c.created_at.desc()).limit(3)
        ).scalars()
        known = ", ".join(newest) or "none yet"
        raise VersionNotFound(
            f"no version {model_id!r} is registered; the newest are: {known}. "
            "List them with manager.list_models()"
        )
    return build_version(row)


def build_version(row: sa.Row[Any]) -> ModelVersion:
    """The version of a whole row of the table.

    Raises:
        StoreError: for a status that this release does not know.
    """
    values = dict(row._mapping)
    try:
        values["status"] = Status(values["status"])
    except ValueError as error:
        raise StoreError(f"version {values['model_id']} has status {values['status']!r}") from error
    return ModelVersion(**values)
