"""Bodies that a lenient reader would take are refused, each with a sentence."""

from __future__ import annotations

import pytest

from mlops.api.problems import Problem
from mlops.api.strict_requests import parse_json
from tests.mlops.api.conftest import Client

DEPLOY = "models/deploy"


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b'{"a": "x"} more',
        b"[" * 100_000,
        b"{" * 3,
        b"",
    ],
)
def test_what_is_no_strict_json_is_refused(body: bytes) -> None:
    with pytest.raises(Problem, match=r"no JSON|stands twice"):
        parse_json(body)


def test_equal_keys_of_different_objects_are_taken() -> None:
    assert parse_json(b'[{"a": 1}, {"a": [1.5, null]}]') == [{"a": 1}, {"a": [1.5, None]}]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"model_id": "x", "model_id": "y"}', 400, "stands twice"),
        (b'{"model_id": "x"', 400, "no JSON"),
        (b'{"model_id": "x", "force": 1}', 422, "/force"),
        (b'{"model_id": "x", "force": "true"}', 422, "/force"),
        (b'{"model_id": "x\\u0000"}', 422, "/model_id"),
        (b'{"model_id": "x", "reason": "a\\u0007"}', 422, "/reason"),
        (b'{"model_id": ["x"]}', 422, "/model_id"),
        (b'"x"', 422, "the body"),
        (b"", 422, "the body"),
    ],
)
def test_a_body_that_is_wrong_is_a_problem(
    client: Client, body: bytes, status: int, words: str
) -> None:
    headers = {"content-type": "application/json"}
    answer = client.post(DEPLOY, content=body, headers=headers)
    assert answer.status_code == status
    assert words in answer.json()["detail"]


def test_a_body_without_its_type_is_refused(client: Client) -> None:
    answer = client.post(
        DEPLOY, content=b'{"model_id": "x"}', headers={"content-type": "text/plain"}
    )
    assert answer.status_code == 422


@pytest.mark.parametrize("wait", ["nan", "inf", "1e999", "-1", "61", "x", ""])
def test_a_number_of_a_query_is_finite_and_in_range(client: Client, wait: str) -> None:
    answer = client.post(f"{DEPLOY}?wait={wait}", json={"model_id": "x"})
    assert answer.status_code == 422
    assert "query/wait" in answer.json()["detail"]
