"""Errors and power of A/B tests, with the delayed start and the normal mixture as boundaries.

Each figure is printed by the boundary and the variance that the product uses; beside it stand
the normal mixture with the same variance, and the same boundary with other variances. The normal
mixture finds faint differences sooner, but only where the length of a test is known beforehand
and it is never extended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Self

import numpy as np

from benchmarks.ab_harness import (
    PAIRS_A_LOOK,
    Ends,
    Floors,
    Looks,
    Runs,
    VarianceOfRecord,
    judge_by_looks,
    no_floor,
    variance_of_blocks,
)
from benchmarks.ab_losses import PairOfLosses, list_real_pairs, resample_tests
from benchmarks.ab_paths import (
    BARS_A_WEEK,
    RECORD_PAIRS,
    TEST_PAIRS,
    Paths,
    as_pairs,
    draw_better_challenger,
    draw_equal_pair,
    record_of,
)
from benchmarks.ab_stored import empty_store_file, run_stored_tests
from benchmarks.extra_series import NOT_RUN, list_extra_series
from benchmarks.figure import Figure
from mlops.ab_testing.decision import Record, Verdict, variance_of_record
from mlops.stats.confidence_sequence import DelayedStart, NormalMixture

ALPHA = 0.05
SEED = 20
EQUAL_RUNS, BETTER_RUNS, REAL_RUNS = 400, 200, 75
RUNS_A_DRAW = 50
"""Runs drawn at once; all together would not fit into memory beside other work."""

MAX_ERROR, MAX_CELL_ERROR, LEAST_NAIVE_ERROR = 0.05, 0.10, 0.25
LEAST_POWER, MOST_MEDIAN_PAIRS = 0.85, 1_800
FEW_RECORD_BLOCKS = (10, 15)
PAIRS_WITHOUT_RECORD = 8_640
TRUE_SHARE = 0.01
DECIDED = (Verdict.BETTER, Verdict.WORSE)
SAMPLE = 8
"""Runs of a figure that go through `judge_pairs` as well."""


Judged = Callable[[Looks, Sequence[Record]], Ends]


def judge_with(
    boundary: str = "delayed", variance: VarianceOfRecord = variance_of_record
) -> Judged:
    """The rule that ends tests: a boundary (delayed, mixture) and a variance of the record."""

    def judge(looks: Looks, records: Sequence[Record]) -> Ends:
        made: DelayedStart | NormalMixture = DelayedStart(looks.first, ALPHA)
        if boundary == "mixture":
            made = NormalMixture(TEST_PAIRS, ALPHA)
        return looks.judge(Floors.of(records, variance), made)

    return judge


PRODUCT = "delayed start"
RULES: dict[str, Judged] = {
    PRODUCT: judge_with(),
    "normal mixture": judge_with("mixture"),
    "delayed start, two-week blocks whether the record remembers or not": judge_with(
        variance=variance_of_blocks
    ),
    "delayed start, HAC of the test alone": judge_with(variance=no_floor),
}


@dataclass(frozen=True, slots=True, eq=False)
class Simulated:
    """Tests with the records of their past, and the losses that `judge_pairs` would read."""

    looks: Looks
    records: list[Record]

    @classmethod
    def of(cls, draws: Iterable[Paths]) -> Self:
        """Tests of the last 2,880 bars of each path; the bars before are the record."""
        champion, challenger, records = [], [], []
        for paths in draws:
            horizon = paths.horizon
            losses = paths.losses()
            for a, b in zip(*(loss[:, :-TEST_PAIRS] for loss in losses), strict=True):
                records.append(record_of(a, b, horizon, bars_a_week=BARS_A_WEEK))
            champion.append(losses[0][:, -TEST_PAIRS:])
            challenger.append(losses[1][:, -TEST_PAIRS:])
        loss = np.concatenate(champion)
        runs = Runs(loss - np.concatenate(challenger), loss, horizon)
        return cls(Looks(runs, bars_a_week=BARS_A_WEEK), records)

    def ends(self, rule: str) -> Ends:
        return RULES[rule](self.looks, self.records)

    def beside(self, tell: Callable[[Ends], str]) -> str:
        """What the other rules reach."""
        return "; ".join(f"{rule}: {tell(self.ends(rule))}" for rule in RULES if rule != PRODUCT)

    def differs_from_judge_pairs(self) -> int:
        """How many of a few runs `judge_pairs` ends at another look or in another verdict."""
        quick, runs = self.ends(PRODUCT), self.looks.runs
        differing = 0
        for run in range(min(SAMPLE, len(self.records))):
            loss = runs.champion_loss[run]
            pairs = as_pairs(loss, loss - runs.difference[run], runs.horizon)
            slow = judge_by_looks(pairs, self.records[run], alpha=ALPHA, bars_a_week=BARS_A_WEEK)
            said, found = (slow.words[0], slow.pairs[0]), (quick.words[run], quick.pairs[run])
            differing += said != found
        return differing


def draw_equal_tests(runs: int, horizon: int) -> Simulated:
    """A/A tests with a record of 26 two-week blocks."""
    rng = np.random.default_rng([SEED, horizon])
    bars = RECORD_PAIRS + TEST_PAIRS
    return Simulated.of(
        draw_equal_pair(rng, runs=part, bars=bars, horizon=horizon) for part in _parts(runs)
    )


def draw_better_tests(runs: int, r2: float, *, mirrored: bool = False) -> Simulated:
    """Tests of a better challenger, or champion, with a record of 26 two-week blocks."""
    rng = np.random.default_rng([SEED, round(1e4 * r2)])
    bars = RECORD_PAIRS + TEST_PAIRS
    draws = (draw_better_challenger(rng, runs=part, bars=bars, r2=r2) for part in _parts(runs))
    return Simulated.of(paths.mirrored() if mirrored else paths for paths in draws)


def _parts(runs: int) -> list[int]:
    whole, rest = divmod(runs, RUNS_A_DRAW)
    return [RUNS_A_DRAW] * whole + [rest] * (rest > 0)


def errors_of_equal_forecasts(runs: int, horizon: int) -> list[Figure]:
    """Decided A/A tests, beside a t-test that is looked at as often."""
    tests = draw_equal_tests(runs, horizon)
    what = f"A/A, {runs} tests of {TEST_PAIRS:,} pairs, {_looks_text(horizon)}"
    decided = tests.ends(PRODUCT).share(*DECIDED)
    naive = tests.looks.naive_share()
    return [
        Figure(
            f"{what}: better or worse",
            f"{decided:.1%}",
            f"<= {MAX_ERROR:.0%}",
            decided <= MAX_ERROR,
            tests.beside(lambda ends: f"{ends.share(*DECIDED):.1%}"),
        ),
        Figure(
            f"{what}: a t-test at 5 % finds a difference at some look",
            f"{naive:.0%}",
            f">= {LEAST_NAIVE_ERROR:.0%}: the harness sees the fault",
            naive >= LEAST_NAIVE_ERROR,
        ),
        _agreement(what, tests),
    ]


def _run_part_through_the_store(
    part: tuple[int, int, int],
) -> tuple[Sequence[Verdict | None], float]:
    """The verdicts of some tests, and the share that the naive test decides."""
    horizon, number, size = part
    rng = np.random.default_rng([SEED, horizon, number])
    bars = RECORD_PAIRS + TEST_PAIRS
    paths = draw_equal_pair(rng, runs=size, bars=bars, horizon=horizon)
    with empty_store_file() as template:
        ends, looks = run_stored_tests(paths, pairs=TEST_PAIRS, template=template)
    return ends.words, looks.naive_share()


def errors_through_the_store(runs: int, horizon: int) -> list[Figure]:
    """Decided A/A tests whose looks read the store, beside the naive test on the same losses."""
    parts = [(horizon, number, size) for number, size in enumerate(_parts(runs))]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        found = list(pool.map(_run_part_through_the_store, parts))
    words = [word for part, _ in found for word in part]
    naive = [share for part, share in found for _ in part]
    decided = float(np.mean([word in DECIDED for word in words]))
    t_test = float(np.mean(naive))
    what = f"A/A through store and outcomes, {runs} tests of {TEST_PAIRS:,} pairs, horizon"
    return [
        Figure(
            f"{what} {horizon}: better or worse",
            f"{decided:.1%}",
            f"<= {MAX_ERROR:.0%}",
            decided <= MAX_ERROR,
        ),
        Figure(
            f"{what} {horizon}: a t-test at 5 % finds a difference at some look",
            f"{t_test:.0%}",
            f">= {LEAST_NAIVE_ERROR:.0%}: the harness sees the fault",
            t_test >= LEAST_NAIVE_ERROR,
        ),
    ]


def _looks_text(horizon: int) -> str:
    return f"a look every {PAIRS_A_LOOK} pairs, horizon {horizon}"


def _agreement(what: str, tests: Simulated) -> Figure:
    differing = tests.differs_from_judge_pairs()
    sample = min(SAMPLE, len(tests.records))
    return Figure(
        f"{what}: verdict and look of the running sums",
        f"those of judge_pairs in {sample - differing} of {sample}",
        "all",
        differing == 0,
    )


def power(runs: int) -> list[Figure]:
    """A challenger that knows a share of the next return, and the same with arms exchanged."""
    found, faint = draw_better_tests(runs, 0.05), draw_better_tests(runs, 0.02)
    mirrored = draw_better_tests(runs, 0.05, mirrored=True).ends(PRODUCT)
    ends = found.ends(PRODUCT)
    share, median = ends.share(Verdict.BETTER), ends.median_pairs(Verdict.BETTER)
    worse, better = mirrored.share(Verdict.WORSE), mirrored.share(Verdict.BETTER)
    what = f"{runs} tests of {TEST_PAIRS:,} pairs, seed {SEED}, R2 of"
    return [
        Figure(
            f"{what} 5 %: better",
            f"{share:.1%}, median {median:,.0f} pairs",
            f">= {LEAST_POWER:.0%}, median <= {MOST_MEDIAN_PAIRS:,} pairs",
            share >= LEAST_POWER and median <= MOST_MEDIAN_PAIRS,
            found.beside(_tell_power),
        ),
        Figure(
            f"{what} 5 %, the champion's: worse, and better",
            f"{worse:.1%}, {better:.1%}",
            f">= {LEAST_POWER:.0%}, 0",
            worse >= LEAST_POWER and better == 0.0,
        ),
        Figure(
            f"{what} 2 %: better",
            _tell_power(faint.ends(PRODUCT)),
            "",
            True,
            faint.beside(_tell_power),
        ),
        _compare_boundaries(found),
        _agreement(f"{what} 5 %", found),
    ]


def _compare_boundaries(tests: Simulated) -> Figure:
    """The product keeps the boundary that needs fewer pairs; the errors of both stand above."""
    kept, other = (
        tests.ends(rule).median_pairs(Verdict.BETTER) for rule in (PRODUCT, "normal mixture")
    )
    return Figure(
        "R2 of 5 %: median pairs of the delayed start, which is kept",
        f"{kept:,.0f}",
        "not more than the normal mixture",
        kept <= other,
        f"normal mixture planned for {TEST_PAIRS:,} pairs: {other:,.0f}",
    )


def _tell_power(ends: Ends) -> str:
    median = ends.median_pairs(Verdict.BETTER)
    return f"{ends.share(Verdict.BETTER):.1%}, median {median:,.0f} pairs"


@dataclass(slots=True)
class Errors:
    """Shares of wrong verdicts by rule, one a half, block length and pair of a cell."""

    by_rule: dict[str, list[float]]

    @classmethod
    def of(
        cls, pairs: Iterable[PairOfLosses], runs: int, *, record_blocks: int | None = None
    ) -> Self:
        """Resampled tests of forecasters of equal mean loss."""
        errors = cls({rule: [] for rule in RULES})
        for pair in pairs:
            for tests in resample_tests(pair, runs=runs, record_blocks=record_blocks):
                looks = Looks(tests.runs, bars_a_week=pair.bars_a_week)
                for rule, judge in RULES.items():
                    ends = judge(looks, [tests.record])
                    errors.by_rule[rule].append(ends.share(*DECIDED))
        return errors

    def mean(self, rule: str = PRODUCT) -> float:
        return float(np.mean(self.by_rule[rule]))

    def beside(self) -> str:
        """What the other rules reach."""
        return "; ".join(f"{rule}: {self.mean(rule):.1%}" for rule in RULES if rule != PRODUCT)


def errors_on_real_losses(pairs: Sequence[PairOfLosses], runs: int) -> list[Figure]:
    """Wrong verdicts in each cell of series and horizon, and on average over the cells."""
    by_cell = _group_by_cell(pairs)
    errors = {cell: Errors.of(of_cell, runs) for cell, of_cell in by_cell.items()}
    figures = [
        Figure(
            f"{series}, volatility {horizon} bars ahead, equal mean loss: better or worse",
            f"{found.mean():.1%}",
            f"<= {MAX_CELL_ERROR:.0%}",
            found.mean() <= MAX_CELL_ERROR,
            found.beside(),
        )
        for (series, horizon), found in errors.items()
    ]
    mean = float(np.mean([found.mean() for found in errors.values()]))
    return [*figures, _mean_figure(f"the {len(errors)} cells on average", mean)]


def _group_by_cell(pairs: Sequence[PairOfLosses]) -> dict[tuple[str, int], list[PairOfLosses]]:
    by_cell: dict[tuple[str, int], list[PairOfLosses]] = {}
    for pair in pairs:
        by_cell.setdefault(pair.cell, []).append(pair)
    return by_cell


def _mean_figure(what: str, mean: float) -> Figure:
    return Figure(
        f"{what}: better or worse", f"{mean:.1%}", f"<= {MAX_ERROR:.0%}", mean <= MAX_ERROR
    )


def errors_of_short_records(pairs: Sequence[PairOfLosses], runs: int) -> list[Figure]:
    """The same with the least records that count."""
    figures = []
    for blocks in FEW_RECORD_BLOCKS:
        cells = [Errors.of(p, runs, record_blocks=blocks) for p in _group_by_cell(pairs).values()]
        means = [cell.mean() for cell in cells]
        mean, worst = float(np.mean(means)), max(means)
        figures.append(
            Figure(
                f"the cells with records of {blocks} blocks, on average and the worst",
                f"{mean:.1%}, {worst:.1%}",
                f"<= {MAX_ERROR:.0%}, {MAX_CELL_ERROR:.0%}",
                mean <= MAX_ERROR and worst <= MAX_CELL_ERROR,
                _beside_on_average(cells),
            )
        )
    return figures


def errors_without_record(pairs: Sequence[PairOfLosses], runs: int) -> list[Figure]:
    """The same without a record, by the blocks of longer tests."""
    shares = {
        cell: float(np.mean([_share_without_record(pair, runs) for pair in of_cell]))
        for cell, of_cell in _group_by_cell(pairs).items()
    }
    what = f"tests of {PAIRS_WITHOUT_RECORD:,} pairs without a record"
    figures = [
        Figure(
            f"{what}, {series}, volatility {horizon} bars ahead: better or worse",
            f"{share:.1%}",
            f"<= {MAX_CELL_ERROR:.0%}",
            share <= MAX_CELL_ERROR,
        )
        for (series, horizon), share in shares.items()
    ]
    return [*figures, _mean_figure(f"{what}, on average", float(np.mean(list(shares.values()))))]


def _share_without_record(pair: PairOfLosses, runs: int) -> float:
    shares = []
    for tests in resample_tests(pair, runs=runs, test_pairs=PAIRS_WITHOUT_RECORD):
        looks = Looks(tests.runs, bars_a_week=pair.bars_a_week)
        boundary = DelayedStart(looks.first, ALPHA)
        shares.append(looks.judge_without_record(boundary).share(*DECIDED))
    return float(np.mean(shares))


def _beside_on_average(cells: Sequence[Errors]) -> str:
    told = []
    for rule in (rule for rule in RULES if rule != PRODUCT):
        means = [cell.mean(rule) for cell in cells]
        told.append(f"{rule}: {np.mean(means):.1%}, {max(means):.1%}")
    return "; ".join(told)


def equivalence_of_unequal_forecasts(pairs: Sequence[PairOfLosses], runs: int) -> Figure:
    """How often a true difference of 1 % of the champion's loss is called equivalent."""
    shares = []
    for pair in pairs:
        for sign in (1.0, -1.0):
            for tests in resample_tests(pair, runs=runs, true_share=sign * TRUE_SHARE):
                looks = Looks(tests.runs, bars_a_week=pair.bars_a_week)
                ends = RULES[PRODUCT](looks, [tests.record])
                shares.append(ends.share(Verdict.EQUIVALENT))
    mean, worst = float(np.mean(shares)), max(shares)
    return Figure(
        f"real losses that differ by {TRUE_SHARE:.0%}: equivalent, on average and the worst",
        f"{mean:.1%}, {worst:.1%}",
        f"<= {MAX_ERROR:.0%}, {MAX_ERROR:.0%}",
        worst <= MAX_ERROR,
    )


def figures(*, quick: bool = False) -> list[Figure]:
    part = 10 if quick else 1
    found = [
        *errors_of_equal_forecasts(EQUAL_RUNS // part, 1),
        *errors_of_equal_forecasts(EQUAL_RUNS // part, 12),
        *errors_through_the_store(EQUAL_RUNS // part, 1),
        *errors_through_the_store(EQUAL_RUNS // part, 12),
        *power(BETTER_RUNS // part),
    ]
    pairs = list_real_pairs()
    runs = REAL_RUNS // (5 if quick else 1)
    found += errors_on_real_losses(pairs, runs)
    found += errors_of_short_records(pairs, runs)
    found += errors_without_record(pairs, runs // 3)
    found.append(equivalence_of_unequal_forecasts(pairs, runs))
    if not list_extra_series():
        found.append(Figure("losses of further series", NOT_RUN, "", holds=True))
    return found
