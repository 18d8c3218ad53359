"""Evidence on a challenger: worse, good enough or unknown, valid however often it is judged.

A trial is a key-minute of real requests or a replayed bar; a fault is an error, a time-out or a
forecast that is not finite, on an input that another version answered.

*Worse* is shown by an e-process, so the controller may judge as often as it likes (Ville 1939;
Ramdas et al. 2023, "Game-theoretic statistics"). Its first part compares both versions: the
share w of trials that the challenger gets is known by design, so if it is no worse, a fault is
its own with probability at most w. For odds t each of its faults multiplies the evidence by
``t / (wt + 1 - w)`` and each of the champion's by ``1 / (wt + 1 - w)``. Market shocks hit both
and cancel. The second part sets the challenger alone against ``max_fault_rate``, for at a share
of one there is nothing to compare. Either part is an average over a few alternatives, and so is
the whole, which keeps it an e-process.

*Good enough* is an upper bound on the challenger's fault rate that holds at all times: the
smallest rate that an e-process for lower rates refutes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from mlops.rollout.plan import EVERYTHING_BP
from mlops.store.request_counts import Source, Tally

ALPHA_WORSE = 0.01
"""Probability that a version that is no worse is ever called worse in its rollout."""

ALPHA_GOOD = 0.05
"""Probability that a version above the limit is ever called good enough."""

ODDS = (1.5, 2.0, 3.0, 5.0, 10.0, 20.0)
"""Alternatives: the challenger fails so many times as often as the champion."""

COMPARED_SHARE = 0.8
"""Weight of the comparison in the evidence for worse; the limit alone has the rest."""

MAX_SHORT_SHARE = 0.01
"""A rollout holds while more of the keys dealt to its challenger send too few bars for it."""

_LIMIT_MULTIPLES = (2.0, 4.0, 10.0, 30.0, 90.0)
"""Alternatives to the limit, as multiples of the limit."""

_HIGHEST_RATE = 0.99
_SHARES_OF_BOUND = ((0.0, 0.5), (0.25, 0.25), (0.5, 0.25))
"""Lower rates, as shares of the bound, and the weight of each in the bound's e-process."""

_BISECTIONS = 40
_MAX_EXPONENT = 700.0
"""exp() of more overflows a float."""


class Conclusion(StrEnum):
    """The three answers that the evidence may give."""

    WORSE = "worse"
    GOOD = "good"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class TrialCounts:
    """A number of trials, and how many of them failed."""

    trials: int = 0
    faults: int = 0

    def __add__(self, other: TrialCounts) -> TrialCounts:
        return TrialCounts(self.trials + other.trials, self.faults + other.faults)


@dataclass(frozen=True, slots=True)
class ShortRequests:
    """The key-minutes that were dealt to a challenger lately, and those with too few bars for it.

    ``offered`` and ``needed`` are the bars of the newest such request and of the challenger; 0
    are offered by bars without times to a challenger that reads the clock.
    """

    dealt: int = 0
    short: int = 0
    offered: int = 0
    needed: int = 0

    @property
    def too_many(self) -> bool:
        """Whether the clients of the service do not send what the challenger needs."""
        return self.short > MAX_SHORT_SHARE * self.dealt

    def __str__(self) -> str:
        if not self.offered:
            return (
                f"{self.short} of {self.dealt} keys dealt to it send bars without their times: it "
                f"reads the clock; ask clients to send open_time with {self.needed} bars"
            )
        return (
            f"{self.short} of {self.dealt} keys dealt to it send too few bars: it needs "
            f"{self.needed}, they send {self.offered}; ask clients to send what GET /services says"
        )


@dataclass(frozen=True, slots=True)
class ChampionTrials:
    """A champion's trials of late: on requests, and in its newest check on inputs of our own.

    ``own`` has no trials where no such check was made of late.
    """

    live: TrialCounts = TrialCounts()
    own: TrialCounts = TrialCounts()


