"""Operations: work that a request began and whose result is asked for later.

A process holds an operation while it works on it. Where that process ends before the work does, its
hold runs out and the operation has failed; a late result is not written any more.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from mlops.errors import OperationNotFound, StoreError
from mlops.store.engine import Connection, Store
from mlops.store.requests import RequestKey, columns_of
from mlops.store.schema import OperationStatus, operation
from mlops.store.sql import db_now, is_held, store_time

ABANDONED = "the process that worked on it ended before it was done; send the request again"
LONGEST_HOLD_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation.

    ``result`` is what the request would have been answered, ``problem`` why it failed.
    """

    id: str
    kind: str
    status: OperationStatus
    owner: str
    result: Mapping[str, Any] | None
    problem: Mapping[str, Any] | None
    created_at: datetime
    ended_at: datetime | None


def begin_operation(
    store: Store,
    kind: str,
    *,
    owner: str,
    holder: str,
    seconds: float,
    request: RequestKey | None = None,
) -> Operation:
    """Write down an operation that a process works on now.

    Args:
        holder: The process.
        seconds: How long it may work; then the operation has failed.
        request: Names the request; a repeated one gets the operation of the first.

    Raises:
        RequestKeyReused: when the key is that of another request.
    """
    with store.write() as connection:
        known = None if request is None else read_operation_of_request(connection, request)
        if known is not None:
            return known
        now = store_time(connection)
        row = {
            "id": f"op-{secrets.token_hex(6)}",
            "kind": kind,
            "status": OperationStatus.RUNNING,
            "owner": owner,
            "holder": holder,
            "held_until": db_now() + min(seconds, LONGEST_HOLD_S),
            "created_at": now,
            "started_at": now,
            **columns_of(request),
        }
        connection.execute(operation.insert().values(**row))
        return _read_operation(connection, str(row["id"]))


def end_operation(
    store: Store,
    operation_id: str,
    holder: str,
    *,
    result: Mapping[str, Any] | None = None,
    problem: Mapping[str, Any] | None = None,
) -> None:
    """Write down the result of an operation, or why it failed.

    Raises:
        StoreError: when the holder's time ran out before; the operation has failed then.
    """
    status = OperationStatus.DONE if problem is None else OperationStatus.FAILED
    with store.write() as connection:
        ended = connection.execute(
            operation.update()
            .where(
                operation.c.id == operation_id,
                operation.c.holder == holder,
                operation.c.status == OperationStatus.RUNNING,
                is_held(operation.c.held_until, LONGEST_HOLD_S),
            )
            .values(
                status=status,
                result=None if result is None else dict(result),
                problem=None if problem is None else dict(problem),
                ended_at=store_time(connection),
            )
        )
        if not ended.rowcount:
            raise StoreError(
                f"operation {operation_id} is no longer held by {holder}; its result is not kept, "
                "and whoever asks is told that it failed"
            )


def get_operation(store: Store, operation_id: str) -> Operation:
    """The operation with this id.

    Raises:
        OperationNotFound: when there is no such operation.
    """
    with store.read() as connection:
        return _read_operation(connection, operation_id)


def read_operation_of_request(connection: Connection, request: RequestKey) -> Operation | None:
    """The operation that a request began; None where it has begun none.

    Raises:
        RequestKeyReused: when the key is that of another request.
    """
    query = sa.select(operation.c.id, operation.c.request_digest)
    row = connection.execute(query.where(operation.c.request_key == request.key)).first()
    if row is None:
        return None
    request.check_repeat(row.id, row.request_digest)
    return _read_operation(connection, row.id)


def _read_operation(connection: Connection, operation_id: str) -> Operation:
    held = is_held(operation.c.held_until, LONGEST_HOLD_S).label("held")
    row = connection.execute(
        sa.select(operation, held).where(operation.c.id == operation_id)
    ).first()
    if row is None:
        raise OperationNotFound(
            f"no operation {operation_id!r}; the answer that began one names it"
        )
    status, problem = OperationStatus(row.status), row.problem
    if status is OperationStatus.RUNNING and not row.held:
        status, problem = OperationStatus.FAILED, {"detail": ABANDONED}
    return Operation(
        id=row.id,
        kind=row.kind,
        status=status,
        owner=row.owner,
        result=row.result,
        problem=problem,
        created_at=row.created_at,
        ended_at=row.ended_at,
    )
