"""Faults on real processes; most of a scenario is waiting, so scenarios run beside one another.

A test marked ``beside`` takes the session's `stage` and its own parameters, no other fixture.
When the first of them is run, all that were selected begin, a few at a time; each test then
waits for its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mlops.settings import Settings
from tests.faults.stage import Stage

AT_ONCE = int(os.environ.get("FAULTS_AT_ONCE", "4"))
_STAGE = pytest.StashKey[Stage]()
_FOLDER = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "beside: runs beside other scenarios of its kind")


@pytest.fixture(scope="session")
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """What all scenarios share."""
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        needed = any("postgres" in item.nodeid for item in request.session.items)
        server = request.getfixturevalue("postgres") if needed else None
        made = Stage(tmp_path_factory.mktemp("faults"), server)
        request.config.stash[_STAGE] = made
        with ThreadPoolExecutor(AT_ONCE) as pool:
            made.outcomes = _begin(request.session.items, made, pool)
            try:
                yield made
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                made.close()


def _begin(
    items: list[pytest.Item], stage: Stage, pool: ThreadPoolExecutor
) -> dict[str, Future[None]]:
    begun = {}
    for item in items:
        if item.get_closest_marker("beside") and isinstance(item, pytest.Function):
            params = item.callspec.params if hasattr(item, "callspec") else {}
            begun[item.nodeid] = pool.submit(partial(item.obj, stage=stage, **params))
    return begun


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
