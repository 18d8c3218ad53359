"""Figures that a look at an A/B test reports and that never decide: hits, profit, regimes."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlops.ab_testing.pair_reading import Readings
from mlops.ab_testing.pairs import Pairs
from mlops.arrays import FloatArray
from mlops.stats.trading import net_returns
from mlops.validation.forecasts import Forecasts

REGIMES = ("low", "middle", "high")
"""Thirds of the pairs by persistence, the target's last known value."""

LEAST_REGIME_PAIRS = 30


def measure_secondary(readings: Readings, *, fee_bps: float) -> dict[str, Any]:
    """Losses, hits and net profit of both arms, and gains by regime; empty without pairs.

    Args:
        fee_bps: Costs of one turnover of the whole position, in basis points.
    """
    champion, challenger = readings.champion, readings.challenger
    if champion is None or challenger is None:
        return {}
    figures: dict[str, Any] = {
        "champion_loss": float(readings.pairs.champion_loss.mean()),
        "challenger_loss": float(readings.pairs.challenger_loss.mean()),
        "hits": {"champion": _hit_rate(champion), "challenger": _hit_rate(challenger)},
        "regimes": measure_regimes(readings.pairs, champion.persistence),
    }
    if champion.takes_sides:
        figures["net_return"] = {
            "champion": _net_return(champion, fee_bps),
            "challenger": _net_return(challenger, fee_bps),
        }
    return figures


def measure_regimes(pairs: Pairs, persistence: FloatArray) -> list[dict[str, Any]]:
    """For each third of the pairs by persistence: pairs, mean losses, the challenger's gain.

    Empty for fewer than `LEAST_REGIME_PAIRS` pairs a regime, or where persistence is constant.
    """
    if len(persistence) < LEAST_REGIME_PAIRS * len(REGIMES) or np.ptp(persistence) == 0.0:
        return []
    order = np.argsort(persistence, kind="stable")
    rows = []
    for name, places in zip(REGIMES, np.array_split(order, len(REGIMES)), strict=True):
        champion = float(pairs.champion_loss[places].mean())
        challenger = float(pairs.challenger_loss[places].mean())
        gain = 1.0 - challenger / champion if champion > 0.0 else None
        rows.append(
            {
                "regime": name,
                "pairs": len(places),
                "champion_loss": champion,
                "challenger_loss": challenger,
                "gain": gain,
            }
        )
    return rows


def _hit_rate(record: Forecasts) -> float | None:
    """Share of moves whose sign was forecast; None where nothing moved or was called."""
    move, called = record.moves()
    counted = (move != 0.0) & (called != 0.0)
    if not counted.any():
        return None
    return float((np.sign(move) == np.sign(called))[counted].mean())


def _net_return(record: Forecasts, fee_bps: float) -> float:
    """Summed simple returns after costs."""
    return float(net_returns(record.positions(), record.next_return, fee_bps=fee_bps).sum())
