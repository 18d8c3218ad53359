"""An answer is built once for all who ask within its time, and again when the store has moved."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import Request

from mlops.api.snapshot import LONGEST_S, MOST_KEPT, Built, Snapshots, answer_with_etag
from mlops.errors import StoreError


class Builder:
    """Builds answers that tell how often it was asked, by a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.movement = 1
        self.looks = 0
        self.built: list[str | None] = []
        self.content: Any = "same"
        self.snapshots = Snapshots(
            self.build, self.look, seconds=1.0, timeless="at", clock=lambda: self.now
        )

    def build(self, question: str | None) -> dict[str, Any]:
        self.built.append(question)
        return {"at": len(self.built), "content": self.content, "question": question}

    def look(self) -> tuple[int]:
        self.looks += 1
        return (self.movement,)


def run(steps: Callable[[Builder], Awaitable[None]]) -> Builder:
    builder = Builder()
    asyncio.run(steps(builder))  # type: ignore[arg-type]
    return builder


def test_callers_within_a_second_share_one_look_at_the_store() -> None:
    async def steps(builder: Builder) -> None:
        await asyncio.gather(*(builder.snapshots.read() for _ in range(50)))
        builder.now += 0.9
        await builder.snapshots.read()

    builder = run(steps)
    assert (len(builder.built), builder.looks) == (1, 1)


def test_an_answer_is_built_again_only_when_the_store_has_moved() -> None:
    async def steps(builder: Builder) -> None:
        first = await builder.snapshots.read()
        builder.now += 1.0
        assert await builder.snapshots.read() is first
        builder.now, builder.movement, builder.content = builder.now + 1.0, 2, "other"
        assert (await builder.snapshots.read()).etag != first.etag

    builder = run(steps)
    assert (len(builder.built), builder.looks) == (2, 3)


def test_a_quiet_store_is_read_again_after_some_seconds() -> None:
    async def steps(builder: Builder) -> None:
        await builder.snapshots.read()
        builder.now += LONGEST_S
        await builder.snapshots.read()

    assert len(run(steps).built) == 2


def test_the_tag_changes_with_the_content_and_not_with_the_time() -> None:
    async def steps(builder: Builder) -> None:
        first = await builder.snapshots.read()
        builder.now += LONGEST_S
        second = await builder.snapshots.read()
        assert (first.body != second.body, first.etag) == (True, second.etag)

    run(steps)


def test_a_store_that_is_away_is_tried_again_at_the_next_call() -> None:
    async def steps(builder: Builder) -> None:
        def fail() -> tuple[int]:
            raise StoreError("away")

        look, builder.snapshots._read_movement = builder.snapshots._read_movement, fail
        with pytest.raises(StoreError):
            await builder.snapshots.read()
        builder.snapshots._read_movement = look
        assert (await builder.snapshots.read()).body

    run(steps)


def test_the_question_asked_longest_ago_is_forgotten_first() -> None:
    async def steps(builder: Builder) -> None:
        for number in range(MOST_KEPT):
            await builder.snapshots.read(str(number))
        await builder.snapshots.read("0")
        await builder.snapshots.read("one more")
        await builder.snapshots.read("0")
        await builder.snapshots.read("1")

    builder = run(steps)
    assert builder.built[-2:] == ["one more", "1"]


@pytest.mark.parametrize(
    ("known", "status"),
    [
        (None, 200),
        ('"other"', 200),
        ('"tag"', 304),
        ('W/"tag"', 304),
        ('"other", "tag"', 304),
        ("*", 304),
    ],
)
def test_a_caller_who_has_the_answer_gets_none(known: str | None, status: int) -> None:
    headers = [] if known is None else [(b"if-none-match", known.encode())]
    request = Request({"type": "http", "method": "GET", "headers": headers})
    answer = answer_with_etag(request, Built(b"{}", '"tag"'))
    assert (answer.status_code, answer.headers["etag"]) == (status, '"tag"')
    assert answer.body == (b"" if status == 304 else b"{}")
