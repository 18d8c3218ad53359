"""The markets of services, and the bars of files.

A market says where the bars of a service come from, when it trades and what time it keeps. Bars of
a file are kept here, so that a process on another machine has them too. They are cut into chunks
that are named by their content: a file that grows changes its last chunk only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from mlops.store import audit
from mlops.store.audit import Why
from mlops.store.engine import Connection, Store
from mlops.store.schema import bar_chunk, bar_file, market
from mlops.store.sql import insert_new, upsert

CHUNKS_AT_ONCE = 16
"""Chunks of one transaction: other writers wait for it, some 50 ms on SQLite."""

_USED = sa.select(market.c.file).where(market.c.file.is_not(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class BarFile:
    """A file of bars as it was last read.

    Args:
        id: Digest of its path and of how its rows are read.
        digest: Content hash of all bars.
        chunks: Digests of the chunks, oldest first; empty in a list of markets.
        found: What was dropped and rebuilt of its rows, as JSON.
        size: Bytes of the file when it was read.
        modified_ns: Its modification time then, ns since 1970.
    """

    id: str
    path: str
    digest: str
    bars: int
    last_close: datetime
    chunks: Sequence[str] = ()
    found: Mapping[str, Any] = field(default_factory=dict)
    size: int
    modified_ns: int
    read_at: datetime


@dataclass(frozen=True, slots=True)
class MarketRow:
    """The market of a service.

    Args:
        choice: What the caller said of the bars, as JSON.
        file: Id of the file that the bars come from; None where they come from the venue.
        since: When it was set.
    """

    service: str
    choice: Mapping[str, Any]
    file: str | None
    since: datetime


def set_market(
    connection: Connection, service: str, *, choice: Mapping[str, Any], file: str | None, why: Why
) -> None:
    """Set the market of a service, in the caller's transaction; nothing happens if it is so."""
    before = connection.execute(sa.select(market).where(market.c.service == service)).first()
    if before is not None and (before.choice, before.file) == (dict(choice), file):
        return
    upsert(
        connection,
        market,
        [{"service": service, "choice": dict(choice), "file": file, "since": why.at}],
    )
    audit.record(
        connection,
        why,
        action="set_market",
        service=service,
        subject=service,
        before=None if before is None else before.choice,
        after=dict(choice),
    )


def get_market(store: Store, service: str) -> MarketRow | None:
    """The market that was set for a service; None where its venue's own counts."""
    with store.read() as connection:
        row = connection.execute(sa.select(market).where(market.c.service == service)).first()
    return None if row is None else MarketRow(**row._mapping)


def list_markets(store: Store) -> tuple[tuple[MarketRow, BarFile | None], ...]:
    """All markets that were set, each with the file of its bars."""
    # The chunks of a long file are many, and this is read every second.
    columns = [column for column in bar_file.columns if column.name != "chunks"]
    with store.read() as connection:
        markets = connection.execute(sa.select(market)).all()
        files = {row.id: BarFile(**row._mapping) for row in connection.execute(sa.select(*columns))}
    return tuple((MarketRow(**row._mapping), files.get(row.file)) for row in markets)


def follow_champion(
    connection: Connection, service: str, notes: Mapping[str, Any], why: Why
) -> None:
    """Give a service the bars that its new champion was trained on, in the caller's transaction.

    Args:
        notes: Of the champion; ``market`` in them holds choice and file. Without it, or where the
            bars of that file were deleted, nothing changes.
    """
    noted = notes.get("market")
    if not noted:
        return
    known = sa.select(bar_file.c.id).where(bar_file.c.id == noted["file"])
    if connection.execute(known).first() is not None:
        set_market(connection, service, choice=noted["choice"], file=noted["file"], why=why)


def get_bar_file(store: Store, file_id: str) -> BarFile | None:
    """What is known of a file; None where it was never read to its end."""
    with store.read() as connection:
        row = connection.execute(sa.select(bar_file).where(bar_file.c.id == file_id)).first()
    return None if row is None or not row.bars else BarFile(**row._mapping)


def touch_bar_file(store: Store, file_id: str, at: datetime) -> None:
    """Note that a file was found unchanged, so that its bars are not deleted as unused."""
    with store.write() as connection:
        connection.execute(sa.update(bar_file).where(bar_file.c.id == file_id).values(read_at=at))


