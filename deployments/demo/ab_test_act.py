"""An A/B test of the past: a linear model against persistence, six bars ahead.

A model is trained on the bars known at `START`, and is tested against the baseline, which serves.
Both forecast every rehearsed bar; a look each day compares them on the bars whose outcome is known
by then. The verdict comes after a month of them. The story of `make demo` ends earlier, after the
first looks that may count; `make demo-ab-test` goes on to the verdict and the promotion.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from deployments.demo.history_act import HourlyDatasets
from flows.train import train
from mlops.ab_testing.lifecycle import AbTesting, Started
from mlops.ab_testing.requests import AbTestRequest
from mlops.installation import Installation
from mlops.rehearsal.hours import HourResult, RehearsalClock, hours_between, rehearse
from mlops.reports.ab_tests import ab_test_section
from mlops.reports.page import AbTestSection, Page, render
from mlops.rollout.runner import RolloutRunner
from mlops.search.config import ModelType, TrainingConfig
from mlops.store import Why, get_route, get_version
from mlops.store.ab_tests import AbTest, get_test, list_looks
from tasks.context import current_installation

START = datetime(2019, 2, 23, tzinfo=UTC)
HORIZON = 6
"""Hours; see `deployments.demo.history_act.HORIZON`."""

HOLDOUT_SHARE = 0.49
"""The bars that both forecast before the test: 17 two-week blocks of them. With the usual share
there are ten, whose variance is known so badly that the test would outlast the embedded bars."""

LONGEST = timedelta(days=90)
"""The duration that is asked for."""

FIRST_LOOKS = timedelta(days=8)
"""The least number of pairs is 120: the looks of the last days may count already."""

HOURS_A_LOOK = 24
HOUR, WEEK = timedelta(hours=1), timedelta(weeks=1)


def write_first_looks(symbol: str, console: Console, *, path: Path) -> None:
    """Run the act up to its first looks, and write its section of the report to ``path``."""
    section = run_ab_test(current_installation(), symbol, console, longest=FIRST_LOOKS)
    if section is not None:
        _print(console, "the test goes on; `make demo-ab-test` rehearses it to its verdict")
        path.write_text(section.to_json(), encoding="utf-8")


def run_whole_test(symbol: str, console: Console) -> Path:
    """Run the act to the verdict; returns the path of its report.

    Raises:
        SystemExit: when the model is refused, so that there is nothing to test.
    """
    installation = current_installation()
    section = run_ab_test(installation, symbol, console, longest=LONGEST)
    if section is None:
        raise SystemExit(f"no linear model of {symbol} passed its gates, so nothing is tested")
    path = installation.settings.reports_path / "ab_test.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    page = Page(f"{symbol} sample", "An A/B test, bar by bar", sections=(), tests=(section,))
    path.write_text(render(page), encoding="utf-8")
    return path


def run_ab_test(
    installation: Installation, symbol: str, console: Console, *, longest: timedelta
) -> AbTestSection | None:
    """Train as of `START`, and test the version against the baseline that serves.

    Args:
        longest: Market time after which the rehearsal ends without a verdict.

    Returns:
        The section of the test; None where the version is refused.
    """
    trained = train(
        symbol,
        ModelType.LINEAR,
        venue="sample",
        horizon=HORIZON,
        training=TrainingConfig(end=START, holdout_share=HOLDOUT_SHARE),
    )
    _print(console, f"as of {START:%Y-%m-%d} {trained.model_id} is {trained.status}")
    if not trained.passed:
        return None
    test = rehearse_ab_test(installation, trained.model_id, console, longest=longest)
    return ab_test_section(test, list_looks(installation.store, test.id))


def rehearse_ab_test(
    installation: Installation, challenger: str, console: Console, *, longest: timedelta
) -> AbTest:
    """Test a version against the baseline, which serves, until its verdict has moved the route.

    Args:
        challenger: Its ``model_id``.
        longest: Market time after which the rehearsal ends without a verdict.
    """
    service, clock = get_version(installation.store, challenger).service, RehearsalClock(START)
    testing = installation.open_ab_testing(clock, held_bars=None)
    bars = installation.open_recent_bars(clock, held_bars=None)
    with installation.open_rehearsal_replica(clock) as replica:
        started = _start(testing, service, challenger)
        _print(console, f"{started.test.id}: {started.plan.text}")
        hours: Iterator[HourResult[None]] = rehearse(
            service,
            hours_between(START, START + longest),
            store=installation.store,
            clock=clock,
            replica=replica,
            monitor=installation.open_monitor(HourlyDatasets(bars, clock)),
            retrain=_retrain_nothing,
            testing=testing,
            hours_a_test_look=HOURS_A_LOOK,
        )
        for hour in hours:
            _print_looks(console, hour)
            if any(looked.ended for looked in hour.tests):
                _follow_to_end(installation, started.test, console)
                break
    return get_test(installation.store, started.test.id)


def _start(testing: AbTesting, service: str, challenger: str) -> Started:
    route = get_route(testing.store, service)
    assert route is not None, "the training has begun the service"
    request = AbTestRequest(
        model_a_id=route.champion,
        model_b_id=challenger,
        name="a fitted model against persistence",
        duration_hours=LONGEST / timedelta(hours=1),
    )
    why = Why(datetime.now(UTC), actor="demonstration", reason="it passed its gates")
    return testing.start(request, why)


def _retrain_nothing(service: str, now: datetime) -> None:
    """Versions are frozen for as long as they are tested."""


def _follow_to_end(installation: Installation, test: AbTest, console: Console) -> None:
    """Wait until the rollout has carried out the verdict, and print who serves."""
    ended = RolloutRunner(installation.store, "demonstration").follow(test.rollout_id)
    route = get_route(installation.store, test.service)
    assert route is not None
    _print(console, f"{route.champion} serves; the rollout of the test is {ended.phase}")


def _print_looks(console: Console, hour: HourResult[None]) -> None:
    """Print the looks at the end of a week, and the one that found the verdict."""
    for looked in hour.tests:
        look = looked.look
        if look is not None and (looked.ended or (hour.now - START) % WEEK < HOUR):
            word = look.word or "open"
            _print(console, f"  {hour.now:%Y-%m-%d}, {word}: {look.detail['text']}")


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
