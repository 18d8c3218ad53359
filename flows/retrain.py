"""Retrain a service whose queue holds triggers: drift, or lost skill.

An event starts the flow; the reconcile flow emits it again for triggers that stay unanswered. A
second run finds the training lease taken, or no trigger that waits, and ends. Where skill is lost
and the new version is refused, the service goes back to its baseline; where this run dies before
that, the monitor flow does it.
"""

from __future__ import annotations

from datetime import datetime

from prefect import flow

from flows.train import TrainResult, run_training
from mlops.rollout.plan import DeploymentConfig
from mlops.service import Service
from tasks import training as step
from tasks.concurrency import exclusive_training_if_free
from tasks.context import current_installation, run_logs
from tasks.rollout import return_to_baseline


@flow(name="retrain", flow_run_name="retrain-{service}", validate_parameters=True)
def retrain(
    service: str, auto_deploy: bool = True, now: datetime | None = None
) -> TrainResult | None:
    """Make the champion's request again on today's bars.

    None where no trigger waits, or a training of the service runs already.

    Args:
        service: The service's key, such as sample.btc-usd.1h.volatility.24.
        auto_deploy: Roll out what passes its gates, by the default strategy.
        now: Market time, for a rehearsal; by default this moment, and for a market that does not
            keep the time of the day that of its newest look.
    """
    key = Service.parse(service)
    with run_logs(service=service), exclusive_training_if_free(key) as lease:
        retraining = None if lease is None else step.claim(service, lease, now)
        if lease is None or retraining is None:
            return None
        result = run_training(
            key,
            retraining.model_type,
            retraining.config,
            reason=retraining.reason,
            deployment=DeploymentConfig(auto_deploy=auto_deploy),
            lease=lease,
            answers=retraining.claim,
        )
        return_to_baseline(current_installation(), service)
        return result
