"""The verdict of an A/B test from its pairs, valid at every look.

d is the champion's loss minus the challenger's: above zero the challenger is better. The mean of
d has a confidence sequence (`loss_sequence`), so a test may be looked at after every bar and
extended at will; its variance is that of `loss_variance`. Nothing here reads a store or a clock.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from mlops.ab_testing.judgement_texts import (
    ON_THESE_BARS,
    count_pairs,
    describe_lead,
    describe_open_end,
    describe_range,
)
from mlops.ab_testing.loss_sequence import (
    LossSequence,
    count_first_pairs,
    count_pairs_to_see,
    find_visible_gain,
)
from mlops.ab_testing.loss_variance import (
    Record,
    VarianceSource,
    count_pairs_of_test_blocks,
    estimate_covariances,
    summarise_record,
    variance_of_record,
)
from mlops.ab_testing.pairs import Missing, Moment, Pairs, count_failures
from mlops.stats.confidence_sequence import DelayedStart
from mlops.store import Verdict

__all__ = [
    "Judgement",
    "LossFigures",
    "Missing",
    "Moment",
    "Pairs",
    "Record",
    "VarianceSource",
    "Verdict",
    "count_first_pairs",
    "count_pairs_of_test_blocks",
    "count_pairs_to_see",
    "find_visible_gain",
    "judge_pairs",
    "summarise_record",
    "variance_of_record",
]

EQUIVALENCE_SHARE = 0.005
"""Share of the champion's loss below which two versions are equivalent."""

MIN_BARS_OF_SHARES = 100
"""Bars of a test from which the share of missing rows counts."""

MIN_FAILURES = 5
MAX_FAILURE_SHARE = 0.01
MAX_REPLICA_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class LossFigures:
    """What the pairs say of the losses; None where too few pairs say nothing.

    ``variance`` is the long-run variance of one pair, ``z`` the mean in standard errors, ``low``
    and ``high`` bound the mean difference, ``relative_low`` and ``relative_high`` its share of
    the champion's loss. ``zone_low`` is the lower bound of the mean of d + 0.005 L, ``zone_high``
    the upper bound of the mean of d - 0.005 L. ``p`` is the least always-valid p-value so far.
    ``pairs_needed`` is how many pairs would decide if mean and variance stayed as they are.
    """

    pairs: int
    p: float
    pairs_needed: int | None
    mean: float | None = None
    variance: float | None = None
    variance_source: VarianceSource | None = None
    standard_error: float | None = None
    z: float | None = None
    low: float | None = None
    high: float | None = None
    relative_low: float | None = None
    relative_high: float | None = None
    zone_low: float | None = None
    zone_high: float | None = None
    is_zero: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement(LossFigures):
    """The figures of a look, its verdict, None while the test goes on, and a sentence of why."""

    word: Verdict | None
    text: str


def judge_pairs(
    pairs: Pairs,
    record: Record | None,
    missing: Missing,
    moment: Moment,
    *,
    alpha: float,
    bars_per_week: float,
    lowest_p: float = 1.0,
) -> Judgement:
    """Judge a test at one look; pairs with a loss that is not finite do not count.

    The first rule that applies decides: failures and missing rows; nothing before enough pairs;
    worse; after the least duration better, else equivalent; at the end inconclusive.

    Args:
        pairs: The matured pairs of the test.
        record: Blocks of the pair's common past, None where they are fewer than ten.
        alpha: The probability that any look calls equal versions better or worse.
        bars_per_week: Bars that the market has in a week.
        lowest_p: The least p-value of earlier looks.

    Raises:
        GateError: when alpha is not between 0 and 1.
    """
    figures = measure_pairs(
        pairs, record, alpha=alpha, bars_per_week=bars_per_week, lowest_p=lowest_p
    )
    basis = f"over {count_pairs(figures.pairs)}{'' if record is not None else ON_THESE_BARS}"
    word, text = (
        _judge_missing(missing)
        or _judge_losses(figures, moment, basis)
        or _judge_end(figures, moment, basis)
    )
    return Judgement(word=word, text=text, **asdict(figures))


def measure_pairs(
    pairs: Pairs,
    record: Record | None,
    *,
    alpha: float,
    bars_per_week: float,
    lowest_p: float = 1.0,
) -> LossFigures:
    """The figures of `judge_pairs`, of the pairs whose losses are both finite."""
    known = pairs.finite()
    columns, horizon = known.loss_columns(), known.horizon
    boundary = DelayedStart(first=count_first_pairs(horizon), alpha=alpha)
    first = boundary.first
    if record is None:
        least = count_pairs_of_test_blocks(horizon=horizon, bars_per_week=bars_per_week)
        first = max(first, least)
    if len(columns) < 2:
        return LossFigures(pairs=len(columns), p=lowest_p, pairs_needed=first)
    covariances = estimate_covariances(
        columns, record, horizon=horizon, bars_per_week=bars_per_week
    )
    sequence = LossSequence(columns, covariances, boundary)
    variance = sequence.covariance()
    figures = LossFigures(
        pairs=sequence.n,
        p=lowest_p,
        pairs_needed=first,
        mean=sequence.mean(),
        variance=variance.of(0.0),
        variance_source=variance.source,
        standard_error=sequence.standard_error(),
        z=sequence.mean() / sequence.standard_error() if sequence.varies else None,
        # Identical forecasts need no variance, so they need no blocks either.
        is_zero=sequence.is_zero and sequence.n >= boundary.first,
    )
    return figures if sequence.n < first else _with_bounds(figures, sequence)


