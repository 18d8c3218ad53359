"""Everything a judgement rests on, and the limits it is held to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlops.errors import GateError
from mlops.settings import ThresholdMode
from mlops.validation.forecasts import Forecasts

FloatArray = NDArray[np.float64]

DEFAULT_ALPHA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Integrity:
    """Facts about how the forecasts were made, stated by whoever made the splits.

    ``gap_bars`` is the smallest distance in bars from a fitted row to the first row forecast
    with that fit; a label looks ``horizon`` bars ahead, so it must be at least that.
    """

    gap_bars: int
    ordered: bool
    feature_schema_matches: bool
    causality_proven: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A person's decision to let a leak alarm pass."""

    actor: str
    reason: str

    def __post_init__(self) -> None:
        if not self.actor.strip() or not self.reason.strip():
            raise GateError("an override names the person and the reason; one of them is empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Limits of the gates; the first three are the platform's.

    ``max_model_mse`` is in squared target units; the ``leak_*`` limits are values no honest
    model reaches; ``max_drawdown`` is a fall of equity after costs, ``max_cost_share`` the
    share of gross gains that costs may eat.
    """

    min_model_accuracy: float = 0.6
    max_model_mse: float = 1000.0
    min_r2_score: float = 0.5
    mode: ThresholdMode = ThresholdMode.SKILL
    min_test_bars: int = 500
    min_trades: int = 30
    leak_accuracy: float = 0.60
    leak_r2: float = 0.10
    leak_sharpe_per_bar: float = 0.25
    max_drawdown: float = 0.25
    max_cost_share: float = 0.75
    champion_alpha: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """One candidate's evidence.

    ``walk_forward`` is the winner's record on the walk-forward rows, ``trials`` every trial's
    forecasts on the same rows (None where they were not kept), ``winner`` its name among
    them. ``n_trials`` counts all trials in the ledger: where it exceeds the kept ones, the
    missing ones are allowed for. ``holdout`` is the record on rows no choice has seen;
    ``champion`` the champion's forecasts on exactly those rows, NaN where it was fitted on the
    outcome (None: nothing serves yet or the baseline does). ``alpha`` is what this judgement
    may spend of the yearly budget. ``refit`` says that an unchanged specification was fitted
    again: nothing was searched, and one slice after the champion's training serves as both
    records; ``record`` is then all that its recipe forecast out of sample so far, that slice
    included (None: nothing else is known). ``require_better`` is for going live without an A/B
    test; an unhealthy champion need not be beaten.
    """

    candidate: str
    walk_forward: Forecasts
    holdout: Forecasts
    winner: str
    trials: Mapping[str, FloatArray] | None
    n_trials: int
    integrity: Integrity
    bars_per_year: float
    fee_bps: float
    champion: FloatArray | None = None
    champion_healthy: bool = True
    require_better: bool = False
    refit: bool = False
    record: Forecasts | None = None
    alpha: float = DEFAULT_ALPHA
    leak_override: Override | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise GateError(
                f"alpha is {self.alpha}, it must lie between 0 and 1; "
                "a spent yearly budget means that nothing can be judged now"
            )
        if self.walk_forward.target is not self.holdout.target:
            raise GateError("walk-forward and holdout forecasts are of different targets")
        self._check_trials()
        if self.champion is not None and len(self.champion) != len(self.holdout):
            raise GateError(
                f"the champion has {len(self.champion)} forecasts for {len(self.holdout)} "
                "holdout rows; forecast exactly the holdout rows with it"
            )

    def _check_trials(self) -> None:
        kept = self.trials
        if self.n_trials < max(1, len(kept or ())):
            raise GateError(
                f"the ledger counts {self.n_trials} trials but {len(kept or ())} records were "
                "given; count every trial before it is judged"
            )
        if kept is None:
            return
        if self.winner not in kept:
            raise GateError(f"the winner {self.winner!r} is not among the trials {sorted(kept)}")
        wrong = sorted(k for k, v in kept.items() if len(v) != len(self.walk_forward))
        if wrong:
            raise GateError(
                f"trials {wrong} do not have {len(self.walk_forward)} forecasts; "
                "every trial must forecast the same walk-forward rows"
            )
        own = np.asarray(kept[self.winner])
        if not np.array_equal(own, self.walk_forward.forecast, equal_nan=True):
            raise GateError(
                f"the walk-forward record is not that of the winner {self.winner!r}; "
                "hand over the same forecasts in both places"
            )
