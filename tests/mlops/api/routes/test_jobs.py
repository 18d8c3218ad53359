"""Jobs and trainings over HTTP: asked for by name, never by a path of the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops.api.app import build_api
from mlops.api.context import ApiContext
from mlops.errors import SchedulerUnavailable
from mlops.manager import MLOpsManager
from mlops.settings import Settings
from tests.mlops.api.conftest import Client
from tests.mlops.api.jobs_in_memory import JobsInMemory

JOB = {
    "model_type": "lstm",
    "symbol": "BTC/USDT",
    "schedule_type": "daily",
    "schedule_config": {"hour": 2, "minute": 0},
    "training_config": {"data_window_days": 30, "validation_split": 0.2},
    "deployment_config": {"auto_deploy": True, "deployment_strategy": "blue_green"},
}
JOB_ID = "lstm.binance.btc-usdt.1h.volatility.24.daily.0a1b2c"


@pytest.fixture
def jobs() -> JobsInMemory:
    return JobsInMemory()


@pytest.fixture
def client(tmp_path: Path, jobs: JobsInMemory) -> Iterator[Client]:
    settings = Settings(_env_file=None, mlops_base_path=tmp_path)
    opened = Client(build_api(ApiContext(MLOpsManager(settings), open_jobs=lambda: jobs)))
    yield opened
    opened.close()


def test_a_job_is_added_paused_resumed_run_and_removed(client: Client) -> None:
    added = client.post("jobs", json=JOB)
    assert (added.status_code, added.json()["owner"]) == (201, "local")
    assert added.json()["next_run"] == "2025-01-02T02:00:00Z"
    assert client.post(f"jobs/{JOB_ID}/pause").json()["active"] is False
    assert client.post(f"jobs/{JOB_ID}/resume").json()["active"] is True
    ran = client.post(f"jobs/{JOB_ID}/run")
    assert (ran.status_code, ran.json()["flow_run_id"]) == (202, "run-1")
    assert client.get(f"jobs/{JOB_ID}").json()["training_config"] == JOB["training_config"]
    assert client.request("DELETE", f"jobs/{JOB_ID}").status_code == 204
    assert client.get(f"jobs/{JOB_ID}").status_code == 404


def test_jobs_are_listed_by_pages(client: Client) -> None:
    for symbol in ("BTC/USDT", "ETH/USDT", "SOL/USDT"):
        client.post("jobs", json=JOB | {"symbol": symbol})
    first = client.get("jobs?limit=2").json()
    second = client.get(f"jobs?limit=2&cursor={first['next']}").json()
    ids = [job["job_id"] for job in (*first["jobs"], *second["jobs"])]
    assert ids == [JOB_ID.replace("btc", name) for name in ("btc", "eth", "sol")]
    assert second["next"] is None


def test_a_training_is_asked_for_with_everything_that_was_said(
    client: Client, jobs: JobsInMemory
) -> None:
    body = {"symbol": "BTC/USDT", "model_type": "linear", "target": "return", "horizon": 1,
            "training_config": {"features": ["log_return"], "families": ["linear"],
                                "end": "2025-01-01T00:00:00Z"}}  # fmt: skip
    answer = client.post("models/train", json=body)
    assert (answer.status_code, answer.json()["state"]) == (202, "Scheduled")
    (asked,) = jobs.requests
    assert (asked.symbol, asked.target, asked.horizon) == ("BTC/USDT", "return", 1)
    assert asked.training.features == ("log_return",)
    assert asked.training.end is not None


def test_the_actor_of_an_override_is_who_asks(client: Client, jobs: JobsInMemory) -> None:
    override = {"actor": "somebody else", "reason": "it is no leak"}
    body = {"symbol": "A", "model_type": "linear", "training_config": {"leak_override": override}}
    assert client.post("models/train", json=body).status_code == 202
    found = jobs.requests[0].training.leak_override
    assert found is not None
    assert (found.actor, found.reason) == ("local", "it is no leak")


def test_a_file_of_bars_is_one_of_the_uploads(
    client: Client, jobs: JobsInMemory, tmp_path: Path
) -> None:
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "bars.csv").write_text("")
    body = {"symbol": "A", "model_type": "linear", "training_config": {"bars_file": "bars.csv"}}
    assert client.post("models/train", json=body).status_code == 202
    assert jobs.requests[0].training.bars_file == str(tmp_path / "uploads" / "bars.csv")


@pytest.mark.parametrize(
    "name",
    ["other.csv", "../store.db", "/etc/passwd", "a/b.csv", "link.csv", ".hidden", "b\\c.csv"],
)
def test_no_other_file_of_the_server_is_named(
    client: Client, jobs: JobsInMemory, tmp_path: Path, name: str
) -> None:
    (tmp_path / "uploads").mkdir()
    (tmp_path / "secret.csv").write_text("")
    (tmp_path / "uploads" / "link.csv").symlink_to(tmp_path / "secret.csv")
    body = {"symbol": "A", "model_type": "linear", "training_config": {"bars_file": name}}
    answer = client.post("models/train", json=body)
    assert answer.status_code == 422
    assert "bars_file" in answer.text
    assert jobs.requests == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"schedule_type": "yearly"}, "schedule_type"),
        ({"model_type": "forest"}, "model_type"),
        ({"training_config": {"refits": "8"}}, "refits"),
        ({"training_config": {"epochs": 3}}, "epochs"),
        ({"deployment_config": {"auto_deploy": "yes"}}, "auto_deploy"),
        ({"horizon": 0}, "horizon"),
        ({"horizon": 1.5}, "horizon"),
        ({"class_path": "os:system"}, "class_path"),
    ],
)
def test_a_job_that_cannot_be_is_refused_by_its_field(
    client: Client, jobs: JobsInMemory, changes: dict[str, Any], named: str
) -> None:
    answer = client.post("jobs", json=JOB | changes)
    assert answer.status_code == 422
    assert named in answer.json()["detail"]
    assert jobs.requests == []


def test_a_prefect_that_is_away_is_503_and_says_what_to_set(
    client: Client, jobs: JobsInMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(request: object) -> None:
        raise SchedulerUnavailable("PREFECT_API_URL names no server")

    monkeypatch.setattr(jobs, "start_training", fail)
    answer = client.post("models/train", json={"symbol": "A", "model_type": "linear"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "PREFECT_API_URL" in answer.json()["detail"]


def test_a_process_without_jobs_says_how_to_get_them(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, mlops_base_path=tmp_path)
    client = Client(build_api(ApiContext(MLOpsManager(settings))))
    answer = client.get("jobs")
    client.close()
    assert answer.status_code == 503
    assert "PREFECT_API_URL" in answer.json()["detail"]
