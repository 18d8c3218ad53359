"""The steps of A/B tests: begin, look, and what people see of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.logging import get_run_logger

from mlops.ab_testing.answers import AbTestAnswer, answer_of, start_test
from mlops.ab_testing.lifecycle import Begun, Looked
from mlops.ab_testing.requests import AbTestRequest
from mlops.installation import Installation
from mlops.registry.tracking import RunLog
from mlops.reports.ab_tests import FOLDER, is_drawn, save_report
from mlops.store import Why, get_version
from mlops.store.ab_tests import AbTest, list_looks, list_recently_ended
from mlops.store.audit import SYSTEM
from tasks.artifacts import link_test_report

CONCLUDED = "mlops.ab_test.concluded"
TESTS_KEY = "ab-tests"
TOLD_FOR = timedelta(hours=3)
"""A test that ended longer ago is not told of any more: its report may have been removed."""


@task(cache_policy=NO_CACHE)
def start(
    installation: Installation, request: AbTestRequest, *, actor: str, reason: str
) -> AbTestAnswer:
    """Begin a test; its row in the store is the request."""
    why = Why(datetime.now(UTC), actor or SYSTEM, reason)
    return start_test(installation.open_ab_testing(), request, why)


@task(cache_policy=NO_CACHE)
def begin_waiting_tests(installation: Installation) -> tuple[Begun, ...]:
    """Begin the tests that trainings asked for, where their service is free."""
    return installation.open_ab_testing().start_waiting()


@task(cache_policy=NO_CACHE)
def look_at_tests(
    installation: Installation,
    test_id: str | None = None,
    times: Mapping[datetime, Sequence[str]] | None = None,
) -> tuple[Looked, ...]:
    """Look at one test, or at every running one.

    Args:
        times: Services by their market time, where a run has read the bars already.
    """
    testing = installation.open_ab_testing()
    if test_id is not None:
        return (testing.look(test_id),)
    by_service = {key: now for now, keys in (times or {}).items() for key in keys}
    return testing.look_at_running(by_service)


@task(cache_policy=NO_CACHE)
def publish_tests(installation: Installation, looks: Sequence[Looked]) -> None:
    """List the tests that were looked at; tell once of each that has ended, and draw its report.

    It may have been ended by a person or a rollout, or by a process that died before it told.
    """
    folder = installation.settings.reports_path
    for test in list_recently_ended(installation.store, within=TOLD_FOR):
        if not is_drawn(test, folder):
            emit_concluded_event(test)
            draw_report(installation, test)
    if looks:
        create_table_artifact(key=TESTS_KEY, table=[_table_row(looked) for looked in looks])


@task(cache_policy=NO_CACHE)
def draw_report(installation: Installation, test: AbTest) -> None:
    """Draw the report of a test; where drawing fails, the test is what it was."""
    try:
        page = save_report(
            test, list_looks(installation.store, test.id), installation.settings.reports_path
        )
        registry = installation.registry
        version = get_version(installation.store, test.challenger_id)
        RunLog(registry.tracking, version.run_id).log_artifact(page, FOLDER)
        link_test_report(registry.tracking, version, page, answer_of(test, None).text)
    except Exception:
        get_run_logger().exception(
            "service=%s the report of %s was not drawn", test.service, test.id,
            extra={"service": test.service, "model_id": test.challenger_id},
        )  # fmt: skip


def emit_concluded_event(test: AbTest) -> None:
    """Emit the event that a test has its verdict; it is lost where Prefect's server is down."""
    answer = answer_of(test, None)
    emit_event(
        event=CONCLUDED,
        resource={"prefect.resource.id": f"mlops.service.{test.service}"},
        payload={
            "test": test.id,
            "service": test.service,
            "verdict": answer.verdict,
            "winner": answer.winner,
            "text": answer.text,
        },
    )


def _table_row(looked: Looked) -> dict[str, str]:
    test, look = looked.test, looked.look
    return {
        "test": test.name or test.id,
        "service": test.service,
        "champion": test.champion_id,
        "challenger": test.challenger_id,
        "verdict": str(test.verdict or test.state),
        "pairs": "" if look is None else f"{look.pairs:,}",
        "p": "" if look is None else f"{look.p:.3g}",
        "why": looked.trouble or answer_of(test, look).text,
    }
