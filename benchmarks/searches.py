"""Do searches refuse noise and find what is planted? The error and the power of the gates.

Each search is a whole training through `flows.train`: ten trials of two families on 10,000
simulated bars, the winner judged and registered.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.figure import Figure
from benchmarks.searching import Job, Outcome, run_jobs
from mlops.data.simulated_market import Form, Market
from mlops.data.simulator import SimulatedBars, simulate
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models.base import FitContext, build_forecaster, default_recipe
from mlops.models.recipe import Recipe
from mlops.models.small_networks import compact_config
from mlops.service import Target, Timeframe

HOUR = Timeframe("1h")
NEXT_BAR = TargetSpec(Target.RETURN, 1)
PLANTED_R2 = 0.02
FEE_BPS = 1.0
MARKETS = 5
"""Markets over which the skill of a network is averaged."""

SELECTION_SHARE = 0.2
WORKERS = 2
MINUTES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A kind of market, and how many of its searches may or must register a challenger."""

    name: str
    what: str
    r2: float
    fee_bps: float
    searches: int
    quick: int
    form: Form = Form.LINEAR
    at_most: int | None = None
    at_least: int | None = None

    def jobs(self, *, quick: bool) -> list[Job]:
        count = self.quick if quick else self.searches
        return [
            Job(case=self.name, number=n, r2=self.r2, form=self.form, fee_bps=self.fee_bps)
            for n in range(count)
        ]

    def figure(self, outcomes: Sequence[Outcome]) -> Figure:
        """The figure of this case's searches; what is asked is in proportion to their number."""
        registered, n = sum(one.registered for one in outcomes), len(outcomes)
        part = n / self.searches
        if self.at_most is not None:
            limit = math.ceil(self.at_most * part)
            asked, holds = f"at most {limit}", registered <= limit
        else:
            limit = math.floor((self.at_least or 0) * part)
            asked, holds = f"at least {limit}", registered >= limit
        measured = f"{registered} of {n} register a challenger"
        return Figure(self.what, measured, asked, holds, _beside(outcomes))


CASES = (
    Case(
        name="n",
        what="pure noise, no costs",
        r2=0.0,
        fee_bps=0.0,
        searches=40,
        quick=4,
        at_most=5,
    ),
    Case(
        name="l",
        what="linear R2 of 2 %, 1 bp",
        r2=PLANTED_R2,
        fee_bps=FEE_BPS,
        searches=20,
        quick=3,
        at_least=17,
    ),
    Case(
        name="i",
        what="interaction R2 of 2 %, 1 bp",
        r2=PLANTED_R2,
        form=Form.INTERACTION,
        fee_bps=FEE_BPS,
        searches=20,
        quick=3,
        at_least=14,
    ),
)


def _beside(outcomes: Sequence[Outcome]) -> str:
    backtest = sum(one.backtest_sharpe > 1 for one in outcomes)
    holdout = sum(one.holdout_sharpe > 1 for one in outcomes)
    refusals = Counter(name for one in outcomes for name in one.refused_by)
    why = ", ".join(f"{name} {count}" for name, count in sorted(refusals.items()))
    return (
        f"Sharpe > 1 would let through {backtest} by the best trial's walk-forward, "
        f"{holdout} by the winner's holdout; refusals: {why or 'none'}"
    )


def _patience(outcomes: Sequence[Outcome], seconds: float) -> Figure:
    each = float(np.mean([one.seconds for one in outcomes]))
    return Figure(
        f"all {len(outcomes)} searches",
        f"{seconds / 60:.0f} minutes",
        f"within {MINUTES}",
        seconds < MINUTES * 60,
        f"{each:.0f} s a search from bars to model card, {WORKERS} at a time",
    )


@dataclass(frozen=True, slots=True)
class Sight:
    """What one fitted model sees of fresh bars, returns in units of their true volatility.

    ``oracle`` is the correlation with the true expected return, ``r2`` the share of the next
    return's variance that the forecast explains.
    """

    oracle: float
    r2: float


