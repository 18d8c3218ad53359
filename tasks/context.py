"""What every task works with: the installation, the deadline of a training, and logging."""

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
"""Prefect sets it in a process that a worker started for one flow run."""

SECONDS_PER_HOUR = 3600.0


@contextmanager
def run_logs(*, service: str | None = None, model_id: str | None = None) -> Iterator[None]:
    """Add flow run, service and version to every line logged in the block.

    The library's lines are sent to Prefect's UI too. A process that a worker started writes its
    lines as LOG_FORMAT and LOG_LEVEL say; a notebook's logging is left alone.
    """
    if os.environ.get(OWN_PROCESS):
        settings = current_settings()
        logs.configure(settings.log_format, settings.log_level)
    _send_logs_to_prefect()
    with logs.bound(service=service, model_id=model_id, flow_run_id=flow_run.id):
        yield


def _send_logs_to_prefect() -> None:
    library = logging.getLogger(logs.LIBRARY)
    # PREFECT_LOGGING_EXTRA_LOGGERS=mlops adds a handler as well.
    if not any(isinstance(handler, APILogHandler) for handler in library.handlers):
        handler = APILogHandler()
        handler.addFilter(_belongs_to_a_run)
        handler.setFormatter(logs.MessageFormatter())
        library.addHandler(handler)


def _belongs_to_a_run(record: logging.LogRecord) -> bool:
    """False in threads outside the run, whose lines Prefect could not file under a run."""
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


@dataclass(frozen=True, slots=True)
class Project:
    """What one training works with; ``deadline`` is a `time.monotonic` second."""

    settings: Settings
    registry: Registry = field(repr=False)
    deadline: float

    @property
    def seconds_left(self) -> float:
        """Seconds until the training is stopped, at least one."""
        return max(1.0, self.deadline - time.monotonic())


def current_installation() -> Installation:
    """The installation that the environment names."""
    return open_installation(current_settings())


def open_project() -> Project:
    """Read the settings, open the registry they name, and start the clock of the training."""
    settings = current_settings()
    limit_s = settings.training_job_timeout_hours * SECONDS_PER_HOUR
    return Project(settings, open_installation(settings).registry, time.monotonic() + limit_s)
