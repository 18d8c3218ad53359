"""The evidence that the gates judge, and their limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from mlops.arrays import FloatArray
from mlops.data.findings import MAX_DOUBTFUL_SHARE, Findings
from mlops.errors import GateError
from mlops.settings import Settings, ThresholdMode
from mlops.validation.forecasts import Forecasts

DEFAULT_ALPHA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Integrity:
    """Facts about how the forecasts were made, stated by the code that made the splits.

    Args:
        gap_bars: Smallest distance in bars from a fitted row to the first row forecast with that
            fit. A label looks ``horizon`` bars ahead, so the gap must be at least ``horizon``.
        ordered: Whether every fit precedes the rows it forecasts.
        word: What of these facts only the caller says, as a sentence; None where nothing is.
    """

    gap_bars: int
    ordered: bool
    feature_schema_matches: bool
    causality_proven: bool
    word: str | None = None


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

    Args:
        max_model_mse: In squared units of the target.
        leak_accuracy: Like the other ``leak_*`` limits, a value that no honest model reaches.
        max_drawdown: Largest fall of equity after costs, as a share.
        max_cost_share: Share of gross gains that costs may use up.
        champion_alpha: Level of the comparison with the champion.
        max_doubtful_share: Share of rows that may be dropped as unusable, merged or suspected.
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
    max_doubtful_share: float = MAX_DOUBTFUL_SHARE

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The limits that the settings name; the others at their defaults."""
        return cls(
            min_model_accuracy=settings.min_model_accuracy,
            max_model_mse=settings.max_model_mse,
            min_r2_score=settings.min_r2_score,
            mode=settings.validation_threshold_mode,
            max_drawdown=settings.max_drawdown_limit,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """One candidate's evidence.

    Args:
        walk_forward: The winner's record on the walk-forward rows.
        holdout: Its record on rows that no choice has seen.
        winner: Its name among the trials.
        trials: Every trial's forecasts (n,) on the walk-forward rows; None where none was kept.
        n_trials: All trials that were counted; those beyond the kept ones are allowed for.
        champion: The champion's forecasts on the holdout rows, NaN where it was fitted on the
            outcome; None where the baseline serves or the service has not begun.
        champion_healthy: An unhealthy champion need not be beaten.
        require_better: The champion must be beaten, not only matched: the rollout has no A/B test.
        refit: A known recipe was fitted again, or a fixed version is judged: nothing was searched,
            and the rows after the training serve as both records.
        record: Of a refit all out-of-sample forecasts of its recipe, those rows included; None
            where there are no others.
        alpha: What this judgement may spend of the yearly budget.
        findings: What was found of the bars; None where nobody knows, and nothing is judged of it.

    Raises:
        GateError: when the parts contradict each other.
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
    findings: Findings | None = None

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
