"""What the tests let a child do: a child imports its function by name."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mlops.errors import QueueFull, VersionNotFound


def add(a: int, b: int) -> int:
    return a + b


def describe_limits() -> dict[str, Any]:
    return {
        "data": resource.getrlimit(resource.RLIMIT_DATA)[0],
        "cpu": resource.getrlimit(resource.RLIMIT_CPU)[0],
        "nice": os.nice(0),
        "leads_group": os.getpgid(0) == os.getpid(),
    }


def miss_version() -> None:
    raise VersionNotFound("there is no version lstm_1")


def fill_queue() -> None:
    raise QueueFull(waiting=3, limit=2)


def divide_by_zero() -> float:
    return 1 / 0


def take_memory(size: int) -> int:
    return len(bytearray(size))


def burn_cpu() -> None:
    while True:
        pass


def end_at_once() -> None:
    os._exit(3)


def start_another_and_wait(note: Path) -> None:
    """Start a process, note its id, and wait for ever."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    note.write_text(f"{os.getpid()} {other.pid}")
    time.sleep(600)


def wait_for_file(path: Path) -> str:
    while not path.exists():
        time.sleep(0.01)
    return path.read_text()
