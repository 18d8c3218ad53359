"""Watch every service: outcomes, drift and lost skill; ring where a retraining is due.

Hourly, all services in one run; looking twice at a bar decides nothing twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from prefect import flow

from mlops.monitoring.monitor import Looked
from mlops.monitoring.performance.outcomes import Matching
from tasks import monitoring as step
from tasks.context import current_installation, run_logs
from tasks.rollout import return_to_baseline


@dataclass(frozen=True, slots=True)
class MonitorResult:
    """What was matched and what was found, a line for each service and version looked at.

    ``returned`` are services that went back to their baseline, in words.
    """

    matched: tuple[Matching, ...]
    looked: tuple[Looked, ...]
    returned: tuple[str, ...] = ()


@flow(name="monitor", validate_parameters=True)
def monitor(now: datetime | None = None) -> MonitorResult:
    """Match outcomes, look at every champion and what else is watched, ring for retrainings.

    A champion whose skill is lost, and whose retraining was refused, gives way to the baseline.
    Where no replica is left to say so, tell people that nothing answers.

    Args:
        now: Market time; empty: this moment, and for the embedded sample its replay.
    """
    with run_logs():
        watch = step.open_monitor_run(now)
        matched = step.match_outcomes(watch)
        looked = step.check_services(watch)
        returned = return_to_baseline(current_installation())
        step.publish_checks(looked)
        step.check_system_health()
        if alarmed := [one for one in looked if one.triggers]:
            step.draw_drift_reports(watch, alarmed)
        return MonitorResult(matched, looked, returned)
