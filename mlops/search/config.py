"""The configuration of a training: slices, search and overrides; forms are made from it."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from mlops.data.file_options import BarsChoice

Share = Annotated[float, Field(gt=0, lt=0.5)]
Value = bool | int | float | str | list[int] | list[float] | list[str]


class ModelType(StrEnum):
    """The model types that a training may be requested for."""

    LINEAR = "linear"
    LSTM = "lstm"
    TRANSFORMER = "transformer"
    ENSEMBLE = "ensemble"
    CUSTOM = "custom"


class LeakOverride(BaseModel):
    """A person's statement that a record too good to be true is no leak (gate G1)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    actor: str = Field(min_length=1, description="Who takes responsibility")
    reason: str = Field(min_length=1, description="Why it is no leak")


class TrainingConfig(BarsChoice):
    """The choices of one training; the defaults are those of a scheduled training.

    ``params``, ``features`` and ``sequence_length`` override the model type's defaults; an
    `ensemble` applies them to its network member. The fields of `BarsChoice` say which bars the
    training and, from then on, the service has.
    """

    start: AwareDatetime | None = Field(
        None, description="First bar to use; empty: the first there is"
    )
    end: AwareDatetime | None = Field(
        None, description="Bars known by then are used; empty: by now"
    )
    data_window_days: int | None = Field(
        None, ge=1, description="Length of each fit window in days; empty: every bar known before"
    )
    validation_split: Share = Field(
        0.2, description="Share of each fit window that selects settings and stopping"
    )
    holdout_share: Share = Field(0.3, description="Last share of the bars, forecast once")
    refits: int = Field(8, ge=2, le=250, description="Refits while walking to the holdout")
    holdout_refits: int = Field(8, ge=1, le=250, description="Refits while walking through it")
    trials: int = Field(0, ge=0, le=1000, description="Recipes to search; 0: only the one given")
    families: tuple[ModelType, ...] = Field(
        (), description="Model types to search; empty: linear and the model type asked for"
    )
    features: tuple[str, ...] | None = Field(None, description="Feature names, in order")
    sequence_length: int | None = Field(None, ge=1, le=2000, description="Bars in one window")
    params: dict[str, Value] = Field(
        default_factory=dict, description="Model parameters, e.g. lstm_units, learning_rate"
    )
    leak_override: LeakOverride | None = Field(
        None, description="Let a leak alarm pass; who and why is kept with the verdict"
    )
    seed: int = Field(0, ge=0, description="Same seed and data: the same model")

    @property
    def fit_window(self) -> timedelta | None:
        """Length of each fit window; None for all that was known."""
        return None if self.data_window_days is None else timedelta(days=self.data_window_days)

    @property
    def overrides(self) -> dict[str, object]:
        """Flat configuration that overrides a model type's defaults."""
        shape = {"features": self.features, "sequence_length": self.sequence_length}
        return {**self.params, **{key: value for key, value in shape.items() if value is not None}}
