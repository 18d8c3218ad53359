"""A real Prefect server in a process of its own, with every service it has.

What it knows lies in its folder and its port stays, so that it may be stopped and started again:

    with running(tmp_path, prefect_template) as server, server.client() as client:
        server.deploy_all()
        server.stop()
        server.start()
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.processes import free_port, stop_process

ROOT = Path(__file__).parents[1]
START_S, STOP_S, SOON_S = 120.0, 20.0, 60.0


class PrefectServer:
    """One server on one port; ``home`` keeps its database and its log."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in order to talk to this server, worker and flow runs included."""
        return {
            **os.environ,
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }

    def start(self) -> None:
        """Start it where it was, and wait until it answers."""
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        with (self.home / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "server", "start", *where],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        until(lambda: _answers(f"{self.url}/health"), START_S)

    def stop(self) -> None:
        """Stop it, if it runs; what it knows stays in its folder."""
        if self._process is None:
            return
        stop_process(self._process, within_s=STOP_S)
        self._process = None

    @contextmanager
    def client(self) -> Iterator[SyncPrefectClient]:
        """Point this process at the server, and open a client to it."""
        with temporary_settings({PREFECT_API_URL: self.url}), get_client(sync_client=True) as one:
            yield one

    def deploy_all(self) -> None:
        """What `make deploy` does; it may be done again."""
        self.run("-m", "deployments.setup")

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """Run Python in the project's folder against this server; what it printed."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**self.environment, **(env or {})},
            check=True,
            capture_output=True,
            text=True,
        ).stdout


@contextmanager
def running(home: Path, template: Path) -> Iterator[PrefectServer]:
    """A started server that is stopped at the end; ``template`` is a migrated, empty database."""
    server = PrefectServer(home)
    shutil.copy(template, home / "prefect.db")
    try:
        server.start()
        yield server
    finally:
        server.stop()


def until(seen: Callable[[], Any], seconds: float = SOON_S) -> Any:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.2)
    return found


def runs(client: SyncPrefectClient, deployment: str) -> list[FlowRun]:
    """The flow runs of one deployment, named like ``monitor/hourly``; at most 200."""
    found = client.read_deployment_by_name(deployment).id
    only = DeploymentFilter(id=DeploymentFilterId(any_=[found]))
    return client.read_flow_runs(deployment_filter=only, limit=200)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2):
            return True
    except (URLError, OSError):
        return False
