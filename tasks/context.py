"""What every task works with: the settings, and the registry they name."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

from mlops.manager import MLOpsManager
from mlops.registry.connection import Registry
from mlops.settings import Settings, current_settings

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


def open_project() -> Project:
    """Read the settings, open what they name, and start the clock of the training."""
    settings = current_settings()
    limit_s = settings.training_job_timeout_hours * SECONDS_PER_HOUR
    return Project(settings, MLOpsManager(settings).registry, time.monotonic() + limit_s)


def available_threads() -> int:
    """Processor cores this process may use; how many of them help is measured while training."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
