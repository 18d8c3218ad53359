"""Clients are told the bars with which every version can answer, from the moment of a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import orjson
import pandas as pd
import pytest

from mlops.errors import BundleError
from mlops.rollout.plan import plan_for
from mlops.rollout.request import request_rollout
from mlops.serving.runtime import Runtime
from mlops.serving.services import list_services
from mlops.store import Store, Why
from tests.bar_forms import FORMS, Form
from tests.mlops.serving.conftest import AT, KEY, Library

Settle = Callable[[], None]
SetRoute = Callable[..., None]


@pytest.fixture
def exposed(runtime: Runtime, settle: Settle, library: Library, set_route: SetRoute) -> Runtime:
    """A replica whose challenger, with a longer window, has all the requests."""
    champion, challenger = library.versions
    set_route(champion=champion, challenger=challenger, weight_bp=10_000, salt="rollout-1")
    settle()
    return runtime


def reply_to(runtime: Runtime, form: Form) -> httpx.Response:
    async def sent() -> httpx.Response:
        transport = httpx.ASGITransport(app=runtime.app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
            return await client.post(form.path(KEY), content=form.body, headers=form.headers)

    return asyncio.run(sent())


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
    raise BundleError(f"{path} is altered")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_request_reaches_a_challenger_with_a_longer_window(
    exposed: Runtime, library: Library, frame: pd.DataFrame, form: str
) -> None:
    """Whoever sends too few bars for it is answered by the champion."""
    answers = [reply_to(exposed, FORMS[form](frame.iloc[-bars:])) for bars in (300, 30)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert [answer.headers["x-model-version"] for answer in answers] == [*library.versions[::-1]]
    assert exposed.counters.take_traffic()[0].traffic.faults == 0
