"""Clients are told the bars with which every version can answer, from the moment of a request."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest

from mlops.rollout.plan import plan_for
from mlops.rollout.request import request_rollout
from mlops.serving.runtime import Runtime
from mlops.serving.services import list_services
from mlops.store import Store, Why
from tests.mlops.serving.conftest import AT, Library

Settle = Callable[[], None]
SetRoute = Callable[..., None]


def bars_to_send(runtime: Runtime) -> int:
    listed = orjson.loads(list_services(runtime.store_sync, runtime.publisher))
    return int(listed["services"][0]["bars"])


def test_the_larger_need_is_told_from_the_moment_a_rollout_is_asked_for(
    runtime: Runtime, settle: Settle, store: Store, library: Library, set_route: SetRoute
) -> None:
    champion, challenger = library.versions
    set_route(champion=champion)
    settle()
    assert bars_to_send(runtime) == 26
    request_rollout(store, challenger, plan_for("canary"), Why(AT, actor="anna"))
    settle()
    assert challenger not in runtime.pool.ready()
    assert bars_to_send(runtime) == runtime.store_sync.bars_needed(challenger) == 170


def test_a_bundle_that_cannot_be_read_leaves_what_is_known(
    runtime: Runtime, settle: Settle, store: Store, library: Library,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settle()
    known, challenger = bars_to_send(runtime), library.versions[1]
    request_rollout(store, challenger, plan_for("canary"), Why(AT, actor="anna"))
    monkeypatch.setattr("mlops.serving.engine.model_pool.read_manifest", _not_readable)
    settle()
    assert bars_to_send(runtime) == known


def _not_readable(path: object) -> None:
    from mlops.errors import BundleError

    raise BundleError(f"{path} is altered")
