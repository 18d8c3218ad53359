"""A minute of schemathesis against a replica's HTTP API finds nothing; `make fuzz` takes five."""

from __future__ import annotations

import pytest

from tests.fuzz.http_api import fuzz_api


@pytest.mark.slow
def test_no_request_of_the_document_or_beside_it_makes_the_api_fail() -> None:
    assert fuzz_api(minutes=1.0, seed=7) == 0
