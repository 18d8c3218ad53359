"""Writes `mlops/api/examples.json`: what the API answered to these calls, for its document.

    python -m pytest -p no:cacheprovider tests/mlops/api/test_examples.py --make-examples

`test_examples.py` asks the same calls again and compares the keys of the answers.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import sqlalchemy as sa

from mlops.store.schema import operation
from tests.mlops.api.conftest import World

PREFIX = "/mlops/api"


@dataclass(frozen=True)
class Call:
    """One request.

    Args:
        route: Method and path template, below the prefix.
        path: Values of the template.
        body: JSON, None for none.
    """

    route: str
    path: Mapping[str, str] = field(default_factory=dict)
    query: str = ""
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Method and whole path template, as the document lists them."""
        method, template = self.route.split(" ")
        return f"{method} {PREFIX}{template}"


def record_answers(world: World) -> dict[str, dict[str, Any]]:
    """The answer of each call by route and status; later calls see what earlier ones did."""
    answers: dict[str, dict[str, Any]] = {}
    for call in list_calls(world):
        method, template = call.route.split(" ")
        path = template[1:].format(**call.path) + call.query
        answer = world.client.request(method, path, json=call.body, headers=call.headers)
        if answer.content:
            answers.setdefault(call.key, {})[str(answer.status_code)] = answer.json()
    return answers


def list_calls(world: World) -> Iterator[Call]:
    """The calls, in an order in which each can be answered."""
    yield from list_model_calls(world)
    yield from list_service_calls(world)
    yield from list_monitoring_calls(world)
    yield from list_training_calls()
    yield from list_test_calls(world)
    yield from list_rollout_calls(world)
    yield from list_upload_calls(world)


def list_model_calls(world: World) -> Iterator[Call]:
    """Versions looked up."""
    champion = {"model_id": world.champion}
    yield Call("GET /models", query="?status=deployed&limit=2")
    yield Call("GET /models", query="?status=live")
    yield Call("GET /models/{model_id}", champion)
    yield Call("GET /models/{model_id}", {"model_id": "lstm_BTC_20241205_120000"})
    for answer in ("explain", "trace", "performance"):
        yield Call(f"GET /models/{{model_id}}/{answer}", champion)


def list_service_calls(world: World) -> Iterator[Call]:
    """Services looked up."""
    service = {"service": world.service}
    yield Call("GET /services")
    yield Call("GET /services/{service}", service)
    yield Call("GET /services/{service}/history", service)
    yield Call("GET /services/{service}/forecasts", service, query="?limit=2")
    yield Call("GET /services/{service}/live", service, query="?at=2025-01-02T00:00:00Z")


def list_monitoring_calls(world: World) -> Iterator[Call]:
    """Drift, watches, records, and what pages poll."""
    watched = f"?model_id={world.challenger}"
    yield Call("POST /monitoring/start-continuous", query=f"{watched}&interval_hours=1")
    yield Call("GET /monitoring/continuous")
    yield Call("POST /monitoring/stop-continuous", query=watched)
    rows = [{"feature1": 0.5, "feature2": 1.0}, {"feature1": 0.6, "feature2": 1.1}]
    yield Call("POST /monitoring/drift", body={"model_id": world.champion, "data": rows})
    body = {"model_id": world.champion, "data": read_bars(world, 400)}
    yield Call("POST /monitoring/drift", body=body)
    yield Call("GET /monitoring/dashboard")
    yield Call("GET /monitoring/live")
    for records in ("alerts", "checks", "triggers"):
        yield Call(f"GET /{records}", query="?limit=1")


def read_bars(world: World, number: int) -> list[dict[str, Any]]:
    """So many last bars of the service, as a caller sends them."""
    frame = pd.read_parquet(world.library.bars_file).tail(number)
    opened = [moment.isoformat() for moment in frame.index]
    return frame.assign(timestamp=opened).to_dict(orient="records")


