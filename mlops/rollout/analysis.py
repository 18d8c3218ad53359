"""Is the challenger worse, good enough, or is it too early to say: three answers, at every look.

A trial is a key-minute of real requests or a replayed bar; a fault is an error, a time-out or a
forecast that is not finite, on an input that another version answered.

*Worse* is shown by an e-process, so the controller may look as often as it likes (Ville 1939;
Ramdas et al. 2023, "Game-theoretic statistics"). Its first part compares both versions: the
share w of trials that the challenger gets is known by design, so if it is no worse, a fault is
its own with probability at most w. For odds t each of its faults multiplies the evidence by
``t / (wt + 1 - w)`` and each of the champion's by ``1 / (wt + 1 - w)``. Market shocks hit both
and cancel. The second part sets the challenger alone against ``max_fault_rate``, for at a share
of one there is nothing to compare. Either part is an average over a few alternatives, and so is
the whole, which keeps it an e-process.

*Good enough* is an upper bound on the challenger's fault rate that holds at all looks: the
smallest rate that an e-process for lower rates refutes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from mlops.rollout.plan import EVERYTHING_BP
from mlops.store.request_counts import Source, Tally

ALPHA_WORSE = 0.01
"""Chance that a rollout of a version that is no worse is ever called worse."""

ALPHA_GOOD = 0.05
"""Chance that a version over the limit is ever called good enough."""

ODDS = (1.5, 2.0, 3.0, 5.0, 10.0, 20.0)
COMPARED_SHARE = 0.8
"""Of the evidence for worse that comes from comparing; the rest from the limit alone."""

_TIMES_THE_LIMIT = (2.0, 4.0, 10.0, 30.0, 90.0)
_HIGHEST = 0.99
_OF_THE_BOUND = ((0.0, 0.5), (0.25, 0.25), (0.5, 0.25))
"""Lower rates, as shares of the bound, and the weight of each in the bound's e-process."""

_BISECTIONS = 40


class Conclusion(StrEnum):
    """What the evidence says."""

    WORSE = "worse"
    GOOD = "good"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class TrialCounts:
    """Trials, and how many of them failed."""

    trials: int = 0
    faults: int = 0

    def __add__(self, other: TrialCounts) -> TrialCounts:
        return TrialCounts(self.trials + other.trials, self.faults + other.faults)


@dataclass(frozen=True, slots=True)
class DealtTrials:
    """Trials dealt between both versions while the challenger's share was ``weight_bp``."""

    weight_bp: int
    champion: TrialCounts
    challenger: TrialCounts


@dataclass(frozen=True, slots=True)
class PairedTrials:
    """Inputs given to both versions, and how many only one of them failed."""

    trials: int = 0
    challenger_faults: int = 0
    champion_faults: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was counted until now; ``promoted`` is the new champion after its promotion."""

    dealt: tuple[DealtTrials, ...] = ()
    paired: PairedTrials = PairedTrials()
    promoted: TrialCounts = TrialCounts()

    @property
    def challenger(self) -> TrialCounts:
        """Everything the challenger was tried on before its promotion."""
        total = TrialCounts(self.paired.trials, self.paired.challenger_faults)
        return sum((one.challenger for one in self.dealt), start=total)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One of three words, with the figures it rests on.

    ``e_value`` is the evidence for worse (worse at ``1 / ALPHA_WORSE``), ``upper_bound`` the
    largest fault rate that is not refuted.
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
    """Add up what the replicas counted during a rollout, and of its version after promotion.

    Replicas replay the same bars, so of replays the worst replica counts, not the sum.
    """
    dealt: dict[int, DealtTrials] = {}
    paired, replays = PairedTrials(), [PairedTrials()]
    for one in tallies:
        both = PairedTrials(one.challenger_trials, one.challenger_faults, one.champion_faults)
        if one.source is Source.REPLAY:
            replays.append(both)
        elif one.source is Source.MIRROR:
            paired = _joined(paired, both)
        else:
            before = dealt.get(
                one.weight_bp, DealtTrials(one.weight_bp, TrialCounts(), TrialCounts())
            )
            dealt[one.weight_bp] = DealtTrials(
                one.weight_bp,
                before.champion + TrialCounts(one.champion_trials, one.champion_faults),
                before.challenger + TrialCounts(one.challenger_trials, one.challenger_faults),
            )
    worst = max(replays, key=lambda replay: (replay.challenger_faults, replay.trials))
    return Evidence(tuple(dealt.values()), _joined(paired, worst), count_champion_trials(promoted))


def count_champion_trials(tallies: Iterable[Tally]) -> TrialCounts:
    """What a champion was tried on, and how often it failed."""
    counts = (TrialCounts(one.champion_trials, one.champion_faults) for one in tallies)
    return sum(counts, start=TrialCounts())


@lru_cache(maxsize=4096)
def judge_challenger(evidence: Evidence, *, max_fault_rate: float) -> Verdict:
    """What the evidence says of the challenger before its promotion."""
    seen = evidence.challenger
    compared = compared_e_value(evidence.dealt, evidence.paired)
    limited = limit_e_value(seen, max_fault_rate)
    e_value = COMPARED_SHARE * compared + (1 - COMPARED_SHARE) * limited
    return _verdict(seen, e_value, max_fault_rate)


@lru_cache(maxsize=4096)
def judge_version(seen: TrialCounts, *, max_fault_rate: float) -> Verdict:
    """What a version's own trials say of it, where nothing runs beside it."""
    return _verdict(seen, limit_e_value(seen, max_fault_rate), max_fault_rate)


