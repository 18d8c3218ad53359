"""A/B tests: begin one, and look at those that run.

    prefect deployment run ab-test/start -p model_a_id=... -p model_b_id=...
    prefect deployment run ab-test/evaluate

The hourly monitor looks at every running test as well. A look never moves a route: the controller
does, by the stored verdict.
"""

from __future__ import annotations

from prefect import flow

from mlops.ab_testing.answers import AbTestAnswer, answer_of
from mlops.ab_testing.requests import AbTestRequest, OnShortPlan
from tasks import ab_tests as step
from tasks.context import current_installation, run_logs

FLOW = "ab-test"


@flow(name=FLOW, flow_run_name="start-{model_a_id}-{model_b_id}", validate_parameters=True)
def start_ab_test(
    model_a_id: str,
    model_b_id: str,
    *,
    test_name: str = "",
    traffic_split: float = 0.5,
    duration_hours: float = 48.0,
    promote: bool = True,
    on_short_plan: OnShortPlan = OnShortPlan.ACCEPT,
    end_test: bool = False,
    request_key: str | None = None,
    actor: str = "",
    reason: str = "",
) -> AbTestAnswer:
    """Compare the champion with another version on the same coming bars.

    Args:
        model_a_id: A version of the service; one of the two must be live.
        model_b_id: The other version.
        test_name: What the test is called.
        traffic_split: The share of the requests that model B answers.
        duration_hours: How long it lasts, in market time.
        promote: Whether a challenger that is better goes live.
        on_short_plan: What becomes of a test that cannot decide: accept, refuse or extend.
        end_test: Whether a running test of the service is stopped for this one.
        request_key: A repeated request with the same key begins no second test.
        actor: Who wants it.
        reason: Why.
    """
    request = AbTestRequest(
        model_a_id=model_a_id,
        model_b_id=model_b_id,
        name=test_name,
        traffic_split=traffic_split,
        duration_hours=duration_hours,
        promote=promote,
        on_short_plan=on_short_plan,
        end_test=end_test,
        request_key=request_key,
    )
    with run_logs(model_id=model_b_id):
        return step.start(current_installation(), request, actor=actor, reason=reason)


@flow(name=FLOW, flow_run_name="evaluate", validate_parameters=True)
def evaluate_ab_tests(test_id: str | None = None) -> tuple[AbTestAnswer, ...]:
    """Look at one test, or at every running one, and draw the report of one.

    Args:
        test_id: The test; empty: every running one.
    """
    with run_logs():
        installation = current_installation()
        looks = step.look_at_tests(installation, test_id)
        step.publish_tests(installation, looks)
        if test_id is not None and not looks[0].ended:
            step.draw_report(installation, looks[0].test)
        return tuple(answer_of(looked.test, looked.look) for looked in looks)
