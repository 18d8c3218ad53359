"""Services to which a person uploads one worthless model after another, each with a date.

Ledger, level and gates are those of `manager.judge_model`; forecasts and outcomes are drawn, and
nothing is fitted. Half of the services forecast a volatility over 24 bars, half the next return.
A worthless forecast of a volatility errs exactly as much as the baseline does, one of a return is
noise, without costs. From upload to upload the bars stay the same or grow by a day, and the
uploads are independent or share three quarters of their variance.

Beside it stands what would register if each upload were judged alone at a level of .05.
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.figure import Figure
from mlops.arrays import FloatArray
from mlops.search.trial_archive import TrialArchive
from mlops.service import Target
from mlops.store import open_store
from mlops.store.judgements import EvidenceKind
from mlops.store.ledger import YEARLY_ALPHA
from mlops.training.outside_forecasts import OutsideForecasts
from mlops.training.outside_judgement import (
    JudgingRules,
    OutsideVerdict,
    collect_evidence,
    judge_outside_forecasts,
)
from mlops.validation.evidence import Thresholds
from mlops.validation.forecasts import Forecasts
from mlops.validation.gates import judge

SEED = 20261201
SERVICES, UPLOADS, MOST_CHALLENGERS = 40, 50, 5
BARS, A_DAY = 600, 24
HOURS_A_YEAR = 8760.0
ALONE = 0.05
RULES = JudgingRules(thresholds=Thresholds(), fee_bps=0.0, yearly_alpha=YEARLY_ALPHA)
START = datetime(2025, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Uploads:
    """How the uploads of one service are drawn.

    Args:
        shared: Share of a forecast's variance that all uploads have in common.
        growth: Bars that come from upload to upload.
        skill: Share by which each upload's error is smaller than the baseline's; 0 for noise.
    """

    target: Target
    seed: int
    shared: float = 0.0
    growth: int = 0
    skill: float = 0.0

    def draw(self, uploads: int) -> list[OutsideForecasts]:
        """The forecasts of so many uploads in the order of their judgement."""
        rng = np.random.default_rng([SEED, self.seed])
        bars = BARS + self.growth * uploads
        is_volatility = self.target is Target.VOLATILITY
        world = _draw_volatility(rng, bars) if is_volatility else _draw_returns(rng, bars)
        common = _draw_error(rng, bars, 24 if is_volatility else 1)
        drawn = []
        for number in range(uploads):
            own = _draw_error(rng, bars, 24 if is_volatility else 1)
            error = np.sqrt(self.shared) * common + np.sqrt(1.0 - self.shared) * own
            forecast = _forecast_with(world, error, self.skill)
            rows = _first_rows(world.of(forecast), BARS + self.growth * number)
            drawn.append(_as_judged(rows))
        return drawn


def judge_uploads(uploads: Uploads, count: int, folder: Path) -> list[OutsideVerdict]:
    """Judge uploads of one service one after another, as `manager.judge_model` does."""
    store = open_store(f"sqlite:///{folder / 'store.db'}")
    archive = TrialArchive(folder / "studies")
    verdicts = [
        judge_outside_forecasts(
            store, archive, "service", f"upload-{number}", judged, recipe_digest="", rules=RULES
        )
        for number, judged in enumerate(uploads.draw(count))
    ]
    store.close()
    return verdicts


def count_alone(uploads: Uploads, count: int) -> int:
    """How many of the uploads pass if each is judged alone at a level of .05."""
    passed = 0
    for judged in uploads.draw(count):
        trials = {"alone": judged.rows.forecast}
        evidence = collect_evidence("alone", judged, trials, alpha=ALONE, fee_bps=RULES.fee_bps)
        passed += judge(evidence, RULES.thresholds).passed
    return passed


def plan_services(services: int) -> list[Uploads]:
    """So many services: both targets, growing and constant bars, alike and unlike uploads."""
    return [
        Uploads(
            (Target.VOLATILITY, Target.RETURN)[seed % 2],
            seed,
            shared=(0.0, 0.75)[seed // 2 % 2],
            growth=(0, A_DAY)[seed // 4 % 2],
        )
        for seed in range(services)
    ]


def figures(*, quick: bool) -> list[Figure]:
    """How many services register a challenger from worthless uploads alone."""
    services, uploads = (4, 6) if quick else (SERVICES, UPLOADS)
    planned = [(each, uploads) for each in plan_services(services)]
    context = get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        counted = list(pool.map(_count_challengers, planned))
    fell = sum(passed > 0 for passed, _ in counted)
    alone = sum(passed > 0 for _, passed in counted)
    return [
        Figure(
            f"{services} services, {uploads} worthless uploads each: a challenger (seed {SEED})",
            f"{fell} services",
            f"at most {MOST_CHALLENGERS}",
            fell <= MOST_CHALLENGERS,
            f"each upload judged alone at {ALONE:g}: {alone} services",
        )
    ]


def _count_challengers(planned: tuple[Uploads, int]) -> tuple[int, int]:
    uploads, count = planned
    with tempfile.TemporaryDirectory() as folder:
        verdicts = judge_uploads(uploads, count, Path(folder))
    return sum(one.report.passed for one in verdicts), count_alone(uploads, count)


def _draw_error(rng: np.random.Generator, bars: int, span: int) -> FloatArray:
    """Errors (n,) of unit variance, each a sum of as many shocks as a label has bars."""
    shocks = rng.standard_normal(bars + span - 1)
    sums: FloatArray = np.convolve(shocks, np.ones(span), "valid") / np.sqrt(span)
    return sums


def _draw_volatility(rng: np.random.Generator, bars: int) -> Forecasts:
    """Outcomes around a level that the baseline sees with an error of a standard size."""
    level = np.empty(bars)
    level[0] = rng.standard_normal()
    for bar in range(1, bars):
        level[bar] = 0.98 * level[bar - 1] + np.sqrt(1.0 - 0.98**2) * rng.standard_normal()
    outcome = level + 0.6 * _draw_error(rng, bars, 24)
    return _as_forecasts(
        Target.VOLATILITY,
        horizon=24,
        y=outcome,
        # The naive forecast keeps the level, so that forecasts by it foresee the moves.
        persistence=level + 0.6 * _draw_error(rng, bars, 24),
        baseline=level + 0.4 * _draw_error(rng, bars, 24),
        forecast=level,
        next_return=0.002 * rng.standard_normal(bars),
    )


def _draw_returns(rng: np.random.Generator, bars: int) -> Forecasts:
    returns = 0.002 * rng.standard_t(5, bars)
    return _as_forecasts(
        Target.RETURN,
        horizon=1,
        y=returns,
        persistence=np.zeros(bars),
        baseline=np.zeros(bars),
        forecast=returns,
        next_return=returns,
    )


def _forecast_with(world: Forecasts, error: FloatArray, skill: float) -> FloatArray:
    """Forecasts (n,) with an error; of a return noise that knows a share of the outcome."""
    if world.target is Target.VOLATILITY:
        return world.forecast + 0.4 * (1.0 - skill) * error
    return 0.0005 * error + skill * world.y


def _first_rows(rows: Forecasts, bars: int) -> Forecasts:
    arrays = {
        name: getattr(rows, name)[:bars]
        for name in ("made_at", "y", "forecast", "persistence", "baseline", "next_return", "fold")
    }
    return replace(rows, **arrays)


def _as_forecasts(
    target: Target, *, horizon: int, y: FloatArray, **columns: FloatArray
) -> Forecasts:
    opened = np.datetime64("2025-01-01", "ns")
    return Forecasts(
        target=target,
        horizon=horizon,
        made_at=opened + np.arange(len(y)) * np.timedelta64(1, "h"),
        y=y,
        fold=np.zeros(len(y), dtype=np.int64),
        **columns,
    )


def _as_judged(rows: Forecasts) -> OutsideForecasts:
    """Forecasts on the word of a caller, with a date before all of them."""
    return OutsideForecasts(
        kind=EvidenceKind.WORD,
        rows=rows,
        recorded=0,
        live=True,
        own_bars=True,
        trained_until=START,
        gap_bars=rows.horizon,
        bars_per_year=HOURS_A_YEAR,
        origin="drawn",
        bars_digest=f"{len(rows)}",
    )
