"""Starts processes and schedules: the replica, `make serve`, training jobs, the demonstration."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deployments.scheduler import ModelScheduler
    from deployments.schedules import ScheduleType
    from deployments.training_jobs import JobRun, JobStatus, TrainingJob

__all__ = ["JobRun", "JobStatus", "ModelScheduler", "ScheduleType", "TrainingJob"]


def __getattr__(name: str) -> Any:
    # Imported on first use, because Prefect's client takes a second.
    if name in __all__:
        module = "deployments.schedules" if name == "ScheduleType" else "deployments.scheduler"
        return getattr(import_module(module), name)
    raise AttributeError(f"module 'deployments' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
