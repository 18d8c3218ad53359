"""A process is asked to end first, and is gone afterwards whatever it thinks of that."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from deployments.processes import stop_process

WILLING = "import time; print('up', flush=True); time.sleep(60)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WILLING


@pytest.mark.parametrize(("program", "by"), [(WILLING, signal.SIGTERM), (DEAF, signal.SIGKILL)])
def test_it_ends_by_itself_or_is_killed(program: str, by: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        stop_process(process, within_s=0.5)
    assert process.returncode == -by
