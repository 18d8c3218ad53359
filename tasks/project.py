"""What every task works with: the settings, and the registry they name."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from mlops.registry.connection import Registry, open_registry
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
    registry = open_registry(
        base_path=settings.mlops_base_path,
        store_url=settings.database_url,
        tracking_uri=settings.tracking_uri,
        experiment=settings.mlflow_experiment_name,
        custom_modules=settings.custom_model_modules,
        allow_signed_pickle=settings.allow_signed_pickle,
    )
    limit_s = settings.training_job_timeout_hours * SECONDS_PER_HOUR
    return Project(settings, registry, time.monotonic() + limit_s)
