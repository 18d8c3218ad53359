"""Versions taken live and back, and what was live when."""

from __future__ import annotations

import asyncio
import logging
import threading
from datetime import datetime
from typing import Any

from mlops.deployer import is_champion
from mlops.manager.deployment_requests import (
    Deployment,
    request_deployment,
    wait_for_deployment,
)
from mlops.manager.opened import Opened, why_of
from mlops.rollout.plan import Strategy
from mlops.rollout.retirement import restore_service, retire_service
from mlops.store import (
    LivePeriod,
    Rollout,
    RolloutEvent,
    Route,
    get_rollout,
    list_events,
    list_live_periods,
    list_rollouts,
    live_at,
)
from mlops.store.audit import SYSTEM
from mlops.store.pages import Page, Position
from mlops.store.requests import RequestKey
from mlops.store.rollout_pages import list_rollout_page
from mlops.store.rollouts import request_abort

log = logging.getLogger(__name__)

_HOLDER = "manager"


class Rollouts(Opened):
    """Takes versions live and back, and says what was live when."""

    async def deploy_model(
        self,
        model_id: str,
        deployment_strategy: Strategy | str | None = None,
        *,
        wait: bool = True,
        force: bool = False,
        end_test: bool = False,
        actor: str = SYSTEM,
        reason: str = "",
        **plan: Any,
    ) -> bool:
        """Roll a version out; True when it became the champion and stayed healthy.

        This process runs the rollout to its end. Where no replica is live, it runs one without
        HTTP meanwhile, whose trials are recent bars. A rollout that was undone returns False and
        logs why.

        Args:
            deployment_strategy: By default DEFAULT_DEPLOYMENT_STRATEGY.
            wait: False requests the rollout and returns False at once; a replica or the
                reconcile flow runs it.
            force: Override the gates; needs a person as ``actor`` and a ``reason``.
            end_test: Stop the A/B test of the service if one runs; else that refuses the request.
            plan: Fields of `mlops.rollout.plan.RolloutPlan` that differ from the strategy's,
                such as ``dwell_s`` and ``bake_s``.

        Raises:
            RolloutRefused: when the version may not go live, with what to do.
            VersionNotFound: when there is no such version.
        """
        rollout = await asyncio.to_thread(
            self.deployer.request,
            model_id,
            deployment_strategy,
            why_of(actor, reason),
            force=force,
            changes=plan,
            end_test=end_test,
        )
        if not wait:
            return False
        ended = await self.follow_rollout(rollout.id)
        live = is_champion(self.store, ended)
        if not live:
            log.warning(
                "%s is not live, %s %s: %s", model_id, ended.id, ended.phase, ended.reason,
                extra={"service": ended.service, "model_id": model_id},
            )  # fmt: skip
        return live

    async def request_deployment(
        self,
        model_id: str,
        deployment_strategy: Strategy | str | None = None,
        *,
        force: bool = False,
        end_test: bool = False,
        wait_s: float = 0.0,
        request: RequestKey | None = None,
        actor: str = SYSTEM,
        reason: str = "",
        **plan: Any,
    ) -> Deployment:
        """Request that a version go live, and let replicas or the reconcile flow run the rollout.

        A version that is live already needs no rollout. Arguments as in `deploy_model`.

        Args:
            wait_s: Seconds to wait for the rollout's end.
            request: Names this request; its repeat returns the first one's rollout.

        Raises:
            RequestKeyReused: when the key is that of a request for something else.
            RolloutRefused: when the version may not go live, with each gate that refused it.
            VersionNotFound: when there is no such version.
        """
        rollout = await asyncio.to_thread(
            request_deployment,
            self.deployer,
            model_id,
            deployment_strategy,
            why_of(actor, reason),
            force=force,
            changes=plan,
            end_test=end_test,
            request=request,
        )
        return await wait_for_deployment(self.store, model_id, rollout, seconds=wait_s)

    async def follow_rollout(self, rollout_id: str) -> Rollout:
        """Run a rollout to its end; after a cancelled wait another process runs it.

        Raises:
            RolloutNotFound: when there is no such rollout.
        """
        stop = threading.Event()
        follow = self.deployer.follow
        try:
            return await asyncio.to_thread(follow, rollout_id, holder=_HOLDER, stop=stop)
        finally:
            stop.set()

    async def abort_rollout(self, rollout_id: str, *, actor: str, reason: str) -> Rollout:
        """Request that a rollout be undone, and wait until it is.

        Raises:
            RolloutNotFound: when there is no such rollout.
            RolloutError: when it has ended.
        """
        abort = self.deployer.abort
        return await asyncio.to_thread(abort, rollout_id, why_of(actor, reason), holder=_HOLDER)

    async def rollback_model(self, service_or_model_id: str, *, actor: str, reason: str) -> Route:
        """Make the previous champion live again at once, after a check that it loads and forecasts.

        Raises:
            RolloutError: when there is nothing to go back to, or a rollout is under way.
            BundleError: when the previous champion does not load.
        """
        roll_back = self.deployer.roll_back
        return await asyncio.to_thread(roll_back, service_or_model_id, why_of(actor, reason))

    async def retire_service(self, service: str, *, actor: str, reason: str) -> Route:
        """End a service: replicas stop serving it, and nothing monitors or retrains it any more.

        Raises:
            ServiceNotFound: when there is no such service.
            RolloutError: when it is retired, or a rollout is open.
        """
        why = why_of(actor, reason)
        return await asyncio.to_thread(retire_service, self.store, service, why)

    async def restore_service(self, service: str, *, actor: str, reason: str) -> Route:
        """Bring a retired service back, with the champion that it had.

        Raises:
            ServiceNotFound: when there is no such service.
            RolloutError: when it is not retired.
        """
        why = why_of(actor, reason)
        return await asyncio.to_thread(restore_service, self.store, service, why)

    def get_rollout(self, rollout_id: str) -> Rollout:
        """One rollout.

        Raises:
            RolloutNotFound: when there is no such rollout.
        """
        return get_rollout(self.store, rollout_id)

    def rollout_events(self, rollout_id: str) -> tuple[RolloutEvent, ...]:
        """What a rollout went through, oldest first, each arrow with its evidence.

        Raises:
            RolloutNotFound: when there is no such rollout.
        """
        get_rollout(self.store, rollout_id)
        return list_events(self.store, rollout_id)

    def request_abort(self, rollout_id: str, *, actor: str, reason: str) -> Rollout:
        """Request that a rollout be undone; replicas or the reconcile flow undo it.

        Raises:
            RolloutNotFound: when there is no such rollout.
            RolloutError: when it has ended.
        """
        request_abort(self.store, rollout_id, why_of(actor, reason))
        return get_rollout(self.store, rollout_id)

    def rollouts(self, service: str | None = None) -> tuple[Rollout, ...]:
        """Every rollout, of one service or of all, newest first."""
        return list_rollouts(self.store, service=service)

    def rollout_page(
        self, service: str | None = None, *, after: Position | None = None, limit: int
    ) -> Page[Rollout]:
        """A page of the rollouts of one service or of all, newest first."""
        return list_rollout_page(self.store, service=service, after=after, limit=limit)

    def who_was_live(self, service: str, at: datetime) -> LivePeriod | None:
        """The version live at a moment, with actor and reason; None before the service began."""
        return live_at(self.store, service, at)

    def live_history(self, service: str) -> tuple[LivePeriod, ...]:
        """Every change of what was live, oldest first."""
        return list_live_periods(self.store, service)