def put_bars(store: Store, file: BarFile, chunks: Mapping[str, bytes]) -> None:
    """Store the bars of a file in place of those stored before.

    The chunks are written first, some at a time; the last transaction names them. So a reader
    sees the old bars or the new ones, and a process that is killed loses nothing.

    Args:
        chunks: Content by digest; all that ``file`` names.
    """
    begun = {**_values_of(file), "bars": 0, "chunks": []}
    with store.write() as connection:
        insert_new(connection, bar_file, [begun])
    for some in _split(_find_missing(store, file)):
        with store.write() as connection:
            insert_new(connection, bar_chunk, _chunk_rows(file, chunks, some))
    with store.write() as connection:
        # One process at a time names the chunks of a file and deletes the others.
        _lock_file(connection, file.id)
        stored = set(connection.scalars(_digests_of(file)))
        missing = set(file.chunks) - stored
        insert_new(connection, bar_chunk, _chunk_rows(file, chunks, missing))
        upsert(connection, bar_file, [_values_of(file)])
        for some in _split(sorted(stored - set(file.chunks))):
            old = (bar_chunk.c.file == file.id, bar_chunk.c.digest.in_(some))
            connection.execute(sa.delete(bar_chunk).where(*old))


def read_chunks(store: Store, file_id: str, newest: int | None = None) -> tuple[bytes, ...]:
    """The chunks of a file's bars, oldest first; none where it was never read to its end.

    Args:
        newest: Read only so many chunks, the newest ones; by default all.
    """
    found: dict[str, bytes] = {}
    with store.read() as connection:
        row = connection.execute(sa.select(bar_file).where(bar_file.c.id == file_id)).first()
        named = [] if row is None else row.chunks
        if newest is not None:
            named = named[-newest:]
        for some in _split(named):
            query = sa.select(bar_chunk.c.digest, bar_chunk.c.content).where(
                bar_chunk.c.file == file_id, bar_chunk.c.digest.in_(some)
            )
            found |= {chunk.digest: chunk.content for chunk in connection.execute(query)}
    return tuple(found[digest] for digest in named)


def delete_unused_bars(store: Store, *, before: datetime) -> int:
    """Delete the bars of files that no market names and that were last read before a time.

    Returns:
        The number of files.
    """
    unused = (bar_file.c.id.not_in(_USED), bar_file.c.read_at < before)
    with store.read() as connection:
        ids = connection.scalars(sa.select(bar_file.c.id).where(*unused)).all()
    deleted = 0
    for file_id in ids:
        with store.write() as connection:
            _lock_file(connection, file_id)
            one = (bar_file.c.id == file_id, *unused)
            # A market may name the file by now.
            if connection.execute(sa.select(bar_file.c.id).where(*one)).first() is not None:
                connection.execute(sa.delete(bar_chunk).where(bar_chunk.c.file == file_id))
                deleted += connection.execute(sa.delete(bar_file).where(*one)).rowcount
    return deleted


def _lock_file(connection: Connection, file_id: str) -> None:
    connection.execute(sa.select(bar_file.c.id).where(bar_file.c.id == file_id).with_for_update())


def _split(digests: Sequence[str]) -> Iterator[Sequence[str]]:
    """Parts of at most `CHUNKS_AT_ONCE` digests."""
    for first in range(0, len(digests), CHUNKS_AT_ONCE):
        yield digests[first : first + CHUNKS_AT_ONCE]


def _values_of(file: BarFile) -> dict[str, Any]:
    return {name: getattr(file, name) for name in BarFile.__slots__} | {"chunks": list(file.chunks)}


def _digests_of(file: BarFile) -> sa.Select[tuple[str]]:
    return sa.select(bar_chunk.c.digest).where(bar_chunk.c.file == file.id)


def _find_missing(store: Store, file: BarFile) -> list[str]:
    with store.read() as connection:
        stored = set(connection.scalars(_digests_of(file)))
    return [digest for digest in dict.fromkeys(file.chunks) if digest not in stored]


def _chunk_rows(
    file: BarFile, chunks: Mapping[str, bytes], digests: Iterable[str]
) -> list[dict[str, Any]]:
    return [{"file": file.id, "digest": digest, "content": chunks[digest]} for digest in digests]
