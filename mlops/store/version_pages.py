"""Pages of versions: what a list shows of each, without the report and notes of kilobytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from mlops.store.engine import Store
from mlops.store.pages import Page, Position, read_page
from mlops.store.schema import Status, version


@dataclass(frozen=True, slots=True)
class VersionSummary:
    """What a list shows of a version; the fields are those of `ModelVersion`."""

    model_id: str
    service: str
    mlflow_version: int
    run_id: str
    model_type: str
    symbol: str
    status: Status
    claims_only: bool
    trained_until: datetime | None
    created_at: datetime
    metrics: Mapping[str, Any]


def list_version_page(
    store: Store,
    *,
    service: str | None = None,
    model_type: str | None = None,
    symbol: str | None = None,
    status: Status | None = None,
    after: Position | None = None,
    limit: int,
) -> Page[VersionSummary]:
    """A page of the versions that match all given values, newest first."""
    columns = [version.c[name] for name in VersionSummary.__slots__]
    query = sa.select(*columns)
    wanted = {"service": service, "model_type": model_type, "status": status}
    for name, value in wanted.items():
        if value is not None:
            query = query.where(version.c[name] == value)
    if symbol is not None:
        # Releases before the one spelling of a symbol stored small letters too.
        query = query.where(sa.func.upper(version.c.symbol) == symbol)
    with store.read() as connection:
        return read_page(
            connection,
            query,
            _build_summary,
            time=version.c.created_at,
            id_=version.c.model_id,
            after=after,
            limit=limit,
        )


def read_refusals(store: Store, model_ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """The reports of those of these versions that gates refused."""
    query = sa.select(version.c.model_id, version.c.report).where(
        version.c.model_id.in_(model_ids),
        version.c.status == Status.REFUSED,
        version.c.report.is_not(None),
    )
    with store.read() as connection:
        return {row.model_id: row.report for row in connection.execute(query)}


def _build_summary(row: sa.Row[Any]) -> VersionSummary:
    return VersionSummary(**dict(row._mapping) | {"status": Status(row.status)})
