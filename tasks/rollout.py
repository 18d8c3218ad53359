"""The steps of a rollout: request it, run it to its end, and resume rollouts left open."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from mlops.errors import RolloutFailed
from mlops.installation import Installation
from mlops.registry.reconcile import reconcile
from mlops.rollout import fallback
from mlops.rollout.plan import (
    DeploymentConfig,
    RolloutPlan,
    RolloutSettings,
    Strategy,
    plan_from,
    plan_from_test,
)
from mlops.rollout.runner import list_unfinished
from mlops.settings import current_settings
from mlops.store import ModelVersion, Phase, Rollout, Why
from mlops.store.audit import SYSTEM
from mlops.store.rollouts import newest_rollout_of, request_abort
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
    end_test: bool,
    actor: str,
    reason: str,
    plan: RolloutSettings,
) -> Rollout:
    """Request the rollout; its row in the store is the request."""
    why = Why(datetime.now(UTC), actor or SYSTEM, with_flow_run_id(reason, force=force))
    return installation.deployer.request(
        model_id, strategy, why, force=force, changes=plan.changes, end_test=end_test
    )


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
def plan_rollout(config: DeploymentConfig) -> RolloutPlan | None:
    """The plan by which what passes its gates goes live; None where that is not wanted.

    Raises:
        RolloutError: for a plan that cannot be; better before a training than after it.
    """
    if not config.auto_deploy:
        return None
    if config.ab_test is not None:
        return plan_from_test(current_settings(), config.ab_test)
    return plan_from(current_settings(), config.deployment_strategy, config.changes)


@task(cache_policy=NO_CACHE)
def find_rollout(version: ModelVersion) -> str:
    """The id of the rollout that the commit of a new version wrote; empty where it wrote none."""
    row = newest_rollout_of(current_installation().store, version.model_id)
    return "" if row is None else row.id


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
