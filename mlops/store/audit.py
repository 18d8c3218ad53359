"""The audit log: who changed what and why, one row in the transaction of each change."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from mlops.store.engine import Store
from mlops.store.schema import audit

SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Why:
    """The author and the reason of a change, and the time it counts from (UTC)."""

    at: datetime
    actor: str = SYSTEM
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change; ``before`` and ``after`` hold only the changed values."""

    at: datetime
    actor: str
    action: str
    service: str
    subject: str
    reason: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


def record(
    connection: sa.Connection,
    why: Why,
    *,
    action: str,
    service: str,
    subject: str,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Write an entry inside the caller's transaction.

    Args:
        connection: The caller's transaction.
        why: Author, reason and time of the change.
        action: What was done, such as ``register``.
        service: Key of the service.
        subject: The model_id concerned.
        before: The changed values as they were.
        after: The changed values as they are now.
    """
    connection.execute(
        audit.insert().values(
            at=why.at,
            actor=why.actor,
            reason=why.reason,
            action=action,
            service=service,
            subject=subject,
            before=before,
            after=after,
        )
    )


def list_audit_entries(
    store: Store, *, service: str | None = None, subject: str | None = None
) -> tuple[AuditEntry, ...]:
    """The entries of a service or a version, oldest first."""
    columns = [column for column in audit.c if column.name != "id"]
    query = sa.select(*columns).order_by(audit.c.id)
    if service is not None:
        query = query.where(audit.c.service == service)
    if subject is not None:
        query = query.where(audit.c.subject == subject)
    with store.read() as connection:
        return tuple(AuditEntry(**row._mapping) for row in connection.execute(query))
