"""Requests whose work takes longer than an answer may: they are answered 202 with an operation.

A child works on. When it is done, the thread that follows it writes the result down, whichever
process is asked for it later.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from anyio import to_thread
from pydantic import BaseModel
from starlette.responses import Response

from mlops.api.documents import Document, Id, Json, Utc
from mlops.api.problems import describe_problem
from mlops.errors import MlopsError, StoreError
from mlops.store import Store
from mlops.store.operations import Operation, begin_operation, end_operation
from mlops.store.requests import RequestKey
from mlops.store.schema import OperationStatus

log = logging.getLogger(__name__)

PATH = "/mlops/api/operations"
ANSWER_WITHIN_S = 30.0
"""How long a request waits for its work before it is answered with an operation."""

WRITE_PAUSES_S = (0.0, 1.0, 4.0, 16.0)
"""Pauses before each attempt to write a result down."""

_ASYNC = re.compile(r"(^|[,;\s])respond-async($|[,;\s])", re.IGNORECASE)


class OperationDocument(Document):
    """Work that goes on after its request was answered.

    ``result`` is what the request would have been answered, ``problem`` why it failed.
    """

    operation_id: Id
    kind: str
    status: OperationStatus
    result: Json | None
    problem: Json | None
    created_at: Utc
    ended_at: Utc | None

    @classmethod
    def of(cls, row: Operation) -> OperationDocument:
        return cls(
            operation_id=row.id,
            kind=row.kind,
            status=row.status,
            result=None if row.result is None else dict(row.result),
            problem=None if row.problem is None else dict(row.problem),
            created_at=row.created_at,
            ended_at=row.ended_at,
        )


class Operations:
    """Waits for the work of one process's children, and keeps what is not done in time.

    Args:
        longest_s: Seconds after which a child is ended for certain.
    """

    def __init__(self, store: Store, *, longest_s: float) -> None:
        self.store = store
        self.holder = f"{socket.gethostname()[:100]}:{os.getpid()}:{secrets.token_hex(4)}"
        self._longest_s = longest_s + sum(WRITE_PAUSES_S)

    async def await_work(
        self,
        work: Future[Any],
        kind: str,
        build: Callable[[Any], BaseModel],
        *,
        actor: str,
        request: RequestKey | None = None,
        within_s: float = ANSWER_WITHIN_S,
    ) -> BaseModel | Operation:
        """The document of work that is done in time, else the operation that keeps it.

        Args:
            build: Makes the document from the work's value, in a thread.
            within_s: How long to wait; 0 answers with an operation at once.

        Raises:
            MlopsError: the work's own, where it failed in time.
        """
        if within_s > 0:
            waited = asyncio.shield(asyncio.wrap_future(work))
            try:
                value = await asyncio.wait_for(waited, within_s)
            except TimeoutError:
                log.info("a %s takes longer than %g s; it goes on", kind, within_s)
            else:
                return await to_thread.run_sync(build, value)
        begin = partial(
            begin_operation, self.store, kind,
            owner=actor, holder=self.holder, seconds=self._longest_s, request=request,
        )  # fmt: skip
        row = await to_thread.run_sync(begin)
        work.add_done_callback(lambda done: self._keep_result(row.id, done, build))
        return row

    def _keep_result(
        self, operation_id: str, work: Future[Any], build: Callable[[Any], BaseModel]
    ) -> None:
        try:
            outcome = {"result": build(work.result()).model_dump(mode="json")}
        except MlopsError as error:
            outcome = {"problem": describe_problem(error)}
        except Exception as error:
            log.exception("operation %s failed", operation_id)
            outcome = {"problem": describe_problem(error)}
        for pause_s in WRITE_PAUSES_S:
            time.sleep(pause_s)
            try:
                end_operation(self.store, operation_id, self.holder, **outcome)
            except StoreError as error:
                log.warning("the result of operation %s is not kept yet: %s", operation_id, error)
            else:
                return


def answer_operation(made: Operation) -> Response:
    """The answer to a request that is worked on: 202, and where its end is told."""
    body, place = OperationDocument.of(made).model_dump_json(), f"{PATH}/{made.id}"
    return Response(body, 202, {"location": place}, media_type="application/json")


def prefers_async(prefer: str | None) -> bool:
    """Whether a ``Prefer`` header asks for an operation at once (RFC 7240)."""
    return prefer is not None and _ASYNC.search(prefer) is not None
