"""Which verdict follows from which pairs, in which order, and how often it is wrong."""

import numpy as np
import pytest

from benchmarks.ab_harness import judge_by_looks
from benchmarks.ab_paths import (
    BARS_A_WEEK,
    RECORD_PAIRS,
    TEST_PAIRS,
    as_pairs,
    draw_better_challenger,
    draw_equal_pair,
    record_of,
)
from mlops.ab_testing.decision import (
    Missing,
    Moment,
    Pairs,
    Record,
    VarianceSource,
    Verdict,
    judge_pairs,
)
from mlops.errors import GateError

SEEDS = 40
OPEN, MAY_WIN, OVER = (
    Moment(may_win=False, is_over=False),
    Moment(may_win=True, is_over=False),
    Moment(may_win=True, is_over=True),
)
NOTHING_MISSING = Missing(bars=1000, holes=0, champion={}, challenger={})
CALM = Record(
    blocks=26, block_bars=336, variance_difference=1e-4, variance_loss=1e-2, covariance=0.0
)
"""Its least long-run variance of d is .044."""


def make_pairs(n, *, gain=0.0, seed=1, horizon=1):
    rng = np.random.default_rng(seed)
    loss = 1.0 + 0.2 * rng.standard_normal(n)
    return as_pairs(loss, loss - gain - 0.2 * rng.standard_normal(n), horizon)


def judge(pairs, record=CALM, missing=NOTHING_MISSING, moment=MAY_WIN, **options):
    return judge_pairs(
        pairs, record, missing, moment, **{"alpha": 0.05, "bars_per_week": 168, **options}
    )


def test_a_smaller_loss_is_better_once_the_least_duration_is_over():
    pairs = make_pairs(1000, gain=0.1)
    assert judge(pairs, moment=OPEN).word is None
    found = judge(pairs)
    assert found.word is Verdict.BETTER
    assert 0.0 < found.low < found.mean < found.high
    assert 0.0 < found.relative_low < 0.1 < found.relative_high
    assert found.p < 0.05
    assert found.text == (
        f"The challenger is better: its loss is {100 * found.relative_low:.1f} % to "
        f"{100 * found.relative_high:.1f} % smaller than the champion's, over 1,000 pairs."
    )


def test_a_larger_loss_is_worse_at_any_time():
    found = judge(make_pairs(1000, gain=-0.1), moment=OPEN)
    assert found.word is Verdict.WORSE
    assert found.high < 0.0
    assert "larger than the champion's" in found.text


def test_small_differences_that_are_bounded_are_equivalent():
    """The half-width of 40,000 pairs is .0040, that of 20,000 is .0056 of a loss of 1."""
    assert judge(make_pairs(20_000)).word is None
    found = judge(make_pairs(40_000))
    assert found.word is Verdict.EQUIVALENT
    assert found.zone_high < 0.0 < found.zone_low
    assert judge(make_pairs(40_000), moment=OPEN).word is None


@pytest.mark.parametrize("record", [CALM, None])
def test_equal_losses_are_equivalent_from_the_first_look_on(record):
    loss = np.random.default_rng(1).chisquare(1, 100)
    assert judge(as_pairs(loss, loss, 1), record).word is Verdict.EQUIVALENT
    assert judge(as_pairs(loss[:99], loss[:99], 1), record).word is None
    assert judge(as_pairs(np.zeros(100), np.zeros(100), 1), record).word is Verdict.EQUIVALENT


def test_a_difference_that_never_varies_is_no_verdict():
    loss = np.ones(4000)
    still = Record(
        blocks=26, block_bars=336, variance_difference=0.0, variance_loss=0.0, covariance=0.0
    )
    for record in (still, None):
        found = judge(as_pairs(loss, loss - 0.5, 1), record)
        assert found.word is None
        assert (found.z, found.p) == (None, 1.0)


@pytest.mark.parametrize(("horizon", "first"), [(1, 100), (24, 480)])
def test_nothing_is_said_before_the_first_look(horizon, first):
    early = judge(make_pairs(first - 1, gain=5.0, horizon=horizon))
    assert (early.word, early.low, early.p) == (None, None, 1.0)
    assert early.pairs_needed == first
    assert early.text == f"No verdict yet: {first - 1} pairs of {first} that a verdict needs."
    assert judge(make_pairs(first, gain=5.0, horizon=horizon)).word is Verdict.BETTER


@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_test_with_hardly_a_pair_is_inconclusive_at_its_end(n):
    found = judge(make_pairs(n), moment=OVER)
    assert (found.word, found.pairs) == (Verdict.INCONCLUSIVE, n)
    assert "of 100 that a verdict needs" in found.text


@pytest.mark.parametrize("bars_per_week", [168, 35])
def test_without_a_record_ten_blocks_come_before_any_verdict(bars_per_week):
    pairs = make_pairs(10 * 336, gain=0.1)
    early_pairs = as_pairs(pairs.champion_loss[1:], pairs.challenger_loss[1:], 1)
    early = judge(early_pairs, None, bars_per_week=bars_per_week)
    assert (early.word, early.pairs_needed) == (None, 3360)
    found = judge(pairs, None, bars_per_week=bars_per_week)
    assert found.word is Verdict.BETTER
    assert found.variance_source is VarianceSource.TEST_BLOCKS
    assert found.text.endswith("over 3,360 pairs, on the bars of this test.")


def test_an_open_test_is_inconclusive_at_its_end():
    going_on, ended = judge(make_pairs(500)), judge(make_pairs(500), moment=OVER)
    assert (going_on.word, ended.word) == (None, Verdict.INCONCLUSIVE)
    assert going_on.text.startswith("No verdict yet: the challenger's loss is ")
    assert ended.text.startswith("The test is inconclusive: the challenger's loss is ")
    assert f"about {ended.pairs_needed:,} pairs would decide it" in ended.text


