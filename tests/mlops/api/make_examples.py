"""Writes `mlops/api/examples.json`: what the API answered to these calls, for its document.

    python -m pytest -p no:cacheprovider tests/mlops/api/test_examples.py --make-examples

`test_examples.py` asks the same calls again and compares the keys of the answers.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

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
        answer = world.client.request(method, path, json=call.body)
        answers.setdefault(call.key, {})[str(answer.status_code)] = answer.json()
    return answers


def list_calls(world: World) -> Iterator[Call]:
    """The calls, in an order in which each can be answered."""
    yield from list_look_ups(world)
    yield from list_test_calls(world)
    yield from list_rollout_calls(world)


def list_look_ups(world: World) -> Iterator[Call]:
    """What only reads."""
    yield Call("GET /models/{model_id}", {"model_id": world.champion})
    yield Call("GET /models/{model_id}", {"model_id": "lstm_BTC_20241205_120000"})


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