def list_training_calls() -> Iterator[Call]:
    """A training, and a job from its first day to its last."""
    training = {"model_type": "lstm", "symbol": "BTC/USDT"}
    yield Call("POST /models/train", body=training)
    daily = {"schedule_type": "daily", "schedule_config": {"hour": 2, "minute": 0}}
    yield Call("POST /jobs", body=training | daily)
    yield Call("GET /jobs")
    path = {"job_id": "lstm.binance.btc-usdt.1h.volatility.24.daily.0a1b2c"}
    yield Call("GET /jobs/{job_id}", path)
    for change in ("pause", "resume", "run"):
        yield Call(f"POST /jobs/{{job_id}}/{change}", path)
    yield Call("DELETE /jobs/{job_id}", path)
    yield Call("DELETE /jobs/{job_id}", path)


def list_upload_calls(world: World) -> Iterator[Call]:
    """A model from elsewhere: refused, registered, judged."""
    body = {
        "model_type": "linear",
        "symbol": "BTC/USD",
        "venue": "simulator",
        "model_data": "base64_encoded_model",
        "metrics": {"mse": 0.05, "mae": 0.03, "r2_score": 0.92, "accuracy": 0.85},
    }
    yield Call("POST /models/register", body=body)
    body = body | {"model_data": encode_model(world.manager.export_model(world.champion))}
    yield Call("POST /models/register", body=body)
    later = {"prefer": "respond-async", "idempotency-key": "later"}
    yield Call("POST /models/register", body=body, headers=later)
    path = {"operation_id": await_operation(world)}
    yield Call("GET /operations/{operation_id}", path)
    registered = next(model for model in world.manager.list_models() if model.claims_only)
    judged = {"trained_until": read_bars(world, 700)[0]["timestamp"]}
    yield Call("POST /models/{model_id}/judge", {"model_id": registered.model_id}, body=judged)


def await_operation(world: World) -> str:
    """The id of the one operation of a world, once it has ended."""
    query = sa.select(operation.c.id, operation.c.ended_at)
    while True:
        with world.store.read() as connection:
            row = connection.execute(query).one()
        if row.ended_at is not None:
            return str(row.id)


def list_test_calls(world: World) -> Iterator[Call]:
    """An A/B test from its plan to its stop."""
    arms = {"model_a_id": world.champion, "model_b_id": world.challenger}
    yield Call("POST /experiments/ab-test/plan", body=arms | {"duration_hours": 48})
    asked = arms | {"test_name": "weekly", "traffic_split": 0.5, "duration_hours": 48}
    yield Call("POST /experiments/ab-test", body=asked)
    (test,) = world.manager.ab_tests()
    path = {"experiment_id": test.id}
    yield Call("POST /experiments/{experiment_id}/evaluate", path)
    yield Call("POST /experiments/{experiment_id}/extend", path, body={"hours": 24})
    yield Call("POST /experiments/{experiment_id}/stop", path, body={"reason": "a wrong recipe"})
    yield Call("GET /experiments", query="?limit=1")
    yield Call("GET /experiments/{experiment_id}", path)
    yield Call("GET /experiments/{experiment_id}/looks", path)


def list_rollout_calls(world: World) -> Iterator[Call]:
    """A rollout requested and undone, and a service rolled back, retired and restored."""
    world.end_rollouts()
    yield Call("POST /models/deploy", body={"model_id": world.refused})
    yield Call("POST /models/deploy", body={"model_id": world.champion})
    body = {"model_id": world.challenger, "deployment_strategy": "blue_green"}
    yield Call("POST /models/deploy", body=body)
    path = {"rollout_id": world.manager.rollouts()[0].id}
    yield Call("POST /rollouts/{rollout_id}/abort", path, body={"reason": "too soon"})
    yield Call("GET /rollouts", query="?limit=1")
    yield Call("GET /rollouts/{rollout_id}", path)
    world.end_rollouts()
    service = {"service": world.service}
    for change in ("rollback", "retire", "restore"):
        yield Call(f"POST /services/{{service}}/{change}", service, body={"reason": "it drifts"})


def encode_model(content: bytes) -> str:
    """A model as the body of a registration holds it."""
    return base64.b64encode(content).decode()
