"""Monitor every service: outcomes, drift, lost skill, A/B tests, and retrainings that are due.

It runs hourly for all services. A second look at the same bar changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from prefect import flow

from mlops.ab_testing.lifecycle import Looked
from mlops.monitoring.monitor import Look
from mlops.monitoring.performance.outcomes import Matching
from tasks import ab_tests
from tasks import monitoring as step
from tasks.context import current_installation, run_logs
from tasks.rollout import return_to_baseline


@dataclass(frozen=True, slots=True)
class MonitorResult:
    """What one run matched and found.

    Args:
        matched: One entry for each service.
        looked: One entry for each version looked at.
        returned: One line for each service that went back to its baseline.
        tests: One entry for each running A/B test.
    """

    matched: tuple[Matching, ...]
    looks: tuple[Look, ...]
    returned: tuple[str, ...] = ()
    tests: tuple[Looked, ...] = ()


@flow(name="monitor", validate_parameters=True)
def monitor(now: datetime | None = None) -> MonitorResult:
    """Match outcomes, look at every champion, watched version and A/B test, ask for retrainings.

    A champion whose skill is lost, and whose retraining was refused, is replaced by the baseline.
    Where no replica is live, the health of the system is checked here.

    Args:
        now: Market time; by default this moment, and for the embedded sample its replay.
    """
    with run_logs():
        run = step.open_monitor_run(now)
        matched = step.match_outcomes(run)
        looked = step.check_services(run)
        installation = current_installation()
        returned = return_to_baseline(installation)
        tests = ab_tests.look_at_tests(installation, times=run.times)
        ab_tests.begin_waiting_tests(installation)
        step.publish_checks(looked)
        ab_tests.publish_tests(installation, tests)
        step.check_system_health()
        if alarms := [look for look in looked if look.triggers]:
            step.draw_drift_reports(run, alarms)
        return MonitorResult(matched, looked, returned, tests)
