"""An A/B test of the past: a linear model against persistence, six bars ahead.

A model is trained on the bars known at `START`, where its holdout and the baseline's have more than
ten two-week blocks in common, and is tested against the baseline, which serves. Both forecast every
rehearsed bar; a look each day compares them on the bars whose outcome is known by then. The verdict
needs some 1,600 bars. The story of `make demo` ends earlier, after the first looks that may count;
`make demo-ab-test` goes on to the verdict and the promotion that follows from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rich.console import Console

from deployments.demo.history_act import HourlyDatasets
from flows.train import TrainResult, train
from mlops.ab_testing.lifecycle import AbTesting, Started
from mlops.ab_testing.preflight import Preflight
from mlops.ab_testing.requests import AbTestRequest
from mlops.installation import Installation
from mlops.rehearsal.hours import HourResult, RehearsalClock, hours_between, rehearse
from mlops.search.config import ModelType, TrainingConfig
from mlops.serving.runtime import Options, headless_replica
from mlops.store import Why, get_route, get_version
from mlops.store.ab_tests import AbLook, AbTest, get_test, list_looks

START = datetime(2019, 1, 14, tzinfo=UTC)
HORIZON = 6
"""Hours; see `deployments.demo.history_act.HORIZON`."""

LONGEST = timedelta(days=120)
"""The duration that is asked for; the embedded bars go on until October."""

FIRST_LOOKS = timedelta(days=10)
"""The least number of pairs is 120, so that the looks of the last days may already count."""

HOURS_A_LOOK = 24
PRINTED_EVERY = timedelta(days=7)
HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AbTestStory:
    """What was rehearsed: the test at its end, its preflight, its looks, and who serves then."""

    test: AbTest
    plan: Preflight
    looks: tuple[AbLook, ...]
    champion: str

    @property
    def lost_pairs(self) -> int:
        """Bars up to the newest look that are no pair, because an arm or both lack a forecast."""
        newest = self.looks[-1]
        return newest.holes + sum(sum(counts.values()) for counts in newest.missing.values())


def train_challenger(symbol: str, console: Console) -> TrainResult:
    """Train and judge the version that is tested, on the bars known at `START`."""
    trained = train(
        symbol,
        ModelType.LINEAR,
        venue="sample",
        horizon=HORIZON,
        training=TrainingConfig(end=START),
    )
    _print(console, f"as of {START:%Y-%m-%d} {trained.model_id} is {trained.status}")
    return trained


def rehearse_ab_test(
    installation: Installation, challenger: str, console: Console, *, longest: timedelta
) -> AbTestStory:
    """Test a version against the baseline, which serves, until the verdict.

    Args:
        longest: Market time after which the rehearsal ends without a verdict.
    """
    service, clock = get_version(installation.store, challenger).service, RehearsalClock(START)
    testing = installation.open_ab_testing(clock, held_bars=None)
    bars = installation.open_recent_bars(clock, held_bars=None)
    with headless_replica(
        installation.store,
        home=installation.home,
        trust=installation.trust,
        bundles=installation.bundles,
        bars_root=installation.settings.bars_path,
        options=Options(clock=clock, held_bars=None),
        on_demand=True,
    ) as replica:
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
                break
    return _tell(installation, started)


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


def _tell(installation: Installation, started: Started) -> AbTestStory:
    test = get_test(installation.store, started.test.id)
    route = get_route(installation.store, test.service)
    assert route is not None
    looks = list_looks(installation.store, test.id)
    return AbTestStory(test=test, plan=started.plan, looks=looks, champion=route.champion)


def _print_looks(console: Console, hour: HourResult[None]) -> None:
    """Print a look a week, and the last one."""
    for looked in hour.tests:
        look = looked.look
        if look is not None and (looked.ended or (hour.now - START) % PRINTED_EVERY < HOUR):
            word = look.word or "open"
            text = f"{word:<11}  {look.pairs:,} pairs: {look.detail['text']}"
            _print(console, f"  {hour.now:%Y-%m-%d %H:%M}  {text}")


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
