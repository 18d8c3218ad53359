"""The metrics of an evaluation: value, bootstrap interval, and the baseline's value beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlops.arrays import FloatArray
from mlops.json_values import number
from mlops.service import Target
from mlops.stats import metrics, trading
from mlops.stats.dependence import Interval, block_starts, bootstrap_means, interval_from_draws
from mlops.validation.forecasts import Forecasts

# Drawdowns are bootstrapped on whole paths. These bound the equity values that are held at once,
# and those of all paths: a long record draws fewer paths.
PATH_CELLS = 4_000_000
ALL_CELLS = 25_000_000
LEAST_PATHS = 100

Means = FloatArray
Formula = Callable[[Means], FloatArray]


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric: the model's value, its interval, and the baseline's value on the same rows."""

    name: str
    value: float
    low: float
    high: float
    baseline: float

    def __str__(self) -> str:
        interval = f"[{self.low:.4g}, {self.high:.4g}]"
        return f"{self.name} {self.value:.4g} {interval}, baseline {self.baseline:.4g}"


@dataclass(frozen=True, slots=True)
class Sampler:
    """Draws intervals by the circular block bootstrap: ``reps`` times blocks of ``block`` rows."""

    block: int
    reps: int
    seed: int
    confidence_level: float

    def interval(self, value: float, columns: FloatArray, formula: Formula) -> Interval:
        """Interval of a statistic that is a formula of the means of ``columns`` (n, k)."""
        means = bootstrap_means(columns, block=self.block, reps=self.reps, seed=self.seed)
        return self.around(value, formula(means), n=len(columns))

    def around(self, value: float, draws: FloatArray, *, n: int) -> Interval:
        """Interval of a statistic of ``n`` rows from its resampled values ``draws``."""
        return interval_from_draws(
            value, draws, n_blocks=n / self.block, confidence_level=self.confidence_level
        )

    def measure(
        self,
        name: str,
        value: float,
        baseline: float,
        columns: list[FloatArray],
        formula: Formula,
        *,
        most: float = np.inf,
    ) -> Measure:
        """A metric that is ``formula`` of the means of ``columns`` and at most ``most``."""
        interval = self.interval(value, np.stack(columns, axis=1), formula)
        low = max(interval.low, 0.0) if most == 1.0 else interval.low
        return Measure(name, number(value), low, min(interval.high, most), number(baseline))


def error_measures(rows: Forecasts, sampler: Sampler) -> tuple[Measure, ...]:
    """MSE, MAE, R2, skill and, for a direction, log loss."""
    y, naive = rows.y, rows.of_baseline()
    squares, naive_squares = (metrics.squared_error(y, r.forecast) for r in (rows, naive))
    losses, naive_losses = rows.losses(), naive.losses()
    measures = [
        _measure_mean(sampler, "mse", squares, naive_squares),
        _measure_mean(sampler, "mae", np.sqrt(squares), np.sqrt(naive_squares)),
        _measure_r2(rows, squares, naive_squares, sampler),
        sampler.measure(
            "skill",
            metrics.skill(losses, naive_losses),
            0.0,
            [losses, naive_losses],
            _skill_of_means,
        ),
        sampler.measure(
            "mse_vs_baseline",
            1.0 - metrics.skill(squares, naive_squares),
            1.0,
            [squares, naive_squares],
            _ratio,
        ),
    ]
    if rows.target is Target.DIRECTION:
        measures.append(_measure_mean(sampler, "log_loss", losses, naive_losses))
    return tuple(measures)


def _measure_mean(sampler: Sampler, name: str, model: FloatArray, naive: FloatArray) -> Measure:
    return sampler.measure(
        name, float(model.mean()), float(naive.mean()), [model], lambda m: m[..., 0]
    )


def _measure_r2(
    rows: Forecasts, squares: FloatArray, naive_squares: FloatArray, sampler: Sampler
) -> Measure:
    """Against the mean of the tested outcomes; of a return, against the forecast 0."""
    y = rows.y
    if rows.target is Target.RETURN:
        value, naive = metrics.skill(squares, y**2), metrics.skill(naive_squares, y**2)
        return sampler.measure("r2_score", value, naive, [squares, y**2], _skill_of_means)
    value, naive = metrics.r2_score(y, rows.forecast), metrics.r2_score(y, rows.baseline)
    centred = y - y.mean()

    def r2(means: Means) -> FloatArray:
        variance = means[..., 2] - means[..., 1] ** 2
        explained: FloatArray = 1.0 - _divide(means[..., 0], variance)
        return explained

    return sampler.measure("r2_score", value, naive, [squares, centred, centred**2], r2)