def sight(recipe: Recipe, form: Form, *, seed: int, bars: int = 10_000) -> Sight:
    """Fit on one market's bars, forecast another's of the same law."""
    market = Market(r2=PLANTED_R2, form=form)
    known, fresh = (simulate(market, bars, seed=2 * seed + part) for part in range(2))
    dataset, unseen = _dataset(known), _dataset(fresh)
    forecaster = build_forecaster(recipe, NEXT_BAR)
    rows = np.flatnonzero(forecaster.ready(dataset) & dataset.labels.valid)
    cut = int(len(rows) * (1 - SELECTION_SHARE))
    forecaster.fit(dataset, rows[:cut], rows[cut:], FitContext(seed=seed))
    ready = np.flatnonzero(forecaster.ready(unseen) & unseen.labels.valid)
    unit = fresh.volatility[ready]
    forecast = forecaster.predict(unseen, ready) / unit
    true, outcome = fresh.expected_return[ready] / unit, unseen.labels.y[ready] / unit
    return Sight(
        oracle=float(np.corrcoef(forecast, true)[0, 1]),
        r2=float(1.0 - np.mean((outcome - forecast) ** 2) / np.mean(outcome**2)),
    )


def eyesight(*, markets: int = MARKETS, bars: int = 10_000) -> Figure:
    """That a small network sees the interaction and ridge does not."""
    recipes = {
        "network": default_recipe("lstm", NEXT_BAR, compact_config("lstm", NEXT_BAR)),
        "ridge": default_recipe("linear", NEXT_BAR),
    }
    seen = {
        name: [sight(recipe, Form.INTERACTION, seed=seed, bars=bars) for seed in range(markets)]
        for name, recipe in recipes.items()
    }
    oracle = {name: float(np.mean([one.oracle for one in found])) for name, found in seen.items()}
    r2 = {name: float(np.mean([one.r2 for one in found])) for name, found in seen.items()}
    return Figure(
        "interaction seen by one fit, fresh bars",
        f"network: correlation with the truth {oracle['network']:.2f}, R2 {r2['network']:.2%}",
        "the network sees it, ridge does not",
        oracle["network"] > 0.3 and r2["network"] > 0 and abs(oracle["ridge"]) < 0.15,
        f"ridge: {oracle['ridge']:.2f}, R2 {r2['ridge']:.2%}; the truth: 1, R2 {PLANTED_R2:.0%}; "
        f"means of {markets} markets of {bars:,} bars",
    )


def _dataset(bars: SimulatedBars) -> Dataset:
    return Dataset(bars.frame, timeframe=HOUR, target=NEXT_BAR)


def figures(*, quick: bool = False) -> list[Figure]:
    jobs = [job for case in CASES for job in case.jobs(quick=quick)]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    seen, began = eyesight(), time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="searches-") as folder,
        Progress(*columns, console=console) as bar,
    ):
        line = bar.add_task("searches", total=len(jobs))

        def tell(outcome: Outcome) -> None:
            bar.advance(line)
            if not console.is_terminal:
                console.print(_told(outcome), highlight=False, soft_wrap=True)

        outcomes = run_jobs(jobs, Path(folder), workers=WORKERS, tell=tell)
    found = [case.figure([one for one in outcomes if one.case == case.name]) for case in CASES]
    return [seen, *found, _patience(outcomes, time.monotonic() - began)]


def _told(outcome: Outcome) -> str:
    verdict = "challenger" if outcome.registered else f"refused by {', '.join(outcome.refused_by)}"
    return (
        f"{outcome.case}{outcome.number}: {verdict}; Sharpe ratio {outcome.backtest_sharpe:.2f} "
        f"walking forward, {outcome.holdout_sharpe:.2f} on the holdout; {outcome.seconds:.0f} s"
    )
