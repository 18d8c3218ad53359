"""A key belongs to one request: its repeat gets the same thing, another request is refused."""

from __future__ import annotations

import pytest

from mlops.errors import RequestKeyReused, RowRefused
from mlops.rollout.plan import Strategy, plan_for
from mlops.rollout.request import request_rollout
from mlops.store import Store, list_rollouts
from mlops.store.requests import RequestKey, columns_of
from tests.mlops.rollout.rows import ASKED, CHALLENGER, begin_service

FIRST = RequestKey("monday", "a" * 64)


def test_a_repeat_is_the_request_and_another_is_refused() -> None:
    FIRST.check_repeat("rollout-1", "a" * 64)
    FIRST.check_repeat("rollout-1", None)
    with pytest.raises(RequestKeyReused, match=r"'monday'.*made rollout-1"):
        FIRST.check_repeat("rollout-1", "b" * 64)


def test_a_request_without_a_key_writes_nothing() -> None:
    assert columns_of(None) == {}
    assert columns_of(FIRST) == {"request_key": "monday", "request_digest": "a" * 64}


def test_a_rollout_is_requested_once_under_a_key(store: Store) -> None:
    begin_service(store)
    plan = plan_for(Strategy.CANARY)
    first = request_rollout(store, CHALLENGER, plan, ASKED, request=FIRST)
    assert request_rollout(store, CHALLENGER, plan, ASKED, request=FIRST) == first
    with pytest.raises(RequestKeyReused):
        request_rollout(store, CHALLENGER, plan, ASKED, request=RequestKey("monday", "b" * 64))
    assert list_rollouts(store) == (first,)
    assert (first.request_key, first.request_digest) == ("monday", "a" * 64)


def test_two_services_cannot_share_a_key(store: Store) -> None:
    """The insert refuses it where two processes ask at once; here the second looks first."""
    begin_service(store)
    begin_service(store, "sample.eth-usd.1h.volatility.24", "-eth")
    request_rollout(store, CHALLENGER, plan_for(Strategy.CANARY), ASKED, request=FIRST)
    other = RequestKey("monday", "b" * 64)
    with pytest.raises((RequestKeyReused, RowRefused)):
        request_rollout(store, f"{CHALLENGER}-eth", plan_for(Strategy.CANARY), ASKED, request=other)
