"""Lost skill is found at a stated rate of false alarms, and wilder markets are no lost skill."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from mlops.errors import SettingsError
from mlops.monitoring.performance.degradation import (
    Degradation,
    Losses,
    SkillStatus,
    judge_degradation,
)
from mlops.service import Target
from mlops.stats.window_null import MeanNull
from mlops.validation.forecasts import Forecasts

RHO = 0.15
"""Correlation of forecast and outcome, in units of the volatility: an R2 of 2.25 %."""
REFERENCE, GAP = 5000, 500
QUICK, FULL = 80, 300


@dataclass(frozen=True)
class Scene:
    """What happens in the window after the reference: its volatility and the forecasts' skill."""

    rise: float = 1.0
    skill: float = 1.0


UNCHANGED, WILDER, HALVED, GONE = Scene(), Scene(rise=1.5), Scene(skill=0.5), Scene(skill=0.0)


def records(scene: Scene, *, n: int, count: int, seed: int = 11) -> list[Forecasts]:
    """Forecasts of returns y = sigma (rho s + ...) with GARCH volatility; a window ends them.

    The forecast is sigma rho s, the baseline's 0; where skill goes, y no longer follows s.
    """
    rng = np.random.default_rng(seed)
    total = 300 + REFERENCE + GAP + n
    last = np.arange(total) >= total - n
    s, e = rng.standard_normal((2, total, count))
    rho = np.where(last, RHO * scene.skill, RHO)[:, None]
    shock = rho * s + np.sqrt(1.0 - rho**2) * e
    variance, sigma = np.ones(count), np.empty((total, count))
    for t in range(total):
        sigma[t] = np.sqrt(variance)
        variance = 0.02 + 0.08 * variance * shock[t] ** 2 + 0.90 * variance
    sigma *= np.where(last, scene.rise, 1.0)[:, None]
    y, forecast = sigma * shock, sigma * RHO * s
    return [returns(y[:, k], forecast[:, k]) for k in range(count)]


def paths(scene: Scene, *, n: int, count: int, seed: int = 11) -> list[tuple[Losses, Losses]]:
    """Losses of reference and window; what lies between them tells the window's scale."""
    first, total = 300 + REFERENCE, 300 + REFERENCE + GAP + n
    return [
        (Losses.of(cut(rows, 0, first), since=300), Losses.of(cut(rows, first, total), since=GAP))
        for rows in records(scene, n=n, count=count, seed=seed)
    ]


def returns(y: np.ndarray, forecast: np.ndarray) -> Forecasts:
    nothing = np.zeros(len(y))
    return Forecasts(
        target=Target.RETURN,
        horizon=1,
        made_at=np.arange(len(y)).astype("datetime64[ns]"),
        y=y,
        forecast=forecast,
        persistence=nothing,
        baseline=nothing,
        next_return=y,
        fold=np.zeros(len(y), dtype=np.int64),
    )


def cut(rows: Forecasts, first: int, last: int) -> Forecasts:
    return returns(rows.y[first:last], rows.forecast[first:last])


def alarms(scene: Scene, *, n: int, count: int) -> float:
    """Share of paths on which skill is said to be lost."""
    found = [judge_degradation(window, known) for known, window in paths(scene, n=n, count=count)]
    return float(np.mean([one.degraded for one in found]))


def mse_rule(scene: Scene, *, n: int, count: int) -> float:
    """Share of paths on which the mean squared error is 15 % above the reference's."""
    squares = [(rows.y - rows.forecast) ** 2 for rows in records(scene, n=n, count=count)]
    known = [square[300 : 300 + REFERENCE].mean() for square in squares]
    risen = [
        square[-n:].mean() > 1.15 * before for square, before in zip(squares, known, strict=True)
    ]
    return float(np.mean(risen))


def off(share: float, count: int) -> float:
    """Three standard errors of a share of so many paths."""
    return 3.0 * math.sqrt(share * (1.0 - share) / count)