def _with_bounds(figures: LossFigures, sequence: LossSequence) -> LossFigures:
    low, high = sequence.bounds()
    relative_low, relative_high = sequence.relative_bounds()
    return replace(
        figures,
        p=min(figures.p, sequence.p_value()),
        pairs_needed=_count_pairs_to_decide(sequence),
        low=low,
        high=high,
        relative_low=relative_low,
        relative_high=relative_high,
        zone_low=sequence.bounds(-EQUIVALENCE_SHARE)[0],
        zone_high=sequence.bounds(EQUIVALENCE_SHARE)[1],
    )


def _count_pairs_to_decide(sequence: LossSequence) -> int | None:
    """Pairs until a difference or equivalence shows, if mean and variance stay as they are."""
    difference = sequence.pairs_to_see(abs(sequence.mean()), share=0.0)
    below = sequence.pairs_to_see(-sequence.mean(EQUIVALENCE_SHARE), share=EQUIVALENCE_SHARE)
    above = sequence.pairs_to_see(sequence.mean(-EQUIVALENCE_SHARE), share=-EQUIVALENCE_SHARE)
    equivalence = None if below is None or above is None else max(below, above)
    return min((n for n in (difference, equivalence) if n is not None), default=None)


def _judge_missing(missing: Missing) -> tuple[Verdict, str] | None:
    """Failures of an arm, and rows that the replicas did not write, before any loss."""
    if missing.bars < MIN_BARS_OF_SHARES:
        return None
    for arm, rows, verdict in (
        ("challenger", missing.challenger, Verdict.WORSE),
        ("champion", missing.champion, Verdict.INVALID),
    ):
        failures = count_failures(rows)
        if failures >= MIN_FAILURES and failures > MAX_FAILURE_SHARE * missing.bars:
            return verdict, (
                f"The {arm} does not answer: it failed or overran its time on {failures:,} of "
                f"{missing.bars:,} bars, allowed is {MAX_FAILURE_SHARE:.0%}."
            )
    if missing.replica_rows > MAX_REPLICA_SHARE * missing.bars:
        return Verdict.INVALID, (
            f"The test is invalid: on {missing.replica_rows:,} of {missing.bars:,} bars one arm "
            f"has no forecast for its replica's reasons, allowed is {MAX_REPLICA_SHARE:.0%}."
        )
    return None


def _judge_losses(figures: LossFigures, moment: Moment, basis: str) -> tuple[Verdict, str] | None:
    """Worse at any time; better and equivalent after the least duration."""
    lead = describe_lead(figures.relative_low, figures.relative_high)
    differs = figures.z is not None and not figures.is_zero
    if differs and figures.high is not None and figures.high < 0.0:
        return Verdict.WORSE, f"The challenger is worse: its loss is {lead}, {basis}."
    if not moment.may_win:
        return None
    if differs and figures.low is not None and figures.low > 0.0:
        return Verdict.BETTER, f"The challenger is better: its loss is {lead}, {basis}."
    if figures.is_zero:
        return Verdict.EQUIVALENT, f"The two are equivalent: their losses are equal, {basis}."
    if _is_in_zone(figures):
        return Verdict.EQUIVALENT, (
            f"The two are equivalent: their losses differ by less than {EQUIVALENCE_SHARE:.1%} "
            f"of the champion's, {basis}."
        )
    return None


def _is_in_zone(figures: LossFigures) -> bool:
    if figures.zone_low is None or figures.zone_high is None:
        return False
    return figures.zone_high < 0.0 < figures.zone_low


def _judge_end(figures: LossFigures, moment: Moment, basis: str) -> tuple[Verdict | None, str]:
    """Inconclusive at the end, or no verdict yet."""
    if figures.low is None or figures.high is None:
        known = f"{count_pairs(figures.pairs)} of {figures.pairs_needed:,} that a verdict needs"
    else:
        half = 0.5 * (figures.high - figures.low)
        found = describe_range(figures.relative_low, figures.relative_high)
        needed = describe_open_end(figures.pairs_needed)
        known = f"{found}, {basis} (mean difference {figures.mean:.4g} ± {half:.4g}); {needed}"
    if moment.is_over:
        return Verdict.INCONCLUSIVE, f"The test is inconclusive: {known}."
    return None, f"No verdict yet: {known}."
