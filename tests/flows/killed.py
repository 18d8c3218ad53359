"""A deploy flow in a process of its own, to be killed."""

from __future__ import annotations

from prefect.context import root_settings_context

from flows.deploy import deploy
from mlops.rollout.plan import RolloutSettings


def deploy_slowly(model_id: str, dwell_s: float) -> None:
    """Roll out by a plan whose steps last so many seconds."""
    with root_settings_context():
        deploy(model_id, plan=RolloutSettings(dwell_s=dwell_s, bake_s=0, load_s=60))
