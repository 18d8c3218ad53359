"""Takes a version live and back: requests a rollout, runs it to its end, updates MLflow's aliases.

Only the aliases need MLflow: a rollout ends, and a rollback works, while MLflow is down.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from mlops.errors import RegistryError, RolloutError, VersionNotFound
from mlops.models.bundle import Trust
from mlops.registry import BundleFolders, Registry, bundle_folders, check_reachable, load_version
from mlops.registry.mirror import mirror
from mlops.rollout.fallback import Move
from mlops.rollout.plan import Strategy, plan_from
from mlops.rollout.request import request_rollout, roll_back
from mlops.rollout.runner import RolloutProgress, RolloutRunner, list_unfinished, no_op
from mlops.settings import Settings
from mlops.store import (
    ModelVersion,
    Phase,
    Rollout,
    Route,
    Store,
    Why,
    get_route,
    get_version,
    list_replicas,
)
from mlops.store.replicas import ReplicaState
from mlops.store.requests import RequestKey
from mlops.store.rollouts import request_abort, was_promoted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Deployer:
    """Rollouts and rollbacks on one store.

    Args:
        open_registry: Called only where MLflow is needed.
    """

    config: Settings
    store: Store
    trust: Trust
    open_registry: Callable[[], Registry]

    def request(
        self,
        model_id: str,
        strategy: Strategy | str | None,
        why: Why,
        *,
        force: bool,
        changes: Mapping[str, Any],
        end_test: bool = False,
        request: RequestKey | None = None,
    ) -> Rollout:
        """Request that a version go live.

        Args:
            strategy: By default the configured one.
            force: Override the gates; ``why`` must then name a person and a reason.
            changes: Fields of `mlops.rollout.plan.RolloutPlan` that replace the configured ones.
            end_test: Stop the service's A/B test if one runs; else that refuses the request.
            request: Names this request; the repeat of one that made a rollout returns that.

        Raises:
            RequestKeyReused: when the key is that of another request.
            RolloutError: for a plan that cannot be.
            RolloutRefused: when the version may not go live, or another rollout is under way.
            VersionNotFound: when there is no such version.
        """
        plan = plan_from(self.config, strategy, changes)
        return request_rollout(
            self.store, model_id, plan, why, force=force, end_test=end_test, request=request
        )

    def follow(
        self,
        rollout_id: str,
        *,
        holder: str,
        tell: Callable[[RolloutProgress], object] = lambda progress: None,
        stop: threading.Event | None = None,
    ) -> Rollout:
        """Run a rollout to its end, or until ``stop``, and then update MLflow's aliases.

        Where no replica is live, this process runs one without HTTP meanwhile; its trials are
        replayed bars.

        Args:
            holder: Names this process in the controller's lease.
            tell: Called with the progress at each tick.
        """
        with self._replica_on_demand() as start_replica:
            stopping = stop or threading.Event()
            runner = RolloutRunner(self.store, holder, stop=stopping, before=start_replica)
            row = runner.follow(rollout_id, tell)
        if row.phase.final:
            self.mirror_to_mlflow(row.service)
        return row

    def run_open_rollouts(self, *, holder: str, seconds: float) -> tuple[Move, ...]:
        """Run every open rollout that no other process runs, for ``seconds`` at most."""
        with self._replica_on_demand() as start_replica:
            runner = RolloutRunner(
                self.store, holder, before=start_replica if list_unfinished(self.store) else no_op
            )
            return runner.run_open_rollouts(seconds=seconds)

    def abort(self, rollout_id: str, why: Why, *, holder: str) -> Rollout:
        """Request that a rollout be undone, and wait until it is.

        Raises:
            RolloutError: when there is no such rollout, or it has ended.
        """
        request_abort(self.store, rollout_id, why)
        return self.follow(rollout_id, holder=holder)

    def roll_back(self, service_or_model_id: str, why: Why) -> Route:
        """Make the previous champion live again, once it reproduces its golden examples.

        Raises:
            RolloutError: when there is nothing to go back to, a rollout is under way, or the
                version named is not the champion.
            BundleError: when the previous champion does not load or forecasts something else.
        """
        service = self._service_of(service_or_model_id)
        route = roll_back(self.store, service, why, prove=self._check_examples)
        self.mirror_to_mlflow(service)
        return route

    def mirror_to_mlflow(self, service: str) -> None:
        """Set MLflow's aliases as the store says; while MLflow is down, only log a warning."""
        try:
            check_reachable(self.config.tracking_uri)
            mirror(self.store, self.open_registry().tracking, service)
        except RegistryError as error:
            log.warning("service=%s %s", service, error, extra={"service": service})

    def _check_examples(self, version: ModelVersion) -> None:
        load_version(version, self.trust, self._bundles).check_examples()

    @property
    def _bundles(self) -> BundleFolders:
        return bundle_folders(self.config.mlops_base_path, self.config.tracking_uri)

    def _service_of(self, service_or_model_id: str) -> str:
        try:
            version = get_version(self.store, service_or_model_id)
        except VersionNotFound:
            return service_or_model_id
        route = get_route(self.store, version.service)
        if route is not None and route.champion != version.model_id:
            raise RolloutError(
                f"{version.model_id} is not live on {version.service}, {route.champion} is; "
                "name that one, or the service"
            )
        return version.service

    @contextmanager
    def _replica_on_demand(self) -> Iterator[Callable[[], None]]:
        """A function that starts a replica in this process, once, where none is live."""
        with ExitStack() as stack:
            started = False

            def start() -> None:
                nonlocal started
                if not started and not self._is_replica_live():
                    log.info("no replica is live; one without HTTP comes along for this rollout")
                    stack.enter_context(self._headless_replica())
                    started = True

            yield start

    def _is_replica_live(self) -> bool:
        replicas = list_replicas(self.store)
        return any(replica.state is not ReplicaState.DRAINING for replica in replicas)

    def _headless_replica(self) -> AbstractContextManager[object]:
        # Imported late, because a replica imports torch.
        from mlops.serving.runtime import headless_replica

        return headless_replica(
            self.store,
            home=self.config.mlops_base_path.resolve(),
            trust=self.trust,
            bundles=self._bundles,
            bars_root=self.config.bars_path,
        )


def is_champion(store: Store, row: Rollout) -> bool:
    """Whether a rollout ended with its version as champion.

    A shadow, and an A/B test that kept the champion, are done without that.
    """
    return row.phase is Phase.DONE and was_promoted(store, row.id)
