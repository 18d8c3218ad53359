"""The steps of a rollout: request it, run it to its end, and resume rollouts left open."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from mlops.errors import RolloutError, RolloutFailed
from mlops.installation import Installation
from mlops.registry.reconcile import reconcile
from mlops.rollout import fallback
from mlops.rollout.plan import DeploymentConfig, RolloutSettings, Strategy
from mlops.rollout.runner import list_unfinished
from mlops.store import ModelVersion, Phase, Rollout, Status, Why
from mlops.store.audit import SYSTEM
from mlops.store.rollouts import request_abort
from tasks.artifacts import RolloutReporter, rollout_key
from tasks.context import current_installation

HOLDER = "flow"


@task(cache_policy=NO_CACHE)
def request(
    installation: Installation,
    model_id: str,
    strategy: Strategy | None,
    *,
    force: bool,
    actor: str,
    reason: str,
    plan: RolloutSettings,
) -> Rollout:
    """Request the rollout; its row in the store is the request."""
    why = Why(datetime.now(UTC), actor or SYSTEM, with_flow_run_id(reason, force=force))
    changes = plan.changes
    return installation.deployer.request(model_id, strategy, why, force=force, changes=changes)


@task(cache_policy=NO_CACHE)
def follow(installation: Installation, rollout: Rollout) -> Rollout:
    """Run it to its end, and show each transition in the Prefect UI."""
    return installation.deployer.follow(rollout.id, holder=HOLDER, tell=RolloutReporter())


@task(cache_policy=NO_CACHE)
def fail_if_undone(ended: Rollout) -> Rollout:
    """Return the rollout that is done.

    Raises:
        RolloutFailed: for one that was undone, with the reason; its flow run ends as failed.
    """
    if ended.phase is not Phase.DONE:
        raise RolloutFailed(
            f"{ended.to_version} is not live on {ended.service}, {ended.from_version} goes on "
            f"serving: {ended.reason}. Artifact {rollout_key(ended.service)} shows each step"
        )
    return ended


@task(cache_policy=NO_CACHE)
def run_open_rollouts(installation: Installation, seconds: float) -> tuple[str, ...]:
    """Run rollouts that no other process runs, for ``seconds`` at most; one line a transition."""
    moves = installation.deployer.run_open_rollouts(holder=HOLDER, seconds=seconds)
    return tuple(f"{move.service} {move.what}: {move.reason}" for move in moves)


@task(cache_policy=NO_CACHE)
def return_to_baseline(installation: Installation, service: str | None = None) -> tuple[str, ...]:
    """Return services whose champion lost its skill to their baseline: this one, or all."""
    moves = fallback.return_to_baseline(installation.store, service)
    for move in moves:
        installation.deployer.mirror_to_mlflow(move.service)
    return tuple(f"{move.service} {move.what}: {move.reason}" for move in moves)


@task(cache_policy=NO_CACHE)
def repair(installation: Installation) -> tuple[str, ...]:
    """Bring MLflow and files in line with the store; one line for each repair."""
    return reconcile(installation.registry).changes


@task(cache_policy=NO_CACHE)
def ask_for_rollout(version: ModelVersion, config: DeploymentConfig) -> str:
    """Request the rollout of a new challenger; its id, empty where none is wanted or allowed."""
    if not config.auto_deploy or version.status is not Status.CHALLENGER:
        return ""
    deployer = current_installation().deployer
    strategy, why = config.deployment_strategy, Why(datetime.now(UTC), "train", "auto_deploy")
    try:
        changes = config.changes
        return deployer.request(version.model_id, strategy, why, force=False, changes=changes).id
    except RolloutError as error:
        # The training succeeded all the same: the version stays challenger.
        fields = {"service": version.service, "model_id": version.model_id}
        get_run_logger().warning("%s is not rolled out: %s", version.model_id, error, extra=fields)
        return ""


def abort_rollouts_of_run(installation: Installation, run_id: str, why: str) -> tuple[str, ...]:
    """Request that the open rollouts of one flow run be undone; returns their ids."""
    ids = [row.id for row in list_unfinished(installation.store) if run_id in row.requested_why]
    for rollout_id in ids:
        request_abort(installation.store, rollout_id, Why(datetime.now(UTC), "prefect", why))
    return tuple(ids)


def with_flow_run_id(reason: str, *, force: bool) -> str:
    """The reason with the id of the flow run, by which `abort_rollouts_of_run` finds the rollout.

    An empty reason stays empty where gates are overridden: that takes a person's own reason.
    """
    run_id = flow_run.id
    if run_id is None or (force and not reason.strip()):
        return reason
    return f"{reason} (flow run {run_id})".strip()