def compared_e_value(dealt: Sequence[DealtTrials], paired: PairedTrials) -> float:
    """Evidence that the challenger fails more often than the champion beside it."""
    exponents = []
    for odds in ODDS:
        both = math.log((odds + 1) / 2)
        exponent = paired.challenger_faults * (math.log(odds) - both)
        exponent -= paired.champion_faults * both
        for one in dealt:
            share = one.weight_bp / EVERYTHING_BP
            total = math.log(share * odds + 1 - share)
            exponent += one.challenger.faults * (math.log(odds) - total)
            exponent -= one.champion.faults * total
        exponents.append(exponent)
    return _mean_exp(exponents)


def limit_e_value(seen: TrialCounts, limit: float) -> float:
    """Evidence that a fault rate lies above ``limit``."""
    above = (min(limit * times, max(limit, _HIGHEST)) for times in _TIMES_THE_LIMIT)
    return _mean_exp([_log_ratio(seen, rate, limit) for rate in above])


def upper_bound(seen: TrialCounts, alpha: float = ALPHA_GOOD) -> float:
    """The largest fault rate not refuted, at any look, with error ``alpha``."""
    low, high = (seen.faults / seen.trials if seen.trials else 0.0), 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _refuted(seen, middle, alpha):
            high = middle
        else:
            low = middle
    return high


def _refuted(seen: TrialCounts, bound: float, alpha: float) -> bool:
    evidence = sum(
        weight * math.exp(min(_log_ratio(seen, share * bound, bound), 700.0))
        for share, weight in _OF_THE_BOUND
    )
    return evidence >= 1 / alpha


def _verdict(seen: TrialCounts, e_value: float, max_fault_rate: float) -> Verdict:
    bound = upper_bound(seen)
    if e_value >= 1 / ALPHA_WORSE:
        conclusion = Conclusion.WORSE
    elif bound <= max_fault_rate:
        conclusion = Conclusion.GOOD
    else:
        conclusion = Conclusion.UNKNOWN
    return Verdict(conclusion, e_value, bound, seen.trials, seen.faults)


def _log_ratio(seen: TrialCounts, rate: float, null: float) -> float:
    """Log likelihood of the counts at ``rate`` over that at ``null``."""
    if null >= 1.0:
        return -math.inf if seen.faults < seen.trials else 0.0
    fell = seen.faults * math.log(rate / null) if rate > 0 else (-math.inf if seen.faults else 0.0)
    return fell + (seen.trials - seen.faults) * (math.log1p(-rate) - math.log1p(-null))


def _mean_exp(exponents: Sequence[float]) -> float:
    return sum(math.exp(min(exponent, 700.0)) for exponent in exponents) / len(exponents)


def _joined(a: PairedTrials, b: PairedTrials) -> PairedTrials:
    return PairedTrials(
        a.trials + b.trials,
        a.challenger_faults + b.challenger_faults,
        a.champion_faults + b.champion_faults,
    )
