"""What a verdict rests on: losses of both arms on common bars, and bars that an arm lacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mlops.arrays import FloatArray, TimeArray
from mlops.errors import GateError

MODEL_REASONS = ("fault", "time_budget")
"""Reasons of a missing row that count against the arm; all others are the replica's."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Pairs:
    """Bars that both arms forecast and whose outcome is known, in time order.

    Args:
        horizon: Bars that a forecast looks ahead.
        closed_at: Close of each bar, UTC ``(n,)``.
        champion_loss: Comparable loss of the champion ``(n,)``; NaN where it has none.
        challenger_loss: Comparable loss of the challenger ``(n,)``; NaN where it has none.

    Raises:
        GateError: when the columns differ in length, or the times do not increase.
    """

    horizon: int
    closed_at: TimeArray
    champion_loss: FloatArray
    challenger_loss: FloatArray

    def __post_init__(self) -> None:
        sizes = (self.closed_at.size, self.champion_loss.size, self.challenger_loss.size)
        if len(set(sizes)) != 1:
            raise GateError(
                f"times and losses of the arms have {sizes} rows; give one row for each pair"
            )
        if (np.diff(self.closed_at) <= np.timedelta64(0)).any():
            raise GateError("the times of the pairs do not increase; sort them, one row a bar")

    def finite(self) -> Pairs:
        """The pairs whose losses are both finite."""
        kept = np.isfinite(self.champion_loss) & np.isfinite(self.challenger_loss)
        if kept.all():
            return self
        return Pairs(
            horizon=self.horizon,
            closed_at=self.closed_at[kept],
            champion_loss=self.champion_loss[kept],
            challenger_loss=self.challenger_loss[kept],
        )

    def loss_columns(self) -> FloatArray:
        """Loss difference (champion - challenger) and the champion's loss, ``(n, 2)``."""
        return np.stack([self.champion_loss - self.challenger_loss, self.champion_loss], axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Bars of a test, and the forecast rows that one arm lacks while the other has its own.

    Args:
        bars: Bars of the test so far.
        holes: Bars without a row of either arm.
        champion: Missing rows of the champion by reason: fault, time_budget, not_loaded, unknown.
        challenger: The same of the challenger.
    """

    bars: int
    holes: int
    champion: Mapping[str, int]
    challenger: Mapping[str, int]

    @property
    def replica_rows(self) -> int:
        """Missing rows of both arms that no version is to blame for."""
        arms = (self.champion, self.challenger)
        return sum(n for arm in arms for reason, n in arm.items() if reason not in MODEL_REASONS)


def count_failures(arm: Mapping[str, int]) -> int:
    """Missing rows of an arm for which its version is to blame."""
    return sum(arm.get(reason, 0) for reason in MODEL_REASONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Where a test stands.

    Args:
        may_win: Its least duration has matured.
        is_over: Its last bar has matured.
    """

    may_win: bool
    is_over: bool
