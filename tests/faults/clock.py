"""The clock as a fault: the clock of the machine of a scenario is set forward or back.

A file says by how many seconds it is ahead, so that all processes of the scenario jump at once.
Shifted are the wall clock and, on SQLite, the database's clock, which is the machine's. The
monotonic clock never jumps, and the clock of a Postgres server is that of another machine.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

from mlops.store.sql import db_now
from tests.clocks import shift_compiled

SHIFTED = ("mlops.", "deployments.")
"""The packages whose modules read a shifted time from `datetime.now`."""

_true_time = time.time
_armed: list[Path] = []


def set_clock(file: Path, ahead_s: float) -> None:
    """Set the clock of the machine whose file this is."""
    new = file.with_name(f"{file.name}.{os.getpid()}")
    new.write_text(str(ahead_s))
    os.replace(new, file)


def read_ahead_s(file: Path) -> float:
    return float(file.read_text())


def jump_clock(seconds: float) -> None:
    """Set the clock of this machine forward, or back where ``seconds`` are negative."""
    [file] = _armed
    set_clock(file, read_ahead_s(file) + seconds)


def arm_clock(file: Path) -> None:
    """Let all modules that are imported already read the clock of the machine."""
    _armed.append(file)
    compilers = db_now._compiler_dispatcher.specs  # type: ignore[attr-defined]
    compilers["sqlite"] = shift_compiled(compilers["sqlite"], lambda: read_ahead_s(file))
    time.time = _shifted_time
    for name, module in list(sys.modules.items()):
        if name.startswith(SHIFTED) and getattr(module, "datetime", None) is datetime:
            module.datetime = _ShiftedDatetime  # type: ignore[attr-defined]


def _shifted_time() -> float:
    return _true_time() + read_ahead_s(_armed[0])


class _ShiftedDatetime(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return datetime.fromtimestamp(_shifted_time(), tz)
