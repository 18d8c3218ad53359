"""Retrain a service because something in its queue asks for it: drift, or lost skill.

Events start it, and the reconcile flow rings again for what was missed. Whoever comes second
finds the queue empty and ends. Where skill is lost and what was trained is refused, the service
goes back to its baseline; what dies before that is caught up with by the monitor flow.
"""

from __future__ import annotations

from prefect import flow

from flows.train import TrainResult, trained
from mlops.rollout.plan import DeploymentConfig
from mlops.service import Service
from mlops.training.retraining import holding
from tasks import training as step
from tasks.context import current_installation, run_logs
from tasks.rollout import return_to_baseline


@flow(name="retrain", flow_run_name="retrain-{service}", validate_parameters=True)
def retrain(service: str, auto_deploy: bool = True) -> TrainResult | None:
    """Ask again for what the service's champion was asked for; None where nothing waits.

    Args:
        service: The service's key, such as sample.btc-usd.1h.volatility.24.
        auto_deploy: Roll out what passes its gates, by the default strategy.
    """
    with run_logs(service=service):
        asked = step.claim(service)
        if asked is None:
            return None
        installation = current_installation()
        with holding(installation.store, asked.claim):
            result = trained(
                Service.parse(service),
                asked.model_type,
                asked.config,
                reason=asked.reason,
                deployment=DeploymentConfig(auto_deploy=auto_deploy),
                answers=asked.claim,
            )
        return_to_baseline(installation, service)
        return result
