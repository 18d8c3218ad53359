"""A line to a Postgres server that can be cut, slowed down, or filled with silence."""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import sqlalchemy as sa

SLOW_S = 1.0
"""There and back, on a line that is slow: longer than a share lasts without word."""

SOCKET = ".s.PGSQL.5432"
CHUNK = 65_536
Mode = Literal["open", "gone", "slow", "silent"]


class Line:
    """Carries what is said to a server's socket and back; `set` changes how."""

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