@dataclass(frozen=True, slots=True)
class DealtTrials:
    """Trials split between both versions while the challenger's share was ``weight_bp``."""

    weight_bp: int
    champion: TrialCounts
    challenger: TrialCounts


@dataclass(frozen=True, slots=True)
class PairedTrials:
    """Inputs that both versions were given, and how many of them only one version failed."""

    trials: int = 0
    challenger_faults: int = 0
    champion_faults: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """All counts of a rollout so far.

    ``promoted`` counts the new champion's trials after its promotion.
    """

    dealt: tuple[DealtTrials, ...] = ()
    paired: PairedTrials = PairedTrials()
    promoted: TrialCounts = TrialCounts()

    @property
    def challenger(self) -> TrialCounts:
        """All trials of the challenger before its promotion."""
        total = TrialCounts(self.paired.trials, self.paired.challenger_faults)
        return sum((split.challenger for split in self.dealt), start=total)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A conclusion, with the figures it rests on.

    ``e_value`` is the evidence for worse (worse from ``1 / ALPHA_WORSE`` on), ``upper_bound`` the
    largest fault rate (0 to 1) that is not refuted.
    """

    conclusion: Conclusion
    e_value: float
    upper_bound: float
    trials: int
    faults: int

    def __str__(self) -> str:
        return (
            f"{self.faults} faults in {self.trials} trials, evidence for worse {self.e_value:.3g} "
            f"of {1 / ALPHA_WORSE:.0f}, fault rate at most {self.upper_bound:.2%}"
        )


def gather_evidence(tallies: Iterable[Tally], promoted: Iterable[Tally] = ()) -> Evidence:
    """Add up what the replicas counted during a rollout.

    Replicas replay the same bars, so of replays the worst replica counts, not the sum.

    Args:
        tallies: The replicas' running totals of the rollout.
        promoted: Those of its version as champion, counted after the promotion.
    """
    dealt: dict[int, DealtTrials] = {}
    paired, replays = PairedTrials(), [PairedTrials()]
    for tally in tallies:
        both = PairedTrials(tally.challenger_trials, tally.challenger_faults, tally.champion_faults)
        if tally.source is Source.REPLAY:
            replays.append(both)
        elif tally.source is Source.MIRROR:
            paired = _add_pairs(paired, both)
        else:
            before = dealt.get(
                tally.weight_bp, DealtTrials(tally.weight_bp, TrialCounts(), TrialCounts())
            )
            dealt[tally.weight_bp] = DealtTrials(
                tally.weight_bp,
                before.champion + TrialCounts(tally.champion_trials, tally.champion_faults),
                before.challenger + TrialCounts(tally.challenger_trials, tally.challenger_faults),
            )
    worst = max(replays, key=lambda replay: (replay.challenger_faults, replay.trials))
    return Evidence(
        tuple(dealt.values()), _add_pairs(paired, worst), count_champion_trials(promoted)
    )


def count_champion_trials(tallies: Iterable[Tally]) -> TrialCounts:
    """Add up a champion's trials and faults on requests."""
    counts = (_champion_counts(tally) for tally in tallies if tally.source is Source.LIVE)
    return sum(counts, start=TrialCounts())


def count_own_trials(tallies: Iterable[Tally]) -> TrialCounts:
    """A champion's trials and faults on inputs of our own, in the replica where it fails most.

    Replicas try the same inputs, and a champion may fail in one of them only.
    """
    counts = (_champion_counts(tally) for tally in tallies if tally.source is Source.REPLAY)
    return max(counts, key=lambda own: (own.faults, own.trials), default=TrialCounts())


def count_short_requests(tallies: Iterable[Tally]) -> ShortRequests:
    """Add up the requests dealt to a challenger, and those with too few bars for it."""
    rows = tuple(tallies)
    bars: Mapping[str, int] = next((row.detail for row in rows[::-1] if row.challenger_faults), {})
    return ShortRequests(
        dealt=sum(row.challenger_trials for row in rows),
        short=sum(row.challenger_faults for row in rows),
        offered=bars.get("offered", 0),
        needed=bars.get("needed", 0),
    )