def test_higher_volatility_alone_is_not_lost_skill() -> None:
    assert alarms(WILDER, n=500, count=QUICK) <= 0.08
    assert mse_rule(WILDER, n=500, count=QUICK) >= 0.8


def test_lost_skill_is_found() -> None:
    assert alarms(GONE, n=500, count=QUICK) >= 0.75


def test_nothing_changed_alarms_rarely() -> None:
    assert alarms(UNCHANGED, n=500, count=QUICK) <= 0.05 + off(0.05, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scene", "n", "least", "most"),
    [
        (UNCHANGED, 168, 0.0, 0.05 + off(0.05, FULL)),
        (UNCHANGED, 500, 0.0, 0.05 + off(0.05, FULL)),
        (WILDER, 168, 0.0, 0.08),
        (WILDER, 500, 0.0, 0.08),
        (HALVED, 500, 0.35 - off(0.35, FULL), 1.0),
        (GONE, 168, 0.49 - off(0.49, FULL), 1.0),
        (GONE, 500, 0.75, 1.0),
    ],
)
def test_false_alarms_and_power_are_those_documented(
    scene: Scene, n: int, least: float, most: float
) -> None:
    assert least <= alarms(scene, n=n, count=FULL) <= most


@pytest.mark.slow
@pytest.mark.parametrize("n", [168, 500])
def test_a_rule_on_errors_alarms_at_volatility_and_not_at_lost_skill(n: int) -> None:
    assert mse_rule(WILDER, n=n, count=FULL) >= 0.8
    assert mse_rule(GONE, n=n, count=FULL) - mse_rule(UNCHANGED, n=n, count=FULL) < 0.15


def example(scene: Scene = GONE, n: int = 168, **options: object) -> Degradation:
    ((known, window),) = paths(scene, n=n, count=1)
    return judge_degradation(window, known, **options)  # type: ignore[arg-type]


def test_a_verdict_says_what_it_rests_on() -> None:
    found = example(GONE, n=500)
    assert found.degraded
    assert found.status is SkillStatus.LOST
    assert (found.n, found.reference_n, found.threshold, found.alpha) == (500, 5000, 0.15, 0.05)
    assert found.p_value < 0.05
    assert found.share_lost == pytest.approx(1 - found.skill / found.skill_at_promotion)
    assert "of it lost" in found.reason


def test_a_verdict_is_json_without_bare_nan() -> None:
    found = example(n=10)
    read = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert read["status"] == "insufficient_data"
    assert (read["p_value"], read["degraded"]) == (None, False)


def test_both_significance_and_share_are_needed() -> None:
    assert example(GONE, n=500).degraded
    assert not example(GONE, n=500, alpha=1e-12).degraded
    assert not example(GONE, n=500, threshold=50.0).degraded


def test_the_share_is_of_the_skill_at_promotion_where_that_is_known() -> None:
    found = example(GONE, n=500, skill_at_promotion=0.5)
    assert found.skill_at_promotion == 0.5
    assert found.share_lost == pytest.approx(1 - found.skill / 0.5)


@pytest.mark.parametrize(
    ("n", "known", "says"),
    [
        (23, 5000, "23 bars with an outcome"),
        (0, 5000, "0 bars with an outcome"),
        (24, 999, "999 bars of reference"),
        (168, 1600, "judge at most 160 bars"),
    ],
)
def test_too_little_data_is_its_own_status(n: int, known: int, says: str) -> None:
    rng = np.random.default_rng(1)
    now, before = rng.exponential(size=(2, n)), rng.exponential(size=(2, known))
    found = judge_degradation(Losses(*now), Losses(*before), skill_at_promotion=0.1)
    assert found.status is SkillStatus.INSUFFICIENT_DATA
    assert says in found.reason
    assert not found.degraded


