"""Answers that are built at most once a second, however many callers poll them.

An answer is built on demand: the first caller after its time asks whether the store has moved, and
builds it again only then. No task runs while nobody asks, so that none holds up the end of the
process.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from anyio import to_thread
from fastapi import Request
from starlette.responses import Response

from mlops.store.movement import Movement

LONGEST_S = 10.0
"""An answer is built again after this time also where the store has not moved, because shares lapse
and leases end without a write."""

MOST_KEPT = 32
"""Answers to different questions that are kept; the one asked for longest ago goes first."""

NOT_MODIFIED = 304


@dataclass(frozen=True, slots=True)
class Built:
    """An answer as bytes of JSON; ``etag`` changes with its content, not with the time of it."""

    body: bytes
    etag: str


@dataclass(slots=True)
class _Entry:
    """An answer, when it was last known to be right, when it was built, and by what movement."""

    built: Built
    checked: float
    made: float
    movement: Movement


class Snapshots:
    """Keeps the answers to one kind of question.

    Args:
        build: Builds the answer to a question, in a thread.
        read_movement: Reads whether the store has moved, in a thread.
        seconds: For how long an answer is given without a look at the store.
        timeless: Key of the answer that does not count as content: the time that it was read.
        clock: Seconds.
    """

    def __init__(
        self,
        build: Callable[[str | None], Mapping[str, Any]],
        read_movement: Callable[[], Movement],
        *,
        seconds: float,
        timeless: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._build = build
        self._read_movement = read_movement
        self._seconds = seconds
        self._timeless = timeless
        self._clock = clock
        self._lock = asyncio.Lock()
        self._entries: OrderedDict[str | None, _Entry] = OrderedDict()

    async def read(self, question: str | None = None) -> Built:
        """The answer to a question.

        Raises:
            StoreError: when the store is away; the next call tries again.
        """
        entry = self._entries.get(question)
        if entry is None or self._clock() - entry.checked >= self._seconds:
            async with self._lock:
                entry = await self._renew(question)
        self._entries.move_to_end(question)
        return entry.built

    async def _renew(self, question: str | None) -> _Entry:
        entry, now = self._entries.get(question), self._clock()
        if entry is not None and now - entry.checked < self._seconds:
            # Another caller has renewed it while this one waited.
            return entry
        movement = await to_thread.run_sync(self._read_movement)
        if entry is not None and entry.movement == movement and now - entry.made < LONGEST_S:
            entry.checked = now
            return entry
        document = await to_thread.run_sync(self._build, question)
        entry = _Entry(self._write(document), now, now, movement)
        self._entries[question] = entry
        while len(self._entries) > MOST_KEPT:
            self._entries.popitem(last=False)
        return entry

    def _write(self, document: Mapping[str, Any]) -> Built:
        content = {key: value for key, value in document.items() if key != self._timeless}
        digest = hashlib.sha256(orjson.dumps(content)).hexdigest()[:32]
        return Built(orjson.dumps(document), f'"{digest}"')


def answer_with_etag(request: Request, built: Built) -> Response:
    """200 with the answer, or 304 without it where the caller has it already (RFC 9110, 13.1.2)."""
    headers = {"etag": built.etag, "cache-control": "no-cache"}
    known = {tag.strip().removeprefix("W/") for tag in _list_known(request)}
    if built.etag in known or "*" in known:
        return Response(status_code=NOT_MODIFIED, headers=headers)
    return Response(built.body, headers=headers, media_type="application/json")


def _list_known(request: Request) -> list[str]:
    return ",".join(request.headers.getlist("if-none-match")).split(",")
