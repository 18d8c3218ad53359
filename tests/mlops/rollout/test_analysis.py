"""The evidence is a fair bet against the null, known answers included, however often one looks."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from scipy import stats

from mlops.rollout.analysis import (
    ALPHA_GOOD,
    ALPHA_WORSE,
    COMPARED_SHARE,
    ODDS,
    Conclusion,
    DealtTrials,
    Evidence,
    PairedTrials,
    TrialCounts,
    compared_e_value,
    count_champion_trials,
    gather_evidence,
    judge_challenger,
    judge_version,
    limit_e_value,
    upper_bound,
)
from mlops.store.request_counts import Source

from .rows import tally

NOBODY = TrialCounts()


def mean(values: list[Fraction]) -> float:
    return float(sum(values) / len(values))


T = [Fraction(3, 2), Fraction(2), Fraction(3), Fraction(5), Fraction(10), Fraction(20)]


@pytest.mark.parametrize(
    ("challenger", "champion", "by_hand"),
    [
        (0, 0, [Fraction(1) for _ in T]),
        (1, 0, [t / (Fraction(1, 10) * t + Fraction(9, 10)) for t in T]),
        (0, 1, [1 / (Fraction(1, 10) * t + Fraction(9, 10)) for t in T]),
        (2, 1, [t**2 / (Fraction(1, 10) * t + Fraction(9, 10)) ** 3 for t in T]),
    ],
)
def test_a_fault_multiplies_the_evidence_by_what_it_should(
    challenger: int, champion: int, by_hand: list[Fraction]
) -> None:
    dealt = DealtTrials(1000, TrialCounts(900, champion), TrialCounts(100, challenger))
    assert compared_e_value((dealt,), PairedTrials()) == pytest.approx(mean(by_hand), rel=1e-12)


def test_the_numbers_of_one_fault_at_a_tenth() -> None:
    """(1.5/1.05 + 2/1.1 + 3/1.2 + 5/1.4 + 10/1.9 + 20/2.9) / 6."""
    dealt = DealtTrials(1000, TrialCounts(900, 0), TrialCounts(100, 1))
    assert compared_e_value((dealt,), PairedTrials()) == pytest.approx(
        3.5796485728427654, rel=1e-12
    )


@pytest.mark.parametrize(
    ("challenger", "champion", "by_hand"),
    [
        (1, 0, [2 * t / (t + 1) for t in T]),
        (0, 1, [2 / (t + 1) for t in T]),
        (3, 2, [(2 * t / (t + 1)) ** 3 * (2 / (t + 1)) ** 2 for t in T]),
    ],
)
def test_a_pair_of_which_one_failed_is_a_fair_coin(
    challenger: int, champion: int, by_hand: list[Fraction]
) -> None:
    paired = PairedTrials(100, challenger_faults=challenger, champion_faults=champion)
    assert compared_e_value((), paired) == pytest.approx(mean(by_hand), rel=1e-12)


def test_shares_of_all_steps_and_pairs_multiply() -> None:
    steps = (
        DealtTrials(1000, TrialCounts(90, 1), TrialCounts(10, 0)),
        DealtTrials(5000, TrialCounts(50, 0), TrialCounts(50, 2)),
    )
    by_hand = [
        1
        / (Fraction(1, 10) * t + Fraction(9, 10))
        * (t / (Fraction(1, 2) * t + Fraction(1, 2))) ** 2
        * (2 * t / (t + 1))
        for t in T
    ]
    found = compared_e_value(steps, PairedTrials(5, challenger_faults=1))
    assert found == pytest.approx(mean(by_hand), rel=1e-12)


@pytest.mark.parametrize(
    ("seen", "by_hand"),
    [
        (TrialCounts(0, 0), [Fraction(1)]),
        (TrialCounts(1, 1), [Fraction(2), Fraction(4), Fraction(10), Fraction(30), Fraction(90)]),
        (TrialCounts(1, 0), [Fraction(100 - a, 99) for a in (2, 4, 10, 30, 90)]),
        (TrialCounts(3, 1), [a * Fraction(100 - a, 99) ** 2 for a in (2, 4, 10, 30, 90)]),
    ],
)
def test_the_limit_alone_is_judged_by_likelihood_ratios(
    seen: TrialCounts, by_hand: list[Fraction]
) -> None:
    assert limit_e_value(seen, 0.01) == pytest.approx(mean(by_hand), rel=1e-12)


@pytest.mark.parametrize("limit", [0.01, 0.05, 0.3, 0.9])
def test_rates_above_one_are_no_alternatives(limit: float) -> None:
    assert 0 < limit_e_value(TrialCounts(10, 5), limit) < math.inf


@pytest.mark.parametrize(
    "seen", [TrialCounts(50, 0), TrialCounts(400, 0), TrialCounts(400, 3), TrialCounts(20, 20)]
)
def test_the_bound_is_where_the_evidence_against_it_reaches_its_price(seen: TrialCounts) -> None:
    bound = upper_bound(seen)
    if bound == 1.0:
        assert seen.faults == seen.trials
        return
    evidence = sum(
        weight * (share**seen.faults) * ((1 - share * bound) / (1 - bound)) ** clean
        for share, weight in ((0.0, 0.5), (0.25, 0.25), (0.5, 0.25))
        for clean in (seen.trials - seen.faults,)
    )
    assert evidence == pytest.approx(1 / ALPHA_GOOD, rel=1e-6)


def test_nothing_seen_bounds_nothing() -> None:
    assert upper_bound(NOBODY) == 1.0
    assert judge_challenger(Evidence(), max_fault_rate=0.01).conclusion is Conclusion.UNKNOWN
    assert judge_version(NOBODY, max_fault_rate=0.01).conclusion is Conclusion.UNKNOWN


# Fair bets: what is expected under the null is one, exactly -----------------------------------


@pytest.mark.parametrize("weight", [500, 1000, 5000, 9000])
@pytest.mark.parametrize("faults", [1, 2, 7])
def test_of_versions_that_are_alike_nothing_is_won_by_comparing(weight: int, faults: int) -> None:
    share = weight / 10_000
    expected = sum(
        stats.binom.pmf(mine, faults, share)
        * compared_e_value(
            (DealtTrials(weight, TrialCounts(99, faults - mine), TrialCounts(99, mine)),),
            PairedTrials(),
        )
        for mine in range(faults + 1)
    )
    assert expected == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("rate", [0.001, 0.005, 0.01])
@pytest.mark.parametrize("trials", [1, 30, 100])
def test_of_versions_within_the_limit_nothing_is_won(rate: float, trials: int) -> None:
    expected = sum(
        stats.binom.pmf(k, trials, rate) * limit_e_value(TrialCounts(trials, k), 0.01)
        for k in range(trials + 1)
    )
    assert expected <= 1 + 1e-9
    if rate == 0.01:
        assert expected == pytest.approx(1.0, abs=1e-9)


def chance_of_ever_refuting(rate: float, trials: int) -> float:
    """Exactly: that a bound below ``rate`` is ever claimed of a version with that rate.

    Walks through all trials, with the chance of each count of faults that has not been refuted.
    """
    alive, most, refuted = {0: 1.0}, -1, 0.0
    for n in range(1, trials + 1):
        after: dict[int, float] = {}
        for k, chance in alive.items():
            after[k] = after.get(k, 0.0) + chance * (1 - rate)
            after[k + 1] = after.get(k + 1, 0.0) + chance * rate
        # The more trials, the more faults are compatible with a low bound; never fewer.
        while upper_bound(TrialCounts(n, most + 1)) < rate:
            most += 1
        refuted += sum(chance for k, chance in after.items() if k <= most)
        alive = {k: chance for k, chance in after.items() if k > most}
    return refuted


@pytest.mark.parametrize(("rate", "trials"), [(0.01, 1500), (0.05, 600), (0.3, 200)])
def test_the_bound_covers_at_every_look(rate: float, trials: int) -> None:
    """At ``rate`` = the limit this is also the chance that such a version is called good."""
    chance = chance_of_ever_refuting(rate, trials)
    assert 0.0 < chance <= ALPHA_GOOD


def test_good_is_said_exactly_where_the_bound_is_within_the_limit() -> None:
    for faults in range(4):
        for trials in range(10, 1500, 70):
            seen = TrialCounts(trials, faults)
            good = judge_version(seen, max_fault_rate=0.01).conclusion is Conclusion.GOOD
            assert good == (upper_bound(seen) <= 0.01)


# The verdict --------------------------------------------------------------------------------


def test_worse_weighs_both_parts() -> None:
    dealt = (DealtTrials(1000, TrialCounts(900, 1), TrialCounts(100, 9)),)
    verdict = judge_challenger(Evidence(dealt), max_fault_rate=0.01)
    compared, limited = (
        compared_e_value(dealt, PairedTrials()),
        limit_e_value(TrialCounts(100, 9), 0.01),
    )
    assert verdict.e_value == pytest.approx(
        COMPARED_SHARE * compared + (1 - COMPARED_SHARE) * limited, rel=1e-12
    )
    assert verdict.conclusion is Conclusion.WORSE
    assert (verdict.trials, verdict.faults) == (100, 9)


def test_faults_that_hit_both_alike_are_nobodys() -> None:
    """A market shock: a tenth of all requests fails, whoever answers; the limit is not reached."""
    shock = (DealtTrials(5000, TrialCounts(1000, 100), TrialCounts(1000, 100)),)
    assert compared_e_value(shock, PairedTrials()) < 1
    assert compared_e_value((), PairedTrials(1000, 100, 100)) < 1


def test_where_nothing_is_compared_the_limit_judges_alone() -> None:
    """At a share of one the champion is asked nothing."""
    everything = (DealtTrials(10_000, NOBODY, TrialCounts(100, 30)),)
    assert compared_e_value(everything, PairedTrials()) == pytest.approx(1.0, rel=1e-12)
    assert (
        judge_challenger(Evidence(everything), max_fault_rate=0.01).conclusion is Conclusion.WORSE
    )


def test_worse_is_said_before_good() -> None:
    seen = Evidence((DealtTrials(1000, TrialCounts(100_000, 0), TrialCounts(10_000, 50)),))
    verdict = judge_challenger(seen, max_fault_rate=0.01)
    assert verdict.upper_bound < 0.01
    assert verdict.conclusion is Conclusion.WORSE


def test_huge_counts_do_not_overflow() -> None:
    assert (
        judge_version(TrialCounts(10**7, 10**6), max_fault_rate=0.01).conclusion is Conclusion.WORSE
    )
    assert judge_version(TrialCounts(10**7, 0), max_fault_rate=0.01).conclusion is Conclusion.GOOD
    paired = Evidence(paired=PairedTrials(10**6, 10**5, 0))
    assert judge_challenger(paired, max_fault_rate=0.01).conclusion is Conclusion.WORSE


def test_a_verdict_reads_as_a_sentence() -> None:
    verdict = judge_version(TrialCounts(1000, 2), max_fault_rate=0.01)
    assert str(verdict).startswith("2 faults in 1000 trials, evidence for worse 3.18e-05 ")
    assert str(verdict).endswith("of 100, fault rate at most 0.90%")
    assert ALPHA_WORSE == 1 / 100


def test_the_odds_are_those_that_were_simulated() -> None:
    assert [float(t) for t in T] == list(ODDS)


# Gathering ----------------------------------------------------------------------------------


def live(**counts: object) -> object:
    return tally("rollout", source=Source.LIVE, **counts)


def test_requests_are_added_up_by_share() -> None:
    found = gather_evidence(
        [
            live(weight_bp=1000, champion_trials=90, champion_faults=1, challenger_trials=10),
            live(weight_bp=1000, replica_id="r1", champion_trials=9, challenger_trials=1),
            live(weight_bp=5000, step=1, champion_trials=5, challenger_trials=5),
        ]  # type: ignore[list-item]
    )
    assert found.dealt == (
        DealtTrials(1000, TrialCounts(99, 1), TrialCounts(11, 0)),
        DealtTrials(5000, TrialCounts(5, 0), TrialCounts(5, 0)),
    )
    assert found.challenger == TrialCounts(16, 0)


def test_of_replays_the_worst_counts_not_the_sum() -> None:
    """All replicas replay the same bars."""
    found = gather_evidence(
        [
            tally("rollout", replica_id="r0", challenger_trials=500, challenger_faults=1),
            tally("rollout", replica_id="r1", challenger_trials=500, challenger_faults=2),
            tally("rollout", replica_id="r2", challenger_trials=480, challenger_faults=2),
        ]
    )
    assert found.paired == PairedTrials(500, 2, 0)


def test_of_clean_replays_the_longest_counts() -> None:
    replays = [
        tally("rollout", replica_id=f"r{n}", challenger_trials=n, challenger_faults=0)
        for n in (10, 500, 20)
    ]
    assert gather_evidence(replays).paired == PairedTrials(500, 0, 0)


def test_mirrored_requests_are_added_up() -> None:
    found = gather_evidence(
        [
            tally("rollout", source=Source.MIRROR, challenger_trials=5, challenger_faults=1),
            tally(
                "rollout",
                source=Source.MIRROR,
                replica_id="r1",
                challenger_trials=7,
                champion_faults=2,
            ),
            tally("rollout", challenger_trials=100),
        ]
    )
    assert found.paired == PairedTrials(112, 1, 2)


def test_a_promoted_version_is_counted_as_the_champion_it_is() -> None:
    rows = [
        tally("champion:b", source=Source.LIVE, champion_trials=10, champion_faults=1),
        tally("champion:b", source=Source.LIVE, replica_id="r1", champion_trials=5),
    ]
    assert count_champion_trials(rows) == TrialCounts(15, 1)
    assert gather_evidence([], rows).promoted == TrialCounts(15, 1)
    assert gather_evidence([], rows).challenger == NOBODY
