"""How canaries end: rarely for nothing, soon where there is a reason, and never unseen."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import pytest
from scipy import stats

from mlops.rollout.analysis import Conclusion, DealtTrials, Evidence, TrialCounts, judge_challenger
from mlops.rollout.controller import Controller
from mlops.rollout.plan import plan_for
from mlops.rollout.routing import deal, goes_to_challenger
from mlops.store import Phase, Rollout, Store, get_rollout, list_events
from mlops.store.request_counts import Source, Tally, record_tallies

from .rows import SERVICE, Clock, RowReplica, ask, begin_service, follow_all, route_of, tally

LIMIT = 0.01
CHAMPION_RATE = 0.005


def word_of(dealt: DealtTrials) -> Conclusion:
    return judge_challenger(Evidence((dealt,)), max_fault_rate=LIMIT).conclusion


def ever_worse(
    draw: np.random.Generator, *, weight: int, looks: int, between: int, rate: float
) -> bool:
    """Whether a challenger with this fault rate is called worse at any of the looks."""
    champion = challenger = TrialCounts()
    for _ in range(looks):
        mine = int(draw.binomial(between, weight / 10_000))
        champion += TrialCounts(between - mine, int(draw.binomial(between - mine, CHAMPION_RATE)))
        faults = int(draw.binomial(mine, rate))
        challenger += TrialCounts(mine, faults)
        # Only a fault of its own can make it look worse.
        if faults and word_of(DealtTrials(weight, champion, challenger)) is Conclusion.WORSE:
            return True
    return False


@pytest.fixture(scope="module")
def false_alarms() -> tuple[int, int]:
    """Of how many simulated canaries of a version that is no worse were how many undone."""
    runs, wrong = 0, 0
    draw = np.random.default_rng(2025)
    for weight in (500, 1000, 2500, 5000):
        for between in (20, 50, 100):
            for _ in range(200):
                runs += 1
                wrong += ever_worse(
                    draw, weight=weight, looks=100, between=between, rate=CHAMPION_RATE
                )
    return runs, wrong


def test_a_version_that_is_no_worse_is_hardly_ever_undone(false_alarms: tuple[int, int]) -> None:
    """At most 1 % of rollouts, over 100 looks, with the error of the simulation itself added."""
    runs, wrong = false_alarms
    highest = stats.beta.ppf(0.95, wrong + 1, runs - wrong)
    print(f"\n{wrong} of {runs} undone for nothing; at most {highest:.2%}", end="")
    assert highest <= 0.01


def requests_until_worse(rate: float, *, runs: int, seed: int) -> list[int]:
    """How many requests each challenger had answered when it was called worse."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(runs):
        champion = challenger = TrialCounts()
        while challenger.trials < 600:
            # The champion's requests between two of the challenger's, at a share of a tenth.
            others = int(draw.geometric(0.1)) - 1
            champion += TrialCounts(others, int(draw.binomial(others, CHAMPION_RATE)))
            fault = bool(draw.random() < rate)
            challenger += TrialCounts(1, fault)
            # Only a fault of its own can make it look worse.
            if fault and word_of(DealtTrials(1000, champion, challenger)) is Conclusion.WORSE:
                break
        found.append(challenger.trials)
    return found


@pytest.mark.parametrize(
    ("rate", "runs", "allowed"), [(0.05, 500, 120), (0.2, 300, 30), (1.0, 20, 10)]
)
def test_a_version_that_is_worse_is_undone_soon(rate: float, runs: int, allowed: int) -> None:
    """The median, with the 99 % error of the simulation itself added."""
    found = sorted(requests_until_worse(rate, runs=runs, seed=7))
    above = int(stats.binom.ppf(0.99, runs, 0.5))
    print(f"\n{rate:.0%}: median {np.median(found)}, surely below {found[above]}", end="")
    assert found[above] <= allowed


# A service that forecasts once an hour -------------------------------------------------------

BARS = 500
SOON, LATER = timedelta(seconds=5), timedelta(minutes=15)


