"""Faults on real processes; most of a scenario is waiting, so scenarios run beside one another.

A test marked ``beside`` takes the session's `stage` and its own parameters, no other fixture.
When the first of them is run, all that were selected begin, a few at a time; each test then
waits for its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from mlops.settings import Settings
from tests.faults.stage import Stage

AT_ONCE = int(os.environ.get("FAULTS_AT_ONCE", "2"))
"""Scenarios that keep two cores busy."""
WAITING_AT_ONCE = 4
"""Beside them, scenarios that mostly wait."""
_STAGE = pytest.StashKey[Stage]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "beside(waits=False, first=False): runs beside other scenarios; it mostly waits, or others "
        "wait for it",
    )


@pytest.fixture(scope="session")
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """What all scenarios share."""
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        mine = (item for item in request.session.items if item.get_closest_marker("beside"))
        needed = any("postgres" in item.name for item in mine)
        server = request.getfixturevalue("postgres") if needed else None
        made = Stage(tmp_path_factory.mktemp("faults"), server)
        request.config.stash[_STAGE] = made
        with ThreadPoolExecutor(AT_ONCE) as busy, ThreadPoolExecutor(WAITING_AT_ONCE) as waiting:
            made.outcomes = _begin(request.session.items, made, busy, waiting)
            try:
                yield made
            finally:
                for pool in (busy, waiting):
                    pool.shutdown(wait=False, cancel_futures=True)
                made.close()


def _begin(
    items: list[pytest.Item], stage: Stage, busy: Executor, waiting: Executor
) -> dict[str, Future[None]]:
    begun = {}
    for item in sorted(items, key=lambda item: not _options(item).get("first", False)):
        if item.get_closest_marker("beside") and isinstance(item, pytest.Function):
            params = item.callspec.params if hasattr(item, "callspec") else {}
            pool = waiting if _options(item).get("waits", False) else busy
            begun[item.nodeid] = pool.submit(partial(item.obj, stage=stage, **params))
    return begun


def _options(item: pytest.Item) -> Mapping[str, Any]:
    marker = item.get_closest_marker("beside")
    return {} if marker is None else marker.kwargs


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Wait for what was begun, instead of calling it."""
    if pyfuncitem.get_closest_marker("beside") is None:
        return None
    pyfuncitem.funcargs["stage"].outcomes[pyfuncitem.nodeid].result()
    return True


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """What was visited, injected and sent."""
    stage = config.stash.get(_STAGE, None)
    if stage is not None:
        terminalreporter.section("faults")
        for line in stage.summary():
            terminalreporter.write_line(line)