def _champion_counts(tally: Tally) -> TrialCounts:
    return TrialCounts(tally.champion_trials, tally.champion_faults)


@lru_cache(maxsize=4096)
def judge_challenger(evidence: Evidence, *, max_fault_rate: float) -> Verdict:
    """Judge the challenger before its promotion, against the champion and against the limit."""
    counts = evidence.challenger
    compared = compared_e_value(evidence.dealt, evidence.paired)
    limited = limit_e_value(counts, max_fault_rate)
    e_value = COMPARED_SHARE * compared + (1 - COMPARED_SHARE) * limited
    return _conclude(counts, e_value, max_fault_rate)


@lru_cache(maxsize=4096)
def judge_version(counts: TrialCounts, *, max_fault_rate: float) -> Verdict:
    """Judge a version by its own trials, where no other version runs beside it."""
    return _conclude(counts, limit_e_value(counts, max_fault_rate), max_fault_rate)


def compared_e_value(dealt: Sequence[DealtTrials], paired: PairedTrials) -> float:
    """The e-value for a challenger that fails more often than the champion beside it."""
    exponents = []
    for odds in ODDS:
        both = math.log((odds + 1) / 2)
        exponent = paired.challenger_faults * (math.log(odds) - both)
        exponent -= paired.champion_faults * both
        for split in dealt:
            share = split.weight_bp / EVERYTHING_BP
            total = math.log(share * odds + 1 - share)
            exponent += split.challenger.faults * (math.log(odds) - total)
            exponent -= split.champion.faults * total
        exponents.append(exponent)
    return _mean_exp(exponents)


def limit_e_value(counts: TrialCounts, limit: float) -> float:
    """The e-value for a fault rate above ``limit``."""
    above = (min(limit * times, max(limit, _HIGHEST_RATE)) for times in _LIMIT_MULTIPLES)
    return _mean_exp([_log_ratio(counts, rate, limit) for rate in above])


def upper_bound(counts: TrialCounts, alpha: float = ALPHA_GOOD) -> float:
    """The largest fault rate that is not refuted at level ``alpha``, valid at all times."""
    low, high = (counts.faults / counts.trials if counts.trials else 0.0), 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        evidence = sum(
            weight * math.exp(min(_log_ratio(counts, share * middle, middle), _MAX_EXPONENT))
            for share, weight in _SHARES_OF_BOUND
        )
        if evidence >= 1 / alpha:
            high = middle
        else:
            low = middle
    return high


def _conclude(counts: TrialCounts, e_value: float, max_fault_rate: float) -> Verdict:
    bound = upper_bound(counts)
    if e_value >= 1 / ALPHA_WORSE:
        conclusion = Conclusion.WORSE
    elif bound <= max_fault_rate:
        conclusion = Conclusion.GOOD
    else:
        conclusion = Conclusion.UNKNOWN
    return Verdict(conclusion, e_value, bound, counts.trials, counts.faults)


def _log_ratio(counts: TrialCounts, rate: float, null: float) -> float:
    """Log likelihood of the counts at ``rate`` over that at ``null``."""
    if null >= 1.0:
        return -math.inf if counts.faults < counts.trials else 0.0
    of_faults = -math.inf if counts.faults else 0.0
    if rate > 0:
        of_faults = counts.faults * math.log(rate / null)
    of_successes = (counts.trials - counts.faults) * (math.log1p(-rate) - math.log1p(-null))
    return of_faults + of_successes


def _mean_exp(exponents: Sequence[float]) -> float:
    return sum(math.exp(min(exponent, _MAX_EXPONENT)) for exponent in exponents) / len(exponents)


def _add_pairs(a: PairedTrials, b: PairedTrials) -> PairedTrials:
    return PairedTrials(
        a.trials + b.trials,
        a.challenger_faults + b.challenger_faults,
        a.champion_faults + b.champion_faults,
    )
