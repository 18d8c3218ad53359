"""Takes the store away from everybody, in each way that it goes: gone, locked, slow, silent."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import sqlalchemy as sa

from mlops.store.schema import metadata
from tests.faults.world import World
from tests.lines import SLOW_S, Line, Mode

GONE, LOCKED, SLOW, SILENT = "gone", "locked", "slow", "silent"


@contextmanager
def gone_file(world: World) -> Iterator[None]:
    """The store's files are somewhere else for a while."""
    store = Path(str(sa.make_url(world.url).database))
    away = store.parent / "away"
    away.mkdir()
    files = [path for path in store.parent.glob(f"{store.name}*") if path.suffix != ".lock"]
    for path in files:
        os.replace(path, away / path.name)
    try:
        yield
    finally:
        for path in files:
            os.replace(away / path.name, path)
        away.rmdir()


@contextmanager
def locked_file(world: World) -> Iterator[None]:
    """Another program has begun to write, and does not finish."""
    path = str(sa.make_url(world.url).database)
    with closing(sqlite3.connect(path, timeout=30.0, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def slow_file(world: World) -> Iterator[None]:
    """The disk takes its time for each transaction, which keeps the file locked meanwhile."""
    world.drag.write_text(str(SLOW_S))
    yield
    world.drag.unlink()


@contextmanager
def locked_tables(world: World) -> Iterator[None]:
    """Another program has locked every table."""
    with psycopg.connect(world.url) as other:
        _lock_all(other)
        yield
        other.rollback()


def _lock_all(other: psycopg.Connection) -> None:
    """Where a transaction of ours takes tables in another order, Postgres ends one of the two."""
    names = ", ".join(f'"{table.name}"' for table in metadata.sorted_tables)
    while True:
        try:
            other.execute(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
        except psycopg.errors.DeadlockDetected:
            other.rollback()
        else:
            return


@contextmanager
def line_that_is(line: Line, mode: Mode) -> Iterator[None]:
    """The line is like this for a while."""
    line.set(mode)
    try:
        yield
    finally:
        line.set("open")


@contextmanager
def away(world: World, kind: str, line: Line | None) -> Iterator[None]:
    """The store of a scenario is gone, locked, slow or silent for as long as the block lasts."""
    if line is None:
        inside = {GONE: gone_file, LOCKED: locked_file, SLOW: slow_file}[kind](world)
    elif kind == LOCKED:
        inside = locked_tables(world)
    else:
        inside = line_that_is(line, kind)  # type: ignore[arg-type]
    with inside:
        yield
