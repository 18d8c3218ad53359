"""Take one version live: ask, carry the rollout to its end, conclude.

    prefect deployment run deploy/default -p model_id=... -p deployment_strategy=canary

or in a notebook

    from flows.deploy import deploy
    deploy("lstm_BTC_20241205_120000", "canary")

The rollout is a row of the store. A flow run that dies leaves it to whoever holds the role of
the controller, and `reconcile` looks after it; one that is cancelled has it undone.
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
    """What a rollout has come to: ``champion`` serves now, ``events`` is the path so far."""

    rollout_id: str
    service: str
    model_id: str
    phase: Phase
    champion: str
    reason: str
    events: tuple[RolloutEvent, ...]


def undo(flow: Flow[..., object], flow_run: FlowRun, state: State) -> None:
    """Have what a cancelled flow run was bringing live undone; whoever holds the role does it."""
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
    actor: str = "",
    reason: str = "",
    plan: RolloutSettings | None = None,
) -> DeployResult:
    """Take a version live; a rollout that was undone ends the run as failed, with the reason.

    Args:
        model_id: The version, as `train` and MLflow's tag model_id name it.
        deployment_strategy: How it goes live. Empty: DEFAULT_DEPLOYMENT_STRATEGY.
        wait: Whether to carry it to its end. Else it is asked for, and carried on by whoever
            holds the role of the controller.
        force: Whether to override the gates, on record; with actor and reason.
        actor: Who wants it.
        reason: Why.
        plan: What differs from the strategy's usual plan.
    """
    with run_logs(model_id=model_id):
        installation = current_installation()
        row = step.request(
            installation,
            model_id,
            deployment_strategy,
            force=force,
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
