"""Prefect understands the variables by which its server deletes old runs."""

from __future__ import annotations

from datetime import timedelta

import pytest
from prefect.settings.models.server.services import ServerServicesDBVacuumSettings

from deployments.prefect_retention import vacuum_environment
from mlops.settings import Settings


def test_prefect_deletes_runs_and_events_after_the_days_of_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_RUN_DAYS", "3")
    for name, value in vacuum_environment(Settings(_env_file=None)).items():
        monkeypatch.setenv(name, value)
    read = ServerServicesDBVacuumSettings()
    assert {"events", "flow_runs"} <= read.enabled_vacuum_types
    assert read.retention_period == timedelta(days=3)
