"""A path takes the methods of its routes, and tells them."""

from __future__ import annotations

import pytest

from mlops.api.methods import Methods
from tests.mlops.api.conftest import Client

METHODS = Methods(
    [
        ("GET", "/jobs"),
        ("POST", "/jobs"),
        ("GET", "/jobs/{job_id}"),
        ("DELETE", "/jobs/{job_id}"),
        ("POST", "/jobs/plan"),
    ]
)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/jobs", "GET, HEAD, POST"),
        ("/jobs/j1", "DELETE, GET, HEAD"),
        ("/jobs/plan", "POST"),
        ("/none", ""),
    ],
)
def test_all_methods_of_a_path_are_told(path: str, allowed: str) -> None:
    assert METHODS.list_allowed(path) == allowed


def test_a_path_that_has_the_form_of_another_keeps_its_methods() -> None:
    assert METHODS.is_refused("GET", "/jobs/plan")
    assert not METHODS.is_refused("POST", "/jobs/plan")
    assert not METHODS.is_refused("GET", "/jobs/j1")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "models/deploy", "POST"),
        ("DELETE", "models/deploy", "POST"),
        ("HEAD", "experiments/ab-test", "POST"),
        ("POST", "rollouts/rollout-1", "GET, HEAD"),
        ("TRACE", "rollouts", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_refused(client: Client, method: str, path: str, allowed: str) -> None:
    answer = client.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed
    assert answer.headers["content-type"] == "application/problem+json"