@dataclass
class Hourly:
    """Two replicas that replay recent bars, and one request an hour.

    ``rate`` of all bars and requests make the challenger fail, and 0.1 % the champion.
    """

    store: Store
    rate: float
    bars: int = BARS
    traffic: bool = True
    seed: int = 1
    clock: Clock = field(default_factory=Clock)
    live: dict[tuple[int, int], Tally] = field(default_factory=dict)

    def __post_init__(self) -> None:
        begin_service(self.store)
        self.replicas = [RowReplica(self.store, name) for name in ("r0", "r1")]
        follow_all(self.replicas)
        draw = random.Random(self.seed)
        self.faulty = [draw.random() < self.rate for _ in range(self.bars)]
        self.draw = draw

    def roll_out(self, *, hours: float) -> Rollout:
        """A canary by the usual plan, until it ends or so many hours have passed."""
        asked = ask(self.store, plan_for("canary"), now=self.clock())
        controller = Controller(self.store, "one", now=self.clock)
        end, hour = self.clock() + timedelta(hours=hours), -1
        while self.clock() < end and not get_rollout(self.store, asked.id).phase.final:
            follow_all(self.replicas)
            self._replay(asked)
            now = (self.clock() - asked.requested_at) // timedelta(hours=1)
            if self.traffic and now > hour:
                self._ask(asked, hour := now)
            self.clock.at += SOON if controller.tick() else LATER
        return get_rollout(self.store, asked.id)

    def _replay(self, asked: Rollout) -> None:
        for one in self.replicas:
            if self.bars and "challenger" in one.ready and route_of(self.store).challenger:
                counts = {"challenger_trials": self.bars, "challenger_faults": sum(self.faulty)}
                said = tally(asked.id, replica_id=one.name, champion_trials=self.bars, **counts)
                record_tallies(self.store, {SERVICE: [said]})

    def _ask(self, asked: Rollout, number: int) -> None:
        route, one = route_of(self.store), self.replicas[number % 2]
        drawn = deal(route.salt, f"request-{number}")
        mine = goes_to_challenger(route, one.name, drawn, valid=True) and "challenger" in one.ready
        step = get_rollout(self.store, asked.id).step
        before = self.live.get((step, route.weight_bp), TrialCounts())
        after = before + TrialCounts(1, mine and self.draw.random() < self.rate)
        if mine:
            self.live[step, route.weight_bp] = after
            counts = {"challenger_trials": after.trials, "challenger_faults": after.faults}
            said = tally(
                asked.id,
                source=Source.LIVE,
                step=step,
                weight_bp=route.weight_bp,
                champion_trials=0,
                **counts,
            )
            record_tallies(self.store, {SERVICE: [said]})


quick_on_sqlite = pytest.mark.parametrize(
    "url", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)], indirect=True
)
"""How a canary ends is a matter of counts; the rows are tested on both databases elsewhere."""


def phases(store: Store, row: Rollout) -> set[Phase]:
    return {event.to_phase for event in list_events(store, row.id)}


@quick_on_sqlite
def test_a_good_challenger_is_promoted_within_a_day(store: Store) -> None:
    hourly = Hourly(store, rate=0.0)
    row = hourly.roll_out(hours=24)
    assert row.phase is Phase.DONE
    assert route_of(store).champion == "challenger"
    assert row.ended_at is not None
    print(f"\npromoted and watched within {row.ended_at - row.requested_at}", end="")
    assert row.ended_at - row.requested_at < timedelta(hours=24)


@quick_on_sqlite
@pytest.mark.parametrize("rate", [0.05, 1.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_broken_one_never_is(store: Store, rate: float, seed: int) -> None:
    row = Hourly(store, rate=rate, seed=seed).roll_out(hours=48)
    assert row.phase is Phase.FAILED
    assert Phase.PROMOTED not in phases(store, row)
    assert Phase.STEP not in phases(store, row)
    assert "worse than the champion" in row.reason
    assert route_of(store).champion == "champion"


def test_no_broken_one_is_ever_called_good() -> None:
    """Of 5 % faults in 500 bars, the chance that they look good: a fault or none at all."""
    most = max(
        k
        for k in range(20)
        if word_of(DealtTrials(10_000, TrialCounts(), TrialCounts(BARS, k))) == "good"
    )
    assert stats.binom.cdf(most, BARS, 0.05) < 1e-9


@quick_on_sqlite
def test_one_that_nobody_saw_is_held_and_then_undone(store: Store) -> None:
    row = Hourly(store, rate=0.0, bars=0, traffic=False).roll_out(hours=24)
    assert row.phase is Phase.FAILED
    assert phases(store, row).isdisjoint({Phase.STEP, Phase.PROMOTED})
    assert "nothing is promoted unseen: 0 faults in 0 trials" in row.reason
    assert row.ended_at is not None
    waited = row.ended_at - row.requested_at
    assert timedelta(seconds=plan_for("canary").gate_s) < waited < timedelta(hours=2)


@quick_on_sqlite
def test_one_that_few_saw_is_held_for_a_day_and_then_undone(store: Store) -> None:
    """100 bars pass the gate; they do not show that it fails less than once in a hundred."""
    row = Hourly(store, rate=0.0, bars=100).roll_out(hours=48)
    assert row.phase is Phase.FAILED
    assert Phase.STEP in phases(store, row)
    assert Phase.PROMOTED not in phases(store, row)
    assert "nothing is promoted unseen" in row.reason
    assert route_of(store).champion == "champion"
