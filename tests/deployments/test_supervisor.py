"""The first part is up first and ends last; a late or dying other one does not disturb it."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from deployments import supervisor
from deployments.processes import ServerProcess, free_port
from deployments.supervisor import Part, Supervisor
from tests.prefect_server import until

NOTING = """
import pathlib, signal, sys, time
notes = pathlib.Path(sys.argv[2])
def note(what):
    with notes.open("a") as file:
        print(sys.argv[1], what, file=file)
def end(*_):
    note("ended")
    sys.exit()
signal.signal(signal.SIGTERM, end)
note("started")
time.sleep(60)
"""
LOG_BYTES = 100_000
CHATTY = """
import time
for number in range(3 * 10_000):
    print(f"{number:09}", flush=True)
time.sleep(60)
"""
MUTE = "import time; time.sleep(60)"


class Stage:
    """A supervisor over small processes that note what happens to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shown = io.StringIO()
        console = Console(file=self.shown, width=300)
        self.supervisor = Supervisor([], os.environ, folder, console, log_bytes=LOG_BYTES)

    def part(self, name: str, code: str = NOTING, url: str | None = None) -> ServerProcess:
        command = [sys.executable, "-c", code, name, str(self.folder / "notes")]
        return ServerProcess(name, command, url)

    @property
    def notes(self) -> list[str]:
        path = self.folder / "notes"
        return path.read_text().splitlines() if path.exists() else []

    @contextmanager
    def running(self, *parts: Part) -> Iterator[None]:
        self.supervisor.parts = parts
        thread = threading.Thread(target=self.supervisor.run)
        thread.start()
        try:
            yield
        finally:
            self.supervisor.stopping.set()
            thread.join()

    def until_shown(self, text: str) -> None:
        shows: Callable[[], bool] = lambda: text in self.shown.getvalue()  # noqa: E731
        until(shows)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    for name in ("POLL_S", "RESTART_S", "LATE_S"):
        monkeypatch.setattr(supervisor, name, 0.05)
    return Stage(tmp_path)


def test_parts_start_in_order_and_end_in_reverse(stage: Stage) -> None:
    first = Part(stage.part("replica"), page="http://here", use="; use it")
    second = Part(stage.part("server"), after=first)
    with stage.running(first, second):
        until(lambda: len(stage.notes) == 2)
    assert stage.notes == ["replica started", "server started", "server ended", "replica ended"]
    assert "replica         http://here; use it" in stage.shown.getvalue()


def test_a_late_part_is_told_and_delays_only_those_that_need_it(stage: Stage) -> None:
    first = Part(stage.part("replica"))
    late = Part(stage.part("server", MUTE, f"http://127.0.0.1:{free_port()}/"), after=first)
    worker, page = Part(stage.part("worker"), after=late), Part(stage.part("page"), after=first)
    with stage.running(first, late, worker, page):
        stage.until_shown(f"still waiting for server at {late.process.url}; see ")
        until(lambda: "page started" in stage.notes)
    assert "worker started" not in stage.notes
    assert stage.shown.getvalue().count("still waiting") == 1


def test_a_replica_that_is_never_ready_does_not_keep_others_from_starting(stage: Stage) -> None:
    url = f"http://127.0.0.1:{free_port()}/readyz"
    replica = Part(stage.part("replica", MUTE, url), is_needed=True)
    with stage.running(replica, Part(stage.part("server"), after=replica)):
        until(lambda: "server started" in stage.notes)
    assert not replica.is_up


def test_a_part_that_ends_is_started_again(stage: Stage) -> None:
    part = Part(stage.part("replica"), is_needed=True)
    with stage.running(part):
        until(lambda: part.is_up and part.process.process is not None and stage.notes)
        assert part.process.process is not None
        part.process.process.send_signal(signal.SIGKILL)
        until(lambda: stage.notes == ["replica started"] * 2)
    assert "replica ended; starting it again in " in stage.shown.getvalue()


def test_a_part_that_does_not_last_waits_twice_as_long_each_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LONGEST_RESTART_S", 0.3)
    part, delays = Part(stage.part("worker", "pass"), delay_s=0.05), list[float]()

    def reaches_the_longest() -> bool:
        delays.append(part.delay_s)
        return part.delay_s == 0.3

    with stage.running(part):
        until(reaches_the_longest)
    assert set(delays) <= {0.05, 0.1, 0.2, 0.3}


def test_nothing_is_left_where_the_part_that_is_needed_cannot_start(stage: Stage) -> None:
    url = f"http://127.0.0.1:{free_port()}/"
    other = Part(stage.part("other"))
    stage.supervisor.parts = [other, Part(stage.part("replica", "pass", url), is_needed=True)]
    with pytest.raises(SystemExit, match=r"replica did not start; see .*replica\.log"):
        stage.supervisor.run()
    assert not other.process.is_alive()


def test_a_log_begins_anew_at_its_limit_and_one_older_part_is_kept(stage: Stage) -> None:
    log, older = stage.folder / "chatty.log", stage.folder / "chatty.log.1"
    with stage.running(Part(stage.part("chatty", CHATTY))):
        until(lambda: older.exists() and log.stat().st_size <= LOG_BYTES)
    assert older.stat().st_size > LOG_BYTES
