"""A process is asked to end first, and is gone afterwards whatever it thinks of that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from deployments.processes import ServerProcess, answers, free_port, hold_folder, stop_process
from mlops.errors import SettingsError

WILLING = "import time; print('up', flush=True); time.sleep(60)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WILLING


@pytest.mark.parametrize(("program", "by"), [(WILLING, signal.SIGTERM), (DEAF, signal.SIGKILL)])
def test_it_ends_by_itself_or_is_killed(program: str, by: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        stop_process(process, within_s=0.5)
    assert process.returncode == -by


def serving(port: int) -> ServerProcess:
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    return ServerProcess("files", command, f"http://127.0.0.1:{port}/")


def test_a_server_is_up_when_its_url_answers_and_gone_after_its_stop(tmp_path: Path) -> None:
    server = serving(free_port())
    assert not server.is_up()
    server.start(os.environ, tmp_path / "files.log")
    server.wait_until_up(within_s=60.0)
    assert server.is_up()
    server.stop()
    assert (server.is_alive(), server.is_up()) == (False, False)
    server.stop()


def test_a_server_that_ends_before_it_is_up_is_named_with_its_log(tmp_path: Path) -> None:
    server = ServerProcess("files", [sys.executable, "-c", "pass"], "http://127.0.0.1:9/")
    server.start(os.environ, tmp_path / "files.log")
    with pytest.raises(SystemExit, match=r"files did not start; see .*files\.log"):
        server.wait_until_up(within_s=60.0)


def test_a_wait_ends_when_the_program_stops(tmp_path: Path) -> None:
    stopping = threading.Event()
    stopping.set()
    server = ServerProcess("sleep", [sys.executable, "-c", WILLING], "http://127.0.0.1:9/")
    server.start(os.environ, tmp_path / "sleep.log")
    server.wait_until_up(within_s=60.0, stopping=stopping)
    server.stop()
    assert not server.is_alive()


def test_the_answer_of_another_program_on_its_port_does_not_count(tmp_path: Path) -> None:
    foreign = serving(free_port())
    foreign.start(os.environ, tmp_path / "foreign.log")
    foreign.wait_until_up(within_s=60.0)
    ours = ServerProcess("sleep", [sys.executable, "-c", WILLING], foreign.url)
    ours.start(os.environ, tmp_path / "ours.log")
    try:
        assert answers(str(ours.url))
        assert ours.is_alive()
        assert not ours.is_up()
    finally:
        ours.stop()
        foreign.stop()


def test_a_child_that_answers_for_its_parent_counts_and_ends_with_it(tmp_path: Path) -> None:
    """MLflow and others start the server that answers as a child."""
    server = serving(free_port())
    start = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    server.command = [sys.executable, "-c", start, *server.command]
    server.start(os.environ, tmp_path / "files.log")
    server.wait_until_up(within_s=60.0)
    server.stop()
    assert not answers(str(server.url))


def test_a_secret_is_handed_over_beside_the_command(tmp_path: Path) -> None:
    show = "import os; print(os.environ['SECRET'])"
    process = ServerProcess(
        "show", [sys.executable, "-c", show], environment={"SECRET": "not in ps"}
    )
    process.start({}, tmp_path / "show.log")
    assert process.process is not None
    assert process.process.wait(timeout=60) == 0
    assert (tmp_path / "show.log").read_text() == "not in ps\n"
    assert "not in ps" not in repr(process)


def test_a_folder_is_held_by_one_program_at_a_time(tmp_path: Path) -> None:
    with hold_folder(tmp_path / "new"):
        refusal = f"already served by process {os.getpid()}.*MLOPS_BASE_PATH"
        with pytest.raises(SettingsError, match=refusal), hold_folder(tmp_path / "new"):
            pytest.fail("two programs hold one folder")
    with hold_folder(tmp_path / "new"):
        pass
