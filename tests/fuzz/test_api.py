"""A minute of what `make fuzz` does to the HTTP API."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.api import run_schemathesis, serve_api
from tests.fuzz.api_hooks import IDS, put_ids

SEED, SECONDS = 16, 60


@pytest.mark.slow
def test_the_api_does_what_its_document_says(tmp_path: Path) -> None:
    with serve_api(tmp_path) as api:
        clean, printed = run_schemathesis(api, seconds=SECONDS, seed=SEED)
    assert clean, printed


def test_half_of_the_drawn_ids_are_real_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(IDS, "model_id", ["real"])
    drawn = [put_ids({"model_id": chr(code), "limit": 5}) for code in range(97, 117)]
    assert sum(values["model_id"] == "real" for values in drawn) == 10
    assert all(values["limit"] == 5 for values in drawn)
    assert put_ids(["a list"]) == ["a list"]
