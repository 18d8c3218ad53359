"""Takes the store away from everybody, in each way that it goes: gone, locked, slow, silent."""

from __future__ import annotations

import os
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Literal

import psycopg
import sqlalchemy as sa

from mlops.store.schema import metadata
from tests.faults.world import World

GONE, LOCKED, SLOW, SILENT = "gone", "locked", "slow", "silent"
SLOW_S = 1.0
"""A disk or a line that takes so long for each step: longer than a share lasts without word."""

SOCKET = ".s.PGSQL.5432"
CHUNK = 65_536
Mode = Literal["open", "gone", "slow", "silent"]


class Line:
    """A line to a Postgres server that can be cut, slowed down, or filled with silence."""

    def __init__(self, server: str, folder: Path) -> None:
        self.server = server
        self.mode: Mode = "open"
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / SOCKET))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, mode: Mode) -> None:
        """Change what becomes of what is said; ``gone`` hangs up on everybody."""
        with self._changed:
            self.mode = mode
            self._changed.notify_all()
            if mode == "gone":
                for one in self._open:
                    with suppress(OSError):
                        one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.set("gone")
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.mode == "gone":
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.server)
            with self._changed:
                self._open |= {client, server}
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while chunk := source.recv(CHUNK):
                if self.mode == "slow":
                    time.sleep(SLOW_S / 2)
                with self._changed:
                    self._changed.wait_for(lambda: self.mode != "silent")
                target.sendall(chunk)
        except OSError:
            pass  # the other half has hung up
        finally:
            with self._changed:
                self._open -= {source, target}
            for one in (source, target):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()


@contextmanager
def line_to(url: str) -> Iterator[tuple[Line, str]]:
    """A line to the server of a URL, and the URL by which it is reached through it."""
    parsed = sa.make_url(url)
    host = str(parsed.query["host"])
    # A socket's path has room for a hundred characters, and a test's folder often has more.
    with tempfile.TemporaryDirectory(prefix="mlops-line-", dir="/tmp") as folder:
        line = Line(f"{host}/{SOCKET}", Path(folder))
        through = parsed.update_query_dict({"host": folder})
        try:
            yield line, through.render_as_string(hide_password=False)
        finally:
            line.close()


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
        names = ", ".join(f'"{table.name}"' for table in metadata.sorted_tables)
        other.execute(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
        yield
        other.rollback()


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
