"""Takes a version live and back: asks, carries the rollout to its end, shows it in MLflow.

Only what is shown needs MLflow: a rollout ends, and a rollback works, while it is down.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from mlops.errors import RegistryError, RolloutError, VersionNotFound
from mlops.models.bundle import Trust
from mlops.registry import Registry, bundle_cache, check_reachable, is_local, load, load_version
from mlops.registry.mirror import mirror
from mlops.rollout.fallback import Move
from mlops.rollout.plan import Strategy, plan_from
from mlops.rollout.request import request_rollout, roll_back
from mlops.rollout.runner import RolloutProgress, RolloutRunner, list_unfinished, no_op
from mlops.settings import Settings
from mlops.store import (
    ModelVersion,
    Phase,
    ReplicaState,
    Rollout,
    Route,
    Store,
    Why,
    get_route,
    get_version,
    list_replicas,
    request_abort,
)

log = logging.getLogger(__name__)


def quietly(seen: RolloutProgress) -> None:
    """Tell nobody how a rollout stands."""


@dataclass(frozen=True)
class Deployer:
    """What a rollout needs; ``open_registry`` connects to MLflow where it must."""

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
    ) -> Rollout:
        """Ask that a version go live by the configured plan; ``changes`` replace its fields.

        Raises:
            RolloutError: for a plan that cannot be.
            RolloutRefused: when the version may not go live, or another rollout is under way.
            VersionNotFound: when there is no such version.
        """
        plan = plan_from(self.config, strategy, changes)
        return request_rollout(self.store, model_id, plan, why, force=force)

    def follow(
        self,
        rollout_id: str,
        *,
        holder: str,
        tell: Callable[[RolloutProgress], object] = quietly,
        stop: threading.Event | None = None,
    ) -> Rollout:
        """Carry a rollout to its end, or until ``stop``, and show in MLflow what became of it.

        Where no replica is live, one without HTTP comes along for as long as it takes; its
        trials are replayed bars.
        """
        with self._some_replica() as bring:
            stopping = stop or threading.Event()
            runner = RolloutRunner(self.store, holder, stop=stopping, before=bring)
            row = runner.follow(rollout_id, tell)
        if row.phase.final:
            self.show(row.service)
        return row

    def carry_open(self, *, holder: str, seconds: float) -> tuple[Move, ...]:
        """Carry on every open rollout that nobody else does, for so long at most."""
        with self._some_replica() as bring:
            runner = RolloutRunner(
                self.store, holder, before=bring if list_unfinished(self.store) else no_op
            )
            return runner.run_open_rollouts(seconds=seconds)

    def abort(self, rollout_id: str, why: Why, *, holder: str) -> Rollout:
        """Have a rollout undone, and wait for it.

        Raises:
            RolloutError: when there is no such rollout, or it has ended.
        """
        request_abort(self.store, rollout_id, why)
        return self.follow(rollout_id, holder=holder)

    def roll_back(self, service_or_model_id: str, why: Why) -> Route:
        """Put the previous champion back, once it has loaded and reproduced its golden examples.

        Raises:
            RolloutError: when there is nothing to go back to, a rollout is under way, or the
                version named is not the champion.
            BundleError: when the previous champion does not load or forecasts something else.
        """
        service = self._service_of(service_or_model_id)
        route = roll_back(self.store, service, why, prove=self._prove)
        self.show(service)
        return route

    def show(self, service: str) -> None:
        """Put MLflow's aliases where the store says; while MLflow is down that waits."""
        try:
            check_reachable(self.config.tracking_uri)
            mirror(self.store, self.open_registry().tracking, service)
        except RegistryError as error:
            log.warning("service=%s %s", service, error, extra={"service": service})

    def _prove(self, version: ModelVersion) -> None:
        cache = bundle_cache(self.config.mlops_base_path.resolve())
        bundle = (
            load_version(version, self.trust, cache)
            if is_local(version.bundle_uri)
            else load(self.open_registry(), version.model_id)
        )
        bundle.check_examples()

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
    def _some_replica(self) -> Iterator[Callable[[], None]]:
        """Gives what brings a replica along, once, where none is live."""
        with ExitStack() as stack:
            brought = False

            def bring() -> None:
                nonlocal brought
                if not brought and not _anyone(self.store):
                    stack.enter_context(self._headless())
                    brought = True

            yield bring

    @contextmanager
    def _headless(self) -> Iterator[None]:
        # Imported here: a replica brings torch.
        from mlops.serving.runtime import headless_replica

        log.info("no replica is live; one without HTTP comes along for this rollout")
        with headless_replica(
            self.store,
            home=self.config.mlops_base_path.resolve(),
            trust=self.trust,
            bars_root=self.config.bars_path,
        ):
            yield


def is_champion(row: Rollout) -> bool:
    """Whether a rollout ended with its version as champion."""
    return row.phase is Phase.DONE and row.strategy != Strategy.SHADOW


def _anyone(store: Store) -> bool:
    return any(one.state is not ReplicaState.DRAINING for one in list_replicas(store))
