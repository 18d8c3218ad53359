"""Two machines share a store and an MLflow server that serves artifacts, and no folder.

Each machine is a process; the second one is another user, with a base path of its own.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from deployments.processes import answers, free_port, stop_process
from mlops.store import open_store
from tests.postgres import Server
from tests.zygote import Process, Zygote

from .machines import register_first, register_often, register_on_both, repair_until

pytestmark = pytest.mark.slow
START_S = 300.0


@pytest.fixture
def store_url(postgres: Server) -> Iterator[str]:
    postgres.create("machines", template="migrated")
    yield postgres.url("machines")
    postgres.drop("machines")


@pytest.fixture
def mlflow_server(tmp_path: Path, mlflow_template: Path) -> Iterator[str]:
    """The URI of a server as the pages have it."""
    folder, artifacts = tmp_path / "server", tmp_path / "server" / "artifacts"
    artifacts.mkdir(parents=True)
    shutil.copy(mlflow_template, folder / "mlflow.db")
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--serve-artifacts", "--artifacts-destination", str(artifacts)),
    ]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + START_S
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop_process(process, within_s=20.0)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """The base paths of two machines; the second one's can be another user's."""
    second = Path(tempfile.mkdtemp(prefix="mlops-second-", dir="/tmp"))
    yield tmp_path / "first", second
    shutil.rmtree(second)


def said(process: Process) -> dict[str, Any]:
    """The last JSON line that a process wrote."""
    lines = process.output(300).splitlines()
    return dict(json.loads([line for line in lines if line.startswith("{")][-1]))


def test_a_second_machine_loads_and_registers_without_a_folder_in_common(
    zygote: Zygote, store_url: str, mlflow_server: str, machines: tuple[Path, Path], tmp_path: Path
) -> None:
    asked = (*map(str, machines), store_url, mlflow_server)
    done = said(zygote.spawn(register_on_both, *asked, log=tmp_path / "both.log", cwd=Path("/tmp")))
    assert len(done["loaded"]) == 2
    assert done["second"] not in done["loaded"]
    assert done["repaired"] == []
    server = tmp_path / "server"
    assert len(list(server.rglob("manifest.json"))) == 3
    for home in machines:
        assert _tables_naming(home, store_url) == []
        assert _tables_naming(home, f"sqlite:///{server / 'mlflow.db'}") == []
        assert [path for path in server.rglob("*") if _is_naming(path, home)] == []


def _is_naming(path: Path, home: Path) -> bool:
    return path.is_file() and str(home).encode() in path.read_bytes()


def _tables_naming(home: Path, url: str) -> list[str]:
    """The tables of a database that hold a path below the base path of a machine."""
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with closing(engine.connect()) as connection:
        tables = sa.inspect(engine).get_table_names()
        rows = {
            table: connection.execute(sa.text(f'SELECT * FROM "{table}"')).all() for table in tables
        }
    engine.dispose()
    assert any(rows.values())
    return [table for table, found in rows.items() if str(home) in repr(found)]


def test_machines_and_a_neighbour_repair_while_one_registers(
    zygote: Zygote, store_url: str, mlflow_server: str, tmp_path: Path
) -> None:
    """All processes share host name, user and MLflow; the neighbour has a store of its own."""

    def start(work: Callable[..., None], name: str, *more: object, url: str = store_url) -> Process:
        asked = (str(tmp_path / "base"), url, mlflow_server, *more)
        return zygote.spawn(work, *asked, log=tmp_path / f"{name}.log", who=name)

    said(start(register_first, "begins"))
    neighbour, done = f"sqlite:///{tmp_path / 'neighbour.db'}", tmp_path / "done"
    open_store(neighbour).close()
    repairing = [
        start(repair_until, "machine", str(done)),
        start(repair_until, "neighbour", str(done), url=neighbour),
    ]
    registered = said(start(register_often, "works", 3))["registered"]
    done.touch()
    assert [said(process)["repaired"] for process in repairing] == [[], []]
    with closing(sqlite3.connect(tmp_path / "server" / "mlflow.db")) as database:
        runs = database.execute("SELECT DISTINCT status FROM runs").fetchall()
        tags = database.execute("SELECT value FROM model_version_tags WHERE key = 'status'")
        statuses = sorted(value for (value,) in tags)
    assert len(set(registered)) == 3
    assert (runs, statuses) == ([("FINISHED",)], [*["challenger"] * 4, "deployed"])
