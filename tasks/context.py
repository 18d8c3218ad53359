"""What every task works with: the settings, and the registry they name.

[[Log lines of a flow run: what they carry, how they look, and that Prefect's UI shows them.]]
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler
from prefect.runtime import flow_run

from mlops import logs
from mlops.installation import Installation, open_installation
from mlops.registry.connection import Registry
from mlops.settings import Settings, current_settings

OWN_PROCESS = "PREFECT__FLOW_RUN_ID"
"""Set where a worker started this process for one flow run; else the process is somebody's own."""


@contextmanager
def run_logs(*, service: str | None = None, model_id: str | None = None) -> Iterator[None]:
    """Let every line logged in the block carry the flow run, and what it is about.

    In a process of our own they are written as LOG_FORMAT says. The library's lines reach
    Prefect's UI as those of its own logger do.
    """
    if os.environ.get(OWN_PROCESS):
        settings = current_settings()
        logs.configure(settings.log_format, settings.log_level)
    _show_in_prefect()
    with logs.bound(service=service, model_id=model_id, flow_run_id=flow_run.id):
        yield


def _show_in_prefect() -> None:
    """Once a process; PREFECT_LOGGING_EXTRA_LOGGERS=mlops has done it already."""
    library = logging.getLogger(logs.LIBRARY)
    if not any(isinstance(one, APILogHandler) for one in library.handlers):
        handler = APILogHandler()
        handler.addFilter(_in_a_run)
        library.addHandler(handler)


def _in_a_run(record: logging.LogRecord) -> bool:
    """A thread beside the run has no run to be shown with."""
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Project:
    """One training's surroundings; ``deadline`` is a `time.monotonic` second."""

    settings: Settings
    registry: Registry = field(repr=False)
    deadline: float

    @property
    def seconds_left(self) -> float:
        """Time until the training is stopped, at least a second."""
        return max(1.0, self.deadline - time.monotonic())


def current_installation() -> Installation:
    """The installation that the environment names."""
    return open_installation(current_settings())


def open_project() -> Project:
    """Read the settings, open the registry they name, and start the clock of the training."""
    settings = current_settings()
    limit_s = settings.training_job_timeout_hours * SECONDS_PER_HOUR
    return Project(settings, open_installation(settings).registry, time.monotonic() + limit_s)


def available_threads() -> int:
    """Processor cores this process may use; how many of them help is measured while training."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
