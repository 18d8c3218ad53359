"""A/B tests of scenarios: asked for as a person does, and found better by a look of rows alone.

What a look reads of forecasts and outcomes has no part in these scenarios;
`tests/mlops/ab_testing/test_kills.py` kills the real one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from mlops.rollout.plan import ab_test_plan
from mlops.rollout.request import request_test
from mlops.store import AbTest, Store, Verdict, Why, get_route
from mlops.store.ab_tests import conclude_test, new_test_id, read_test_of_rollout

BAR = datetime(2020, 1, 1, tzinfo=UTC)
SPLIT_BP = 5000
OF_STEPS = ("dwell_s",)
"""Fields of a plan that a test has not: it waits for its verdict."""


def request_test_of(
    store: Store, service: str, model_id: str, plan: Mapping[str, Any], why: Why
) -> AbTest:
    """Ask for a test of a version against the champion, half of the keys each."""
    route = get_route(store, service)
    assert route is not None
    test = AbTest(
        id=new_test_id(),
        service=service,
        champion_id=route.champion,
        challenger_id=model_id,
        champion_is="b",
        name="fault",
        split_bp=SPLIT_BP,
        alpha=0.05,
        since_bar=BAR,
        min_until_bar=BAR,
        until_bar=BAR + timedelta(days=1),
        record=None,
        promote=True,
        rollout_id="",
        requested_by="",
        requested_why="",
        requested_at=BAR,
    )
    changes = {name: value for name, value in plan.items() if name not in OF_STEPS}
    return request_test(store, test, ab_test_plan(SPLIT_BP, duration_s=60.0, **changes), why)


def find_better(store: Store, rollout_id: str, why: Why) -> bool:
    """Write the verdict of the test that a rollout carries; False where it has one."""
    with store.write() as connection:
        test = read_test_of_rollout(connection, rollout_id)
        assert test is not None
        return conclude_test(connection, test.id, Verdict.BETTER, "it is better", why)