def direction_measures(rows: Forecasts, sampler: Sampler) -> tuple[Measure, ...]:
    """Accuracy, precision, recall and F1 of the called moves, up being positive."""
    move, called = rows.moves()
    figures = metrics.direction_figures(move, called)
    naive = metrics.direction_figures(move, rows.of_baseline().moves()[1])
    if not naive.coverage > 0:
        beside = (naive.base_rate, naive.up_rate, naive.up_rate, naive.up_rate)
    else:
        beside = (naive.accuracy, naive.precision, naive.recall, naive.f1_score)
    both = (move != 0) & (called != 0)
    up, said_up = both & (move > 0), both & (called > 0)
    # Both sides taken, agreed, both up, said up, went up: the columns of `_HIT_RATES`.
    flags = (both, both & ((move > 0) == (called > 0)), up & said_up, said_up, up)
    columns = [flag.astype(np.float64) for flag in flags]
    own = (figures.accuracy, figures.precision, figures.recall, figures.f1_score)
    return tuple(
        sampler.measure(name, value, base, columns, formula, most=1.0)
        for (name, formula), value, base in zip(_HIT_RATES.items(), own, beside, strict=True)
    )


def trading_measures(
    rows: Forecasts, sampler: Sampler, *, fee_bps: float, bars_per_year: float
) -> tuple[Measure, ...]:
    """Sharpe ratio, drawdown, win rate and profit factor of following the forecast."""
    own, naive = (
        trading.trading_figures(
            r.positions(), r.next_return, fee_bps=fee_bps, bars_per_year=bars_per_year
        )
        for r in (rows, rows.of_baseline())
    )
    net = trading.net_returns(rows.positions(), rows.next_return, fee_bps=fee_bps)
    won, traded = (net > 0).astype(np.float64), (net != 0).astype(np.float64)
    columns = [net, net**2, won, traded, np.maximum(net, 0.0), np.maximum(-net, 0.0)]
    bounds = sampler.around(own.max_drawdown, _resample_drawdowns(net, sampler), n=len(net))
    low, high = max(bounds.low, -1.0), min(bounds.high, 0.0)
    drawdown = Measure("max_drawdown", own.max_drawdown, low, high, naive.max_drawdown)

    def ratio(name: str, formula: Formula, *, most: float = np.inf) -> Measure:
        value, beside = getattr(own, name), getattr(naive, name)
        return sampler.measure(name, value, beside, columns, formula, most=most)

    def sharpe(means: Means) -> FloatArray:
        deviation = np.sqrt(np.maximum(means[..., 1] - means[..., 0] ** 2, 0.0))
        yearly: FloatArray = np.sqrt(bars_per_year) * _divide(means[..., 0], deviation)
        return yearly

    return (
        ratio("sharpe_ratio", sharpe),
        drawdown,
        ratio("win_rate", lambda m: _divide(m[..., 2], m[..., 3]), most=1.0),
        ratio("profit_factor", lambda m: _divide(m[..., 4], m[..., 5])),
    )


def _resample_drawdowns(net: FloatArray, sampler: Sampler) -> FloatArray:
    """Drawdown of each resampled path: the order of the bars matters, so paths are rebuilt."""
    reps = max(LEAST_PATHS, min(sampler.reps, ALL_CELLS // len(net)))
    starts = block_starts(len(net), block=sampler.block, reps=reps, seed=sampler.seed)
    within = np.arange(sampler.block)
    growth = np.log1p(np.maximum(net, -0.999_999))
    chunk = max(1, PATH_CELLS // len(net))
    falls = []
    for first in range(0, reps, chunk):
        rows = (starts[first : first + chunk, :, None] + within) % len(net)
        paths = np.cumsum(growth[rows.reshape(len(rows), -1)[:, : len(net)]], axis=1)
        peaks = np.maximum(np.maximum.accumulate(paths, axis=1), 0.0)
        falls.append(np.expm1((paths - peaks).min(axis=1)))
    drawdowns: FloatArray = np.minimum(np.concatenate(falls), 0.0)
    return drawdowns


def _divide(part: FloatArray, whole: FloatArray) -> FloatArray:
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    ratio: FloatArray = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio


def _ratio(means: Means) -> FloatArray:
    return _divide(means[..., 0], means[..., 1])


def _skill_of_means(means: Means) -> FloatArray:
    less: FloatArray = 1.0 - _ratio(means)
    return less


_HIT_RATES: dict[str, Formula] = {
    "accuracy": lambda m: _divide(m[..., 1], m[..., 0]),
    "precision": lambda m: _divide(m[..., 2], m[..., 3]),
    "recall": lambda m: _divide(m[..., 2], m[..., 4]),
    "f1_score": lambda m: _divide(2.0 * m[..., 2], m[..., 3] + m[..., 4]),
}
