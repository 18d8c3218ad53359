"""Measures a record of forecasts: each metric with an interval, beside the baseline's value.

Intervals come from a circular block bootstrap. Its blocks are longer than the labels overlap, so
that h-bar labels do not count as h times the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np

from mlops.json_values import from_json, number, to_json
from mlops.service import Target
from mlops.stats import metrics, trading
from mlops.stats.dependence import block_length
from mlops.stats.metrics import ModelMetrics
from mlops.validation.forecasts import Forecasts
from mlops.validation.measures import (
    Measure,
    Sampler,
    direction_measures,
    error_measures,
    trading_measures,
)

__all__ = ["Evaluation", "FoldSkill", "Forecasts", "Measure", "evaluate", "fold_skills"]

REPS = 500
SEED = 20241205


@dataclass(frozen=True, slots=True)
class FoldSkill:
    """Skill 1 - loss / baseline loss on the ``n`` rows of one fold, from close to close (UTC)."""

    fold: int
    n: int
    skill: float
    start: str
    end: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All metrics of one record, by name: ``evaluation["mse"].value``.

    The metric ``r2_score`` compares with the mean of the tested outcomes (of a return, with 0),
    ``skill`` is 1 - loss / baseline loss, and ``mse_vs_baseline`` the ratio of the MSEs. Where the
    baseline takes no side, its hit rates are those without skill: the share of the more common
    side for the accuracy, the share of up for precision, recall and F1.

    Args:
        n: Rows with a finite forecast, of ``rows``.
        start: First close (UTC) of those rows; ``end`` is the last one.
        block: Length of a bootstrap block in rows.
        fee_bps: Costs of one turnover of the whole position, in basis points.
        coverage: Share of moving rows on which the forecast takes a side.
    """

    target: Target
    horizon: int
    n: int
    rows: int
    start: str
    end: str
    confidence_level: float
    block: int
    fee_bps: float
    bars_per_year: float
    n_trades: int
    coverage: float
    measures: tuple[Measure, ...]
    folds: tuple[FoldSkill, ...]

    def __getitem__(self, name: str) -> Measure:
        for measure in self.measures:
            if measure.name == name:
                return measure
        raise KeyError(f"no metric {name!r}; known: {', '.join(m.name for m in self.measures)}")

    @property
    def metrics(self) -> ModelMetrics:
        """The metrics by the platform's names; None where one is undefined."""
        return _model_metrics({m.name: m.value for m in self.measures})

    @property
    def baseline_metrics(self) -> ModelMetrics:
        """As `metrics`, of the baseline."""
        return _model_metrics({m.name: m.baseline for m in self.measures})

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; a number that is not finite becomes null with a flag beside it."""
        values: dict[str, Any] = to_json(asdict(self))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_dict` back, exactly."""
        known: dict[str, Any] = from_json(dict(values))
        known["target"] = Target(known["target"])
        known["measures"] = tuple(Measure(**m) for m in known["measures"])
        known["folds"] = tuple(FoldSkill(**f) for f in known["folds"])
        return cls(**known)

    def __str__(self) -> str:
        head = f"{self.target}, horizon {self.horizon}, n={self.n:,}, {self.start} to {self.end}"
        return "\n".join([head, *(f"  {measure}" for measure in self.measures)])


def _model_metrics(values: Mapping[str, float]) -> ModelMetrics:
    names = {f.name for f in fields(ModelMetrics)}
    return ModelMetrics(**{k: v for k, v in values.items() if k in names and not math.isnan(v)})


def evaluate(
    forecasts: Forecasts,
    *,
    bars_per_year: float,
    fee_bps: float,
    confidence_level: float = 0.95,
    reps: int = REPS,
    seed: int = SEED,
) -> Evaluation:
    """Measure a record of forecasts, without the rows that have no finite forecast.

    Args:
        fee_bps: Costs of one turnover of the whole position, in basis points.
        reps: Bootstrap repetitions.

    Raises:
        GateError: when no forecast is finite.
    """
    rows = forecasts.finite()
    block = block_length(len(rows), horizon=rows.horizon)
    sampler = Sampler(block=block, reps=reps, seed=seed, confidence_level=confidence_level)
    return Evaluation(
        target=rows.target,
        horizon=rows.horizon,
        n=len(rows),
        rows=len(forecasts),
        start=_iso(rows.made_at[0]),
        end=_iso(rows.made_at[-1]),
        confidence_level=confidence_level,
        block=block,
        fee_bps=fee_bps,
        bars_per_year=bars_per_year,
        n_trades=trading.count_trades(rows.positions()),
        coverage=number(metrics.direction_figures(*rows.moves()).coverage),
        measures=(
            *error_measures(rows, sampler),
            *direction_measures(rows, sampler),
            *trading_measures(rows, sampler, fee_bps=fee_bps, bars_per_year=bars_per_year),
        ),
        folds=fold_skills(rows),
    )


def fold_skills(rows: Forecasts) -> tuple[FoldSkill, ...]:
    """Skill against the baseline in each fold, in order."""
    losses, naive = rows.losses(), rows.of_baseline().losses()
    skills = []
    for fold in np.unique(rows.fold):
        here = np.flatnonzero(rows.fold == fold)
        skill = number(metrics.skill(losses[here], naive[here]))
        first, last = rows.made_at[here[0]], rows.made_at[here[-1]]
        skills.append(FoldSkill(int(fold), here.size, skill, _iso(first), _iso(last)))
    return tuple(skills)


def _iso(at: np.datetime64) -> str:
    return str(at.astype("datetime64[s]"))