def test_the_variance_is_the_larger_one_and_names_its_source():
    wild = Record(
        blocks=26, block_bars=336, variance_difference=1e-2, variance_loss=1e-2, covariance=0.0
    )
    quiet = Record(
        blocks=26, block_bars=336, variance_difference=1e-9, variance_loss=1e-9, covariance=0.0
    )
    held, free = judge(make_pairs(500), wild), judge(make_pairs(500), quiet)
    assert held.variance_source is VarianceSource.RECORD
    assert held.variance == pytest.approx(1.319975 * 336 * 1e-2, rel=1e-5)
    assert free.variance_source is VarianceSource.HAC
    assert free.standard_error == pytest.approx(np.sqrt(free.variance / 500))
    assert free.z == pytest.approx(free.mean / free.standard_error)


def test_p_is_the_least_so_far():
    assert judge(make_pairs(500), lowest_p=0.01).p == 0.01
    assert judge(make_pairs(50), lowest_p=0.01).p == 0.01
    assert judge(make_pairs(1000, gain=0.1), lowest_p=0.9).p < 0.01


def test_pairs_without_a_loss_do_not_count():
    pairs = make_pairs(1000, gain=0.1)
    pairs.champion_loss[::2] = np.nan
    pairs.challenger_loss[1::4] = np.inf
    kept = slice(3, None, 4)
    found = judge(pairs)
    expected = judge(
        Pairs(
            horizon=1,
            closed_at=pairs.closed_at[kept],
            champion_loss=pairs.champion_loss[kept],
            challenger_loss=pairs.challenger_loss[kept],
        )
    )
    assert found == expected
    assert found.pairs == 250


def missing_rows(arm, bars=1000, **reasons):
    other = {"champion": "challenger", "challenger": "champion"}[arm]
    return Missing(bars=bars, holes=0, **{arm: reasons, other: {}})


@pytest.mark.parametrize(
    ("missing", "word"),
    [
        (missing_rows("challenger", fault=11), Verdict.WORSE),
        (missing_rows("challenger", fault=6, time_budget=5), Verdict.WORSE),
        (missing_rows("challenger", fault=10), Verdict.BETTER),
        (missing_rows("champion", fault=11), Verdict.INVALID),
        (missing_rows("champion", fault=10), Verdict.BETTER),
        (missing_rows("challenger", bars=100, fault=5), Verdict.WORSE),
        (missing_rows("challenger", bars=100, fault=4), Verdict.BETTER),
        (missing_rows("challenger", bars=99, fault=50), Verdict.BETTER),
        (missing_rows("challenger", not_loaded=51), Verdict.INVALID),
        (missing_rows("champion", unknown=51), Verdict.INVALID),
        (missing_rows("challenger", not_loaded=50), Verdict.BETTER),
        (missing_rows("challenger", bars=99, not_loaded=90), Verdict.BETTER),
    ],
)
def test_missing_rows_decide_before_losses(missing, word):
    assert judge(make_pairs(1000, gain=0.1), missing=missing).word is word


def test_a_version_that_fails_does_not_answer():
    found = judge(make_pairs(3), missing=missing_rows("challenger", time_budget=20), moment=OPEN)
    assert found.word is Verdict.WORSE
    assert found.text == (
        "The challenger does not answer: it failed or overran its time on 20 of 1,000 bars, "
        "allowed is 1%."
    )


def test_rows_that_both_arms_lack_for_the_replicas_reasons_add_up():
    missing = Missing(
        bars=1000, holes=200, champion={"not_loaded": 30}, challenger={"not_loaded": 30}
    )
    found = judge(make_pairs(1000), missing=missing)
    assert found.word is Verdict.INVALID
    assert "on 60 of 1,000 bars" in found.text


def test_an_alpha_that_is_no_probability_is_refused():
    with pytest.raises(GateError, match="between 0 and 1"):
        judge(make_pairs(200), alpha=1.5)


def end_of_each_seed(draw):
    """Verdicts of 40 tests with a record of 26 two-week blocks, looked at every 60 pairs."""
    words = []
    for seed in range(SEEDS):
        paths = draw(np.random.default_rng([7, seed]))
        past, test = slice(None, RECORD_PAIRS), slice(RECORD_PAIRS, None)
        champion, challenger = (loss[0] for loss in paths.losses())
        horizon = paths.horizon
        record = record_of(champion[past], challenger[past], horizon, bars_a_week=BARS_A_WEEK)
        pairs = as_pairs(champion[test], challenger[test], horizon)
        ends = judge_by_looks(pairs, record, alpha=0.05, bars_a_week=BARS_A_WEEK)
        words.append(ends.words[0])
    return words


BARS = RECORD_PAIRS + TEST_PAIRS


@pytest.mark.parametrize("horizon", [1, 12])
def test_equal_forecasts_are_hardly_ever_told_apart(horizon):
    """An error of 5 % lets at most 5 of 40 through with a probability of 99 %."""
    words = end_of_each_seed(lambda rng: draw_equal_pair(rng, runs=1, bars=BARS, horizon=horizon))
    assert sum(word in {Verdict.BETTER, Verdict.WORSE} for word in words) <= 5


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_challenger_that_knows_a_twentieth_of_the_variance_is_found(mirrored):
    def draw(rng):
        paths = draw_better_challenger(rng, runs=1, bars=BARS, r2=0.05)
        return paths.mirrored() if mirrored else paths

    words = end_of_each_seed(draw)
    right, wrong = Verdict.BETTER, Verdict.WORSE
    if mirrored:
        right, wrong = wrong, right
    assert words.count(right) >= 30
    assert wrong not in words
