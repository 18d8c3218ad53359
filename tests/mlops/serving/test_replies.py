"""The replies of a replica are, byte for byte, those that `replies.txt` has stored.

Each reply is a block: the request in a sentence, then status, content type and headers, then the
body. After a wanted change, ``STORE_REPLIES=1 pytest tests/mlops/serving/test_replies.py`` writes
the file anew; read its diff before you commit it. The versions of this test forecast a number that
depends on every value, time and gap of their window, so that a request read wrongly is noticed.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops.arrays import FloatArray
from mlops.code_version import release
from mlops.errors import ModelFault, NotReady, QueueFull, ServingError, TimedOut
from mlops.models.bundle import Bundle
from mlops.models.windows import Window
from mlops.serving.runtime import Runtime
from mlops.store import Store

from .asgi_client import answer_of
from .conftest import KEY, Library, made_runtime
from .stored_paths import rollout, serving, unready
from .stored_requests import ROWS, Requests, StoredRequest, infer, invoke, tensor

FILE = Path(__file__).with_name("replies.txt")
HEADERS = (
    "content-type", "allow", "retry-after", "x-model-version", "x-variant", "x-route-generation",
    "connection",
)  # fmt: skip
FORECAST = f"/services/{KEY}/forecast"
TROUBLES: dict[str, Exception] = {
    "a full queue": QueueFull(waiting=9, limit=9),
    "time that is up in the queue": TimedOut(waited_s=5.0, timeout_s=5.0),
    "no version that is ready": NotReady(KEY),
    "a version that raises": ModelFault("m-1", "error", "secret"),
    "a version that takes too long": ModelFault("m-1", "timeout", "secret"),
    "a replica that is stopping": ServingError("this process is stopping"),
    "a bug": KeyError("secret"),
}

SetRoute = Callable[..., None]


@dataclass
class Replies:
    """Asks an app, and writes its replies down with names in place of what differs by nature."""

    runtime: Runtime
    names: dict[str, str]
    texts: dict[str, str]

    def ask(self, requests: Requests, state: str = "") -> None:
        asyncio.run(self._ask(requests, f"{state}: " if state else ""))

    async def _ask(self, requests: Requests, prefix: str) -> None:
        for name, request in requests.items():
            assert prefix + name not in self.texts
            self.texts[prefix + name] = await self._describe_reply(request)

    async def _describe_reply(self, request: StoredRequest) -> str:
        specs = self.runtime.app.specs
        with pytest.MonkeyPatch.context() as patch:
            if request.spec:
                spec = replace(specs.for_route(self._route()), **request.spec)
                patch.setattr(specs, "for_route", lambda route: spec)
            status, headers, body = await answer_of(self.runtime.app, self._fill(request))
        shown = [f"{name}={headers[name]}" for name in HEADERS[1:] if name in headers]
        text = body.decode().replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        if request.path == "/metrics" and status == 200 and text:
            text = "{metrics}"
        lines = [" ".join([str(status), headers.get("content-type", "-"), *shown]), text]
        return self._put_names("\n".join(lines))

    def _route(self) -> Any:
        return self.runtime.store_sync.route_view().routes[KEY].route

    def _fill(self, request: StoredRequest) -> StoredRequest:
        values = {name: value for value, name in self.names.items()}

        def filled(text: str) -> str:
            for name, value in values.items():
                text = text.replace(name, value)
            return text

        headers = {name: filled(value) for name, value in request.headers.items()}
        return replace(request, path=filled(request.path), headers=headers)

    def _put_names(self, text: str) -> str:
        for value, name in self.names.items():
            text = text.replace(value, name)
        return text


def forecast_from_everything(_: Bundle, windows: Sequence[Window]) -> list[FloatArray]:
    """A number that depends on every value, time and gap of each window, for each of its bars."""
    values = [
        math.fsum(window.values.ravel())
        + int(window.open_time[0].astype("datetime64[m]").astype(int)) / 64
        + float(np.flatnonzero(window.hole_before).sum()) / 1024
        for window in windows
    ]
    return [np.full(len(window), value) for window, value in zip(windows, values, strict=True)]


def settle(runtime: Runtime) -> None:
    """Have the store read and models loaded until none is missing."""
    runtime.store_sync.sync_once()
    while runtime.store_sync.load_next():
        pass
    runtime.store_sync.sync_once()


@pytest.fixture
def replies(
    library: Library, store: Store, tmp_path: Path, set_route: SetRoute
) -> Mapping[str, str]:
    """The reply to each request, by its sentence."""
    with made_runtime(library, store, tmp_path, max_body_mb=2.0) as runtime:
        names = {
            # The longer name first: it begins with the other.
            library.versions[1]: "{challenger}",
            library.versions[0]: "{champion}",
            library.baseline: "{baseline}",
            KEY: "{service}",
            version("mlflow"): "{mlflow}",
            release(): "{release}",
        }
        told = Replies(runtime, names, {})
        told.ask(unready(), "no route")
        set_route(champion=library.versions[0])
        runtime.store_sync.sync_once()
        since = runtime.store_sync.route_view().routes[KEY].since
        names[json.dumps(since.isoformat())] = '"{since}"'
        told.ask(unready(), "nothing loaded")
        settle(runtime)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Bundle, "forecast_windows", forecast_from_everything)
            told.ask(serving())
            ask_in_trouble(told)
            ask_for_the_newest_forecast(told)
        # A model is loaded only where it reproduces its golden examples.
        set_route(challenger=library.versions[1])
        settle(runtime)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Bundle, "forecast_windows", forecast_from_everything)
            told.ask(rollout())
            runtime.app.draining = True
            told.ask(unready(), "draining")
    return told.texts


def ask_in_trouble(told: Replies) -> None:
    """What each kind of error answers, and what a fault of every version does."""
    requests = {"score": invoke({"instances": ROWS}), "infer": infer(tensor(ROWS))}

    def broken(_: Bundle, windows: Sequence[Window]) -> list[FloatArray]:
        raise ValueError("secret")

    def endless(_: Bundle, windows: Sequence[Window]) -> list[FloatArray]:
        return [np.full(len(window), math.inf) for window in windows]

    for state, forecasts in {"every version raises": broken, "no finite forecast": endless}.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Bundle, "forecast_windows", forecasts)
            told.ask(requests, state)
    for name, error in TROUBLES.items():

        async def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(told.runtime.dispatcher, "answer", fail)
            told.ask(requests, name)


def ask_for_the_newest_forecast(told: Replies) -> None:
    """The forecast of the newest bar, too old and fresh; its numbers are a real model's."""
    runtime, request = told.runtime, {"the newest forecast": StoredRequest("GET", FORECAST)}
    route = runtime.store_sync.route_view().routes[KEY].route
    asyncio.run(runtime.publisher.update(route))
    told.ask(request, "too old")
    published = runtime.publisher.latest(KEY)
    assert published is not None
    body = json.loads(published.body)
    for name in ("forecast", "low", "high"):
        told.names[f'"{name}":{json.dumps(body[name])}'] = f'"{name}":{{{name}}}'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlops.serving.newest_forecast.time.time", lambda: published.fresh_until - 1)
        told.ask(request, "fresh")


def test_every_reply_is_the_stored_one(replies: Mapping[str, str]) -> None:
    if os.environ.get("STORE_REPLIES"):
        blocks = [f"# {name}\n{text}\n" for name, text in replies.items()]
        FILE.write_text("\n".join(blocks), encoding="utf-8")
    # A body may be empty; its line breaks are escaped.
    blocks = FILE.read_text(encoding="utf-8").removesuffix("\n").removeprefix("# ").split("\n\n# ")
    stored = dict(block.split("\n", 1) for block in blocks)
    different = [
        f"{name}\nstored: {stored.get(name)}\ngot:    {replies.get(name)}"
        for name in dict.fromkeys([*stored, *replies])
        if stored.get(name) != replies.get(name)
    ]
    assert not different, "\n\n".join(different)
