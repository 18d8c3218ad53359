"""Roll out one version: request the rollout, run it to its end, fail if it was undone.

    prefect deployment run deploy/default -p model_id=... -p deployment_strategy=canary

or in a notebook

    from flows.deploy import deploy
    deploy("lstm_BTC_20241205_120000", "canary")

The rollout is a row of the store. When the flow run dies, a replica or the reconcile flow goes on
with it; when the flow run is cancelled, the rollout is undone.
"""

from __future__ import annotations

from dataclasses import dataclass

from prefect import Flow, State, flow
from prefect.client.schemas.objects import FlowRun

from mlops.rollout.plan import RolloutSettings, Strategy
from mlops.store import Phase, Rollout, RolloutEvent, Store, get_route, list_events
from tasks import rollout as step
from tasks.context import current_installation, run_logs


@dataclass(frozen=True, slots=True)
class DeployResult:
    """How a rollout stands.

    Args:
        model_id: The version that was to go live.
        champion: The version that serves now.
        events: The transitions so far, oldest first.
    """

    rollout_id: str
    service: str
    model_id: str
    phase: Phase
    champion: str
    reason: str
    events: tuple[RolloutEvent, ...]


def undo(flow: Flow[..., object], flow_run: FlowRun, state: State) -> None:
    """Request that the rollout of a cancelled flow run be undone; the controller does it."""
    reason = f"flow run {flow_run.name} was cancelled"
    step.abort_rollouts_of_run(current_installation(), str(flow_run.id), reason)


@flow(
    name="deploy",
    flow_run_name="deploy-{model_id}",
    validate_parameters=True,
    on_cancellation=[undo],
)
def deploy(
    model_id: str,
    deployment_strategy: Strategy | None = None,
    *,
    wait: bool = True,
    force: bool = False,
    end_test: bool = False,
    actor: str = "",
    reason: str = "",
    plan: RolloutSettings | None = None,
) -> DeployResult:
    """Take a version live; a rollout that was undone ends the run as failed, with the reason.

    Args:
        model_id: The version, as `train` and MLflow's tag model_id name it.
        deployment_strategy: How it goes live. Empty: DEFAULT_DEPLOYMENT_STRATEGY.
        wait: Whether to run it to its end. Else it is requested, and a replica or the reconcile
            flow runs it.
        force: Whether to override the gates, on record; with actor and reason.
        end_test: Whether to stop the service's A/B test if one runs.
        actor: Who wants it.
        reason: Why.
        plan: Values that differ from the strategy's usual plan.
    """
    with run_logs(model_id=model_id):
        installation = current_installation()
        row = step.request(
            installation,
            model_id,
            deployment_strategy,
            force=force,
            end_test=end_test,
            actor=actor,
            reason=reason,
            plan=plan or RolloutSettings(),
        )
        if wait:
            row = step.fail_if_undone(step.follow(installation, row))
        return _result(installation.store, row)


def _result(store: Store, row: Rollout) -> DeployResult:
    route = get_route(store, row.service)
    return DeployResult(
        rollout_id=row.id,
        service=row.service,
        model_id=row.to_version,
        phase=row.phase,
        champion=row.from_version if route is None else route.champion,
        reason=row.reason,
        events=list_events(store, row.id),
    )
