"""What the library logs in a flow run is shown with that run, and written as the settings say."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.logging.handlers import APILogHandler
from prefect.runtime import flow_run
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from mlops.logs import LIBRARY
from tasks.context import OWN_PROCESS, run_logs

log = logging.getLogger("mlops.somewhere")


@task
def fit() -> None:
    log.warning("fitted")


@flow
def training() -> str:
    with run_logs(service="s"):
        fit()
        beside = threading.Thread(target=log.warning, args=("beside the run",))
        beside.start()
        beside.join()
        return str(flow_run.id)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Loggers are the process's."""
    root, library = logging.getLogger(), logging.getLogger(LIBRARY)
    kept = [(one, list(one.handlers), one.level) for one in (root, library)]
    yield
    for one, handlers, level in kept:
        one.handlers[:] = handlers
        one.setLevel(level)
    logging.captureWarnings(False)


def test_prefect_shows_what_the_library_logs_in_a_run() -> None:
    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: True}):
        run_id = training()
        training()
        APILogHandler().flush()
    with get_client(sync_client=True) as client:
        of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
        lines = [line.message for line in client.read_logs(of_run) if line.name == log.name]
    assert lines == ["fitted"]


def test_a_run_of_a_worker_is_written_as_the_settings_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(OWN_PROCESS, "a worker says which")
    monkeypatch.setenv("LOG_FORMAT", "json")
    run_id = training()
    lines = [json.loads(one) for one in capsys.readouterr().err.splitlines() if one[:1] == "{"]
    [fitted] = [one for one in lines if one["message"] == "fitted"]
    assert (fitted["service"], fitted["flow_run_id"]) == ("s", run_id)
    # Prefect's own lines name the run by themselves.
    of_task, of_flow = (
        next(one for one in lines if one["logger"] == f"prefect.{kind}_runs")
        for kind in ("task", "flow")
    )
    assert of_task["task_run_name"].startswith("fit-")
    assert of_task["flow_run_id"] == of_flow["flow_run_id"] == run_id
