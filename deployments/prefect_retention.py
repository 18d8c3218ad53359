"""How long the Prefect server of `make serve` keeps flow runs."""

from __future__ import annotations

from mlops.settings import Settings

SECONDS_PER_DAY = 86_400


def vacuum_environment(settings: Settings) -> dict[str, str]:
    """The variables by which a Prefect server deletes runs that ended PREFECT_RUN_DAYS ago.

    Prefect by itself deletes events only; a run of `reconcile` is some 100 KB, one every 5 minutes.
    """
    prefix = "PREFECT_SERVER_SERVICES_DB_VACUUM"
    seconds = settings.prefect_run_days * SECONDS_PER_DAY
    return {f"{prefix}_ENABLED": "events,flow_runs", f"{prefix}_RETENTION_PERIOD": f"{seconds}"}
