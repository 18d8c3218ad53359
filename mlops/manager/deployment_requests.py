"""A request to take a version live: its rollout, and what is known of its end so far."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlops.deployer import Deployer, is_champion
from mlops.rollout.plan import Strategy
from mlops.store import Rollout, Store, Why, get_rollout, get_route, get_version
from mlops.store.requests import RequestKey
from mlops.store.rollouts import read_rollout_of_request

POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Deployment:
    """What a request to go live has led to.

    Args:
        success: True when the version is live and healthy, False when its rollout ended otherwise,
            None while that is open.
        rollout: None where the version was live already.
        champion: The version that was live when it was requested.
    """

    model_id: str
    service: str
    success: bool | None
    rollout: Rollout | None
    champion: str


def request_deployment(
    deployer: Deployer,
    model_id: str,
    strategy: Strategy | str | None,
    why: Why,
    *,
    force: bool,
    changes: Mapping[str, Any],
    end_test: bool,
    request: RequestKey | None,
) -> Rollout | None:
    """Request a rollout; None for a version that is live already.

    Raises:
        RequestKeyReused, RolloutRefused, VersionNotFound: as `Deployer.request`.
    """
    store = deployer.store
    if request is not None:
        with store.read() as connection:
            known = read_rollout_of_request(connection, request)
        if known is not None:
            return known
    route = get_route(store, get_version(store, model_id).service)
    if route is not None and route.champion == model_id and route.retired_at is None:
        return None
    return deployer.request(
        model_id, strategy, why, force=force, changes=changes, end_test=end_test, request=request
    )


async def wait_for_deployment(
    store: Store, model_id: str, rollout: Rollout | None, *, seconds: float
) -> Deployment:
    """What a request has led to after so many seconds, or at the end of its rollout."""
    until = time.monotonic() + seconds
    while rollout is not None and not rollout.phase.final and time.monotonic() < until:
        await asyncio.sleep(min(POLL_S, seconds))
        rollout = await asyncio.to_thread(get_rollout, store, rollout.id)
    return await asyncio.to_thread(describe_deployment, store, model_id, rollout)


def describe_deployment(store: Store, model_id: str, rollout: Rollout | None) -> Deployment:
    """What a request has led to so far."""
    if rollout is None:
        service = get_version(store, model_id).service
        return Deployment(model_id, service, True, None, model_id)
    success = is_champion(store, rollout) if rollout.phase.final else None
    return Deployment(model_id, rollout.service, success, rollout, rollout.from_version)
