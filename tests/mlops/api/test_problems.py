"""Every error of the library is a problem with a page, and none repeats what was sent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlops import errors
from mlops.api.problems import KINDS, STATUSES, find_slug
from mlops.errors import MlopsError
from tests.mlops.api.conftest import Client


def list_errors(parent: type[MlopsError] = MlopsError) -> Iterator[type[MlopsError]]:
    for child in parent.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from list_errors(child)


@pytest.mark.parametrize("error", sorted(set(list_errors()), key=lambda error: error.__name__))
def test_every_error_of_the_library_is_a_problem(error: type[MlopsError]) -> None:
    assert any(parent in STATUSES for parent in error.__mro__)
    assert find_slug(error.__new__(error)) in KINDS


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.VersionNotFound, 404),
        (errors.JobNotFound, 404),
        (errors.RolloutNotFound, 404),
        (errors.RolloutRefused, 409),
        (errors.RolloutFailed, 409),
        (errors.AbTestRefused, 409),
        (errors.AbTestMalformed, 422),
        (errors.SettingsError, 422),
        (errors.BarsError, 422),
        (errors.KeyMismatch, 503),
        (errors.BundleError, 422),
        (errors.LeaseLost, 503),
        (errors.QueueFull, 503),
        (errors.RequestKeyReused, 422),
    ],
)
def test_an_error_has_its_status(error: type[MlopsError], status: int) -> None:
    assert KINDS[find_slug(error.__new__(error))].status == status


@pytest.mark.parametrize("slug", KINDS)
def test_every_kind_has_a_page_that_says_what_to_do(client: Client, slug: str) -> None:
    page = client.get(f"/mlops/problems/{slug}")
    assert page.status_code == 200
    assert KINDS[slug].title in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_an_unknown_kind_and_an_unknown_path_are_not_found(client: Client) -> None:
    for path in ("/mlops/problems/none", "/mlops", "/mlops/", "/mlops/api/none", "/mlops/api/"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.json()["type"] == "/mlops/problems/not-found"


def test_a_wrong_value_is_named_and_not_repeated(client: Client) -> None:
    body = {"model_id": "a/secret", "deployment_strategy": "green", "more": 1}
    answer = client.post("models/deploy", json=body)
    assert answer.status_code == 422
    problem = answer.json()
    assert {entry["pointer"] for entry in problem["errors"]} == {
        "/model_id",
        "/deployment_strategy",
        "/more",
    }
    assert "secret" not in answer.text


def test_a_wrong_method_is_told_those_that_are_taken(client: Client) -> None:
    answer = client.request("DELETE", "models/deploy")
    assert answer.status_code == 405
    assert "POST" in answer.headers["allow"]
    assert answer.headers["content-type"] == "application/problem+json"
