"""What takes seconds to make is made once, shared by the workers of a parallel run, and copied."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings as hypothesis_settings

from tests.grouping import check_timing, group_of, rank_of
from tests.postgres import Server
from tests.templates import *  # noqa: F403

# No property is about time, and the first example of a process may import for seconds.
hypothesis_settings.register_profile("no deadline", deadline=None)
hypothesis_settings.load_profile("no deadline")

REPEATS = 2
"""So often a test marked ``timing`` may be repeated."""


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = "keep what the HTTP API answers as the examples of its document"
    parser.addoption("--make-examples", action="store_true", help=help_text)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each test its group and its place, and tests marked ``timing`` their repeats."""
    timing = {}
    for item in items:
        path = item.path.relative_to(config.rootpath).as_posix()
        group = group_of(path, _scopes(item))
        if group is not None:
            item.add_marker(pytest.mark.xdist_group(group))
        if item.get_closest_marker("timing"):
            item.add_marker(pytest.mark.flaky(reruns=REPEATS))
            timing[f"{path}::{item.name.partition('[')[0]}"] = None
    try:
        check_timing(list(timing))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    items.sort(key=lambda item: rank_of(item.path.relative_to(config.rootpath).as_posix()))


def _scopes(item: pytest.Item) -> dict[str, str]:
    """The scope of each fixture that a test uses, those of its fixtures included."""
    known = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
    return {name: definitions[-1].scope for name, definitions in known.items()}


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how often each test marked ``timing`` was repeated."""
    repeated = Counter(report.nodeid for report in terminalreporter.stats.get("rerun", ()))
    times = ", ".join(f"{test} {count} of {REPEATS}" for test, count in repeated.items())
    terminalreporter.write_line(f"repeats of tests marked `timing`: {times or 'none'}")


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty MLflow database."""
    from mlops.registry.tracking import connect

    def make(folder: Path) -> None:
        with mlflow_forgets():
            connect(f"file://{folder}", "template")

    return _made_once(tmp_path_factory, "mlflow.db", make)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real Postgres server; where none can be started, the tests that need it fail."""
    from tests.stores import start_postgres

    yield from start_postgres(_shared(tmp_path_factory))


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty store of this worker's own."""
    from tests.stores import make_sqlite_template

    return make_sqlite_template(tmp_path_factory.mktemp("sqlite-template"))


def _made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The database ``name`` that ``make`` leaves in a folder; one worker makes it for all."""
    root = _shared(factory)
    database = root / f"template-{name}"
    with FileLock(f"{database}.lock"):
        if not database.exists():
            folder = root / f"making-{name}"
            make(folder)
            (folder / name).rename(database)
    return database


def _shared(factory: pytest.TempPathFactory) -> Path:
    root = factory.getbasetemp()
    return root.parent if "PYTEST_XDIST_WORKER" in os.environ else root


@pytest.fixture(scope="session")
def prefect_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty Prefect database; where the installation has none, ten seconds make it."""
    from deployments.prefect_server import EMPTY_DATABASE

    if EMPTY_DATABASE.exists():
        return EMPTY_DATABASE

    def make(folder: Path) -> None:
        subprocess.run(
            [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"],
            env={**os.environ, "PREFECT_HOME": str(folder)},
            capture_output=True,
            check=True,
        )

    return _made_once(tmp_path_factory, "prefect.db", make)


@pytest.fixture(scope="session")
def prefect_server(
    prefect_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """One temporary Prefect server for all tests that ask for it: it takes seconds to start."""
    from prefect import settings
    from prefect.testing.utilities import prefect_test_harness

    quiet = {
        settings.PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
        settings.PREFECT_LOGGING_TO_API_ENABLED: False,
        settings.PREFECT_LOGGING_LEVEL: "ERROR",
        # It writes to the same SQLite file, where it waits for locks under load.
        settings.PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED: False,
    }

    def seeded() -> str:
        folder = tmp_path_factory.mktemp("prefect")
        shutil.copy(prefect_template, folder / "prefect-test.db")
        return str(folder)

    with pytest.MonkeyPatch.context() as patch, settings.temporary_settings(quiet):
        patch.setattr("prefect.testing.utilities.mkdtemp", seeded)
        with prefect_test_harness(server_startup_timeout=120):
            yield


@contextmanager
def mlflow_forgets() -> Iterator[None]:
    """Undo what MLflow writes into itself and the environment, where other tests would find it."""
    import mlflow

    with pytest.MonkeyPatch.context() as patch:
        for part in ("URI", "USERNAME", "PASSWORD"):
            patch.setenv(f"MLFLOW_TRACKING_{part}", "")
        yield
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)


@pytest.fixture
def mlruns(tmp_path: Path, mlflow_template: Path) -> Iterator[str]:
    """The tracking URI of an MLflow of this test's own."""
    folder = tmp_path / "mlruns"
    folder.mkdir()
    shutil.copy(mlflow_template, folder / "mlflow.db")
    with mlflow_forgets():
        yield f"file://{folder}"
