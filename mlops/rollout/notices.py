"""What people are told of rollouts: a version that did not stay live, and a champion that failed.

Written in the transaction of the change itself, so that neither is without the other.
"""

from __future__ import annotations

from datetime import datetime

from mlops.store.alerts import Condition, Severity, Trouble, raise_alert, recover_alert
from mlops.store.engine import Connection
from mlops.store.rollouts import Arrow, Rollout
from mlops.store.schema import Phase

ROLLOUT, CHAMPION = "rollout", "champion"


def tell_of_move(connection: Connection, row: Rollout, arrow: Arrow, at: datetime) -> None:
    """Raise an alert where a rollout was undone by itself; where one is done, end it."""
    if arrow.to is Phase.FAILED and row.abort_requested is None:
        raise_alert(connection, _undone(row, arrow), at=at)
    if arrow.to is Phase.DONE:
        for subject in (ROLLOUT, CHAMPION):
            recover_alert(
                connection,
                condition=Condition.DEPLOYMENT_FAILED,
                service=row.service,
                subject=subject,
                at=at,
                text=f"{row.to_version} went live and stayed healthy",
            )


def tell_of_fallback(
    connection: Connection, service: str, *, failed: str, reason: str, at: datetime
) -> None:
    """Raise an alert where a champion was replaced because it failed."""
    trouble = Trouble(
        Condition.DEPLOYMENT_FAILED,
        service,
        CHAMPION,
        f"{failed} failed as champion",
        f"{reason}. Requests go to the version before it, or to the baseline.",
        Severity.CRITICAL,
        {"failed": failed},
    )
    raise_alert(connection, trouble, at=at)


def _undone(row: Rollout, arrow: Arrow) -> Trouble:
    was_live = row.phase is Phase.REVERTED
    return Trouble(
        Condition.DEPLOYMENT_FAILED,
        row.service,
        ROLLOUT,
        f"The rollout of {row.to_version} was undone",
        f"{arrow.reason}. {row.from_version} serves all requests.",
        Severity.CRITICAL if was_live else Severity.WARNING,
        {"rollout": row.id, "strategy": str(row.strategy), "phase": str(row.phase)},
    )
