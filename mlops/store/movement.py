"""Tells cheaply whether something was written that people look at."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from mlops.store.engine import Store
from mlops.store.schema import alert, alert_notice, audit, check, evidence, trigger

Movement = tuple[Any, ...]
"""Another value after a change; equal ones say that nothing of what it covers has changed."""


def read_movement(store: Store) -> Movement:
    """A value that changes with versions, routes, rollouts, tests, watches, alerts and looks.

    All but alerts, looks, triggers and trials are in the audit log. Forecasts, outcomes and leases
    are not covered: a reader who shows them reads again after some seconds anyway.
    """
    marks = (
        sa.func.max(audit.c.id),
        sa.func.max(alert_notice.c.id),
        sa.func.sum(alert.c.times_seen),
        sa.func.max(check.c.at),
        sa.func.max(trigger.c.raised_at),
        sa.func.max(trigger.c.claimed_at),
        sa.func.max(trigger.c.answered_at),
        sa.func.max(evidence.c.updated_at),
    )
    with store.read() as connection:
        row = connection.execute(sa.select(*(sa.select(mark).scalar_subquery() for mark in marks)))
        return tuple(row.one())
