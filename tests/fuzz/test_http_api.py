"""A minute of schemathesis against a replica's HTTP API finds nothing; `make fuzz` takes five."""

from __future__ import annotations

import pytest

from tests.fuzz.http_api import fuzz_api
from tests.fuzz.schema_hooks import IDS, put_ids


@pytest.mark.slow
def test_no_request_of_the_document_or_beside_it_makes_the_api_fail() -> None:
    assert fuzz_api(minutes=1.0, seed=7) == 0


def test_half_of_the_drawn_ids_are_real_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(IDS, "model_id", ["real"])
    drawn = [put_ids({"model_id": chr(code), "limit": 5}) for code in range(97, 117)]
    assert sum(values["model_id"] == "real" for values in drawn) == 10
    assert all(values["limit"] == 5 for values in drawn)
    assert put_ids({"model_id": "-not an id"}) == {"model_id": "-not an id"}
    assert put_ids(["a list"]) == ["a list"]
