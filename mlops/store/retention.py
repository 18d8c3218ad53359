"""Deletes what is older than its retention, a limited number of rows at a time.

Never deleted: audit, ledger, route history, rollout events, A/B tests and their looks (their
triggers refuse it), forecasts, forecast gaps and outcomes, triggers of trainings, the last check of
a version and a check that a trigger names.

Each deletion is by age alone, so two processes may run it at the same time. SQLite uses the pages
of deleted rows again, so its file stops growing and need not be made smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from itertools import islice

import sqlalchemy as sa

from mlops.store import audit
from mlops.store.engine import Connection, Store
from mlops.store.leases import Lease, require_held
from mlops.store.schema import (
    OPEN,
    WAITING,
    WATCHED,
    Status,
    alert,
    alert_delivery,
    alert_notice,
    check,
    operation,
    rollout,
    route,
    trigger,
    version,
    watch,
)
from mlops.store.schema import audit as audit_table
from mlops.store.sql import db_now, store_time
from mlops.store.versions import ModelVersion, build_version, list_versions, newest_searches

ROWS = 500
"""Rows of one transaction: other writers wait for it, some 50 ms on SQLite."""

DAY_S = 86_400.0
_REMOVABLE = (Status.REFUSED, Status.RETIRED, Status.FAILED)
_REMOVED = "remove_bundle"
_ALIASES = ("champion", "previous_champion", "baseline", "challenger")


def delete_old_checks(store: Store, *, days: float, limit: int) -> int:
    """Delete checks of bars that are ``days`` older than the service's newest; returns how many.

    The age counts in market time, so that the checks of a replayed market are kept as long.

    Args:
        store: The store.
        days: Days that checks are kept.
        limit: Most rows to delete.
    """
    deleted = 0
    for service, model_id, before in _find_old_checks(store, days):
        named = sa.select(trigger.c.verdict).where(
            trigger.c.service == service, trigger.c.verdict.is_not(None)
        )
        old = (
            check.c.service == service,
            check.c.model_id == model_id,
            check.c.bar < before,
            check.c.id.not_in(named),
        )
        deleted += _delete_in_batches(store, check, old, limit - deleted)
    return deleted


def _find_old_checks(store: Store, days: float) -> list[tuple[str, str, datetime]]:
    """Versions with old checks: service, version, and the first bar whose check stays."""
    keys = (check.c.service, check.c.model_id)
    query = sa.select(*keys, sa.func.min(check.c.bar), sa.func.max(check.c.bar)).group_by(*keys)
    with store.read() as connection:
        rows = connection.execute(query).all()
    ends: dict[str, datetime] = {}
    for service, _, _, newest in rows:
        ends[service] = max(newest, ends.get(service, newest))
    firsts = [
        (service, model_id, oldest, min(newest, ends[service] - timedelta(days=days)))
        for service, model_id, oldest, newest in rows
    ]
    return [(service, name, before) for service, name, oldest, before in firsts if oldest < before]


def delete_ended_alerts(store: Store, *, days: float, limit: int) -> int:
    """Delete alerts that ended, their notices and deliveries; returns how many alerts.

    The age is the time since its end and since its newest notice, by the database's clock.

    Args:
        store: The store.
        days: Days that an alert is kept.
        limit: Most alerts to delete.
    """
    newer = sa.select(alert_notice.c.alert_id).where(
        alert_notice.c.written_at >= db_now() - days * DAY_S
    )
    with store.write() as connection:
        ended_before = store_time(connection) - timedelta(days=days)
        # An alert may have no notice, and may have been ended by the clock of a replayed market.
        ended = (alert.c.recovered_at < ended_before, alert.c.id.not_in(newer))
        ids = connection.execute(sa.select(alert.c.id).where(*ended).limit(limit)).scalars().all()
        notices = sa.select(alert_notice.c.id).where(alert_notice.c.alert_id.in_(ids))
        connection.execute(alert_delivery.delete().where(alert_delivery.c.notice_id.in_(notices)))
        connection.execute(alert_notice.delete().where(alert_notice.c.alert_id.in_(ids)))
        connection.execute(alert.delete().where(alert.c.id.in_(ids)))
    return len(ids)


def delete_old_operations(store: Store, *, days: float, limit: int) -> int:
    """Delete operations that began ``days`` ago; none is worked on for as long as a day.

    Args:
        store: The store.
        days: Days, at least 2, in which results are told and repeated requests are known.
        limit: Most rows to delete.
    """
    with store.read() as connection:
        before = store_time(connection) - timedelta(days=days)
    return _delete_in_batches(store, operation, (operation.c.created_at < before,), limit)


def mark_old_bundles(
    store: Store, lease: Lease, *, before: datetime, limit: int, at: datetime
) -> None:
    """Mark versions whose bundle is to be removed; from then on no rollout may name them.

    They are refused, retired or failed, nothing uses them, and nothing has changed them since
    ``before``. The newest search of a request is left alone: every refit reads the record in its
    bundle. So are versions whose figures are claims: they were trained elsewhere, and the bundle
    may be the only copy.

    Args:
        store: The store.
        lease: The registration lease: a backup copies the bundles of unmarked versions under it.
        before: Versions that changed later are left alone.
        limit: Most versions to mark.
        at: This time.

    Raises:
        LeaseLost: when another process has held the lease since; nothing was marked.
    """
    continued = [row.model_id for row in newest_searches(list_versions(store)).values()]
    changed = sa.select(audit_table.c.subject).where(audit_table.c.at >= before)
    with store.write() as connection:
        require_held(connection, lease)
        query = (
            sa.select(version.c.model_id)
            .where(
                version.c.bundle_removed_at.is_(None),
                version.c.status.in_(_REMOVABLE),
                # What was trained elsewhere cannot be trained again.
                version.c.claims_only.is_(False),
                version.c.judged_on.is_(None),
                version.c.created_at < before,
                version.c.model_id.not_in(changed),
                version.c.model_id.not_in(continued),
                version.c.model_id.not_in(find_versions_in_use(connection)),
            )
            .order_by(version.c.created_at)
            .limit(limit)
            .with_for_update()
        )
        locked = set(connection.execute(query).scalars())
        # Read again: a rollout may have been requested before they were locked.
        unused = locked - find_versions_in_use(connection)
        connection.execute(
            version.update().where(version.c.model_id.in_(unused)).values(bundle_removed_at=at)
        )


def list_marked_bundles(
    store: Store, *, limit: int, where: Callable[[ModelVersion], bool] = lambda _: True
) -> tuple[ModelVersion, ...]:
    """The versions that are marked and whose files may still be there, the oldest first.

    Args:
        store: The store.
        limit: Most versions to list.
        where: Says whether to list a version; others are passed over.
    """
    removed = sa.select(audit_table.c.subject).where(audit_table.c.action == _REMOVED)
    query = (
        sa.select(version)
        .where(version.c.bundle_removed_at.is_not(None), version.c.model_id.not_in(removed))
        .order_by(version.c.created_at)
    )
    with store.read() as connection:
        marked = map(build_version, connection.execute(query))
        return tuple(islice(filter(where, marked), limit))


def record_removed_bundle(store: Store, row: ModelVersion, why: audit.Why) -> None:
    """Write into the audit log that the files of a marked version are gone."""
    with store.write() as connection:
        audit.record(connection, why, action=_REMOVED, service=row.service, subject=row.model_id)


def find_versions_in_use(connection: Connection) -> frozenset[str]:
    """The versions that a route, an open or waiting rollout, or a watch names."""
    columns = [*(sa.select(route.c[alias]) for alias in _ALIASES)]
    for column in (rollout.c.from_version, rollout.c.to_version):
        columns.append(sa.select(column).where(sa.or_(sa.text(OPEN), sa.text(WAITING))))
    columns.append(sa.select(watch.c.model_id).where(sa.text(WATCHED)))
    return frozenset(
        name for query in columns for name in connection.execute(query).scalars() if name
    )


def find_digests_in_use(store: Store) -> frozenset[str]:
    """The digests of the bundles of `find_versions_in_use`."""
    with store.read() as connection:
        used = version.c.model_id.in_(find_versions_in_use(connection))
        return frozenset(connection.execute(sa.select(version.c.digest).where(used)).scalars())


def _delete_in_batches(
    store: Store, table: sa.Table, old: Iterable[sa.ColumnElement[bool]], limit: int
) -> int:
    """Delete at most ``limit`` rows, `ROWS` in each transaction; returns how many."""
    deleted = 0
    while deleted < limit:
        batch = sa.select(table.c.id).where(*old).limit(min(ROWS, limit - deleted))
        with store.write() as connection:
            done = connection.execute(table.delete().where(table.c.id.in_(batch))).rowcount
        deleted += done
        if done < ROWS:
            break
    return deleted