def test_a_reference_that_remembers_too_long_is_too_little() -> None:
    slow = np.linspace(9.0, 11.0, 2000)
    found = judge_degradation(Losses(slow[:168], slow[:168] + 1), Losses(slow, np.full(2000, 12.0)))
    assert found.status is SkillStatus.INSUFFICIENT_DATA
    assert found.independent < 6
    assert "independent windows" in found.reason


def test_the_baseline_itself_has_no_skill_to_lose() -> None:
    loss = np.random.default_rng(1).exponential(size=2000)
    found = judge_degradation(Losses(loss[:100], loss[:100]), Losses(loss, loss))
    assert found.status is SkillStatus.NO_SKILL


def test_a_version_that_was_worse_than_the_baseline_has_none_either() -> None:
    loss = np.random.default_rng(1).exponential(size=2000)
    found = judge_degradation(
        Losses(9 * loss[:100], loss[:100]), Losses(2 * loss + np.arange(2000) % 2, loss)
    )
    assert (found.status, found.degraded) == (SkillStatus.NO_SKILL, False)


def test_a_null_may_be_fitted_ahead() -> None:
    ((known, window),) = paths(GONE, n=168, count=1)
    null = MeanNull(known.excess, max_bars=None)
    assert judge_degradation(window, known, null=null) == judge_degradation(window, known)


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"alpha": 1.0}, {"threshold": -0.1}])
def test_levels_and_shares_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        example(**wrong)


def walk(target: Target, *, level: float, n: int = 300, horizon: int = 1) -> Forecasts:
    """A price that follows a random walk around ``level``, or its returns; seeded."""
    rng = np.random.default_rng(3)
    price = level * np.exp(np.cumsum(rng.normal(0, 0.01, n + horizon)))
    now, later = price[:n], price[horizon:]
    is_price = target is Target.PRICE
    base = now if is_price else np.zeros(n)
    y = later if is_price else np.log(later / now)
    return Forecasts(
        target=target,
        horizon=horizon,
        made_at=np.arange(n).astype("datetime64[ns]"),
        y=y,
        forecast=base + 0.1 * (y - base),
        persistence=base,
        baseline=base,
        next_return=np.zeros(n),
        fold=np.zeros(n, dtype=np.int64),
    )


def test_losses_of_a_price_do_not_grow_with_it() -> None:
    cheap, dear = (Losses.of(walk(Target.PRICE, level=level)) for level in (1.0, 1000.0))
    assert cheap.model == pytest.approx(dear.model)
    assert cheap.skill == pytest.approx(1 - 0.9**2)


@pytest.mark.parametrize("target", [Target.PRICE, Target.RETURN])
@pytest.mark.parametrize("horizon", [1, 5])
def test_the_usual_move_is_one_that_was_known_by_then(target: Target, horizon: int) -> None:
    rows = walk(target, level=100.0, horizon=horizon)
    changed = rows.y.copy()
    changed[200:] = rows.persistence[200:] * 1.5 + 0.5
    other = Losses.of(replace(rows, y=changed))
    left_out = 300 - len(other)
    assert left_out == 20 + horizon - 1
    unit = other.baseline[: 200 + horizon - left_out]
    error = (changed - rows.baseline)[left_out : 200 + horizon] ** 2
    same = Losses.of(rows)
    before = slice(None, 200 - left_out)
    assert unit[before] == pytest.approx(same.baseline[before])
    # The rows from 200 on err more, by the same unit as before.
    usual = (rows.y - rows.baseline)[left_out : 200 + horizon] ** 2 / same.baseline[: len(unit)]
    assert unit == pytest.approx(error / usual)


@pytest.mark.parametrize("target", [Target.VOLATILITY, Target.DIRECTION])
def test_losses_of_other_targets_are_the_gates_own(target: Target) -> None:
    rows = replace(walk(Target.RETURN, level=1.0), target=target)
    found = Losses.of(rows, since=100)
    assert found.model.tolist() == rows.losses()[100:].tolist()
    assert found.excess == pytest.approx(found.model - found.baseline)
