"""The steps of a rollout: ask, follow it to its end, say what became of it; and carry on others."""

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
from mlops.rollout.runner import unfinished
from mlops.store import ModelVersion, Phase, Rollout, Status, Why
from mlops.store.audit import SYSTEM
from mlops.store.rollouts import ask_abort
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
    """Ask for the rollout; the row is the request."""
    why = Why(datetime.now(UTC), actor or SYSTEM, with_flow_run_id(reason, force=force))
    changes = plan.changes
    return installation.deployer.request(model_id, strategy, why, force=force, changes=changes)


@task(cache_policy=NO_CACHE)
def follow(installation: Installation, asked: Rollout) -> Rollout:
    """Carry it to its end, and show each step in the Prefect UI."""
    return installation.deployer.follow(asked.id, holder=HOLDER, tell=RolloutReporter())


@task(cache_policy=NO_CACHE)
def fail_if_undone(ended: Rollout) -> Rollout:
    """Let a rollout that was undone end its flow run as failed, with the reason."""
    if ended.phase is not Phase.DONE:
        raise RolloutFailed(
            f"{ended.to_version} is not live on {ended.service}, {ended.from_version} goes on "
            f"serving: {ended.reason}. Artifact {rollout_key(ended.service)} shows each step"
        )
    return ended


@task(cache_policy=NO_CACHE)
def carry_open(installation: Installation, seconds: float) -> tuple[str, ...]:
    """Resume or undo what nobody carries on, for so long at most."""
    moved = installation.deployer.carry_open(holder=HOLDER, seconds=seconds)
    return tuple(f"{one.service} {one.what}: {one.reason}" for one in moved)


@task(cache_policy=NO_CACHE)
def return_to_baseline(installation: Installation, service: str | None = None) -> tuple[str, ...]:
    """Take back every service, or this one, whose champion lost its skill for good."""
    moved = fallback.return_to_baseline(installation.store, service)
    for one in moved:
        installation.deployer.show(one.service)
    return tuple(f"{one.service} {one.what}: {one.reason}" for one in moved)


@task(cache_policy=NO_CACHE)
def repair(installation: Installation) -> tuple[str, ...]:
    """Bring MLflow and files in line with the store."""
    return reconcile(installation.registry).changes


@task(cache_policy=NO_CACHE)
def ask_for_rollout(version: ModelVersion, config: DeploymentConfig) -> str:
    """Ask for the rollout of what has just passed; its id, empty where none is wanted."""
    if not config.auto_deploy or version.status is not Status.CHALLENGER:
        return ""
    deployer = current_installation().deployer
    strategy, why = config.deployment_strategy, Why(datetime.now(UTC), "train", "auto_deploy")
    try:
        changes = config.changes
        return deployer.request(version.model_id, strategy, why, force=False, changes=changes).id
    except RolloutError as error:
        # The training is good for all that: the version stays challenger.
        about = {"service": version.service, "model_id": version.model_id}
        get_run_logger().warning("%s is not rolled out: %s", version.model_id, error, extra=about)
        return ""


def abort_rollouts_of_run(installation: Installation, run_id: str, why: str) -> tuple[str, ...]:
    """Ask that what a flow run is bringing live be undone; returns the rollouts."""
    mine = [one.id for one in unfinished(installation.store) if run_id in one.requested_why]
    for rollout_id in mine:
        ask_abort(installation.store, rollout_id, Why(datetime.now(UTC), "prefect", why))
    return tuple(mine)


def with_flow_run_id(reason: str, *, force: bool) -> str:
    """The reason with the flow run it came by; overriding gates takes a person's own reason."""
    run_id = flow_run.id
    if run_id is None or (force and not reason.strip()):
        return reason
    return f"{reason} (flow run {run_id})".strip()
