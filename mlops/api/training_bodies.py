"""Trainings as requests send them: no path of this server, no number written as text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from mlops.api.documents import Body, Name, Whole
from mlops.api.jobs import TrainingRequest
from mlops.api.problems import Problem
from mlops.rollout.plan import DeploymentConfig
from mlops.search.config import LeakOverride, ModelType, TrainingConfig
from mlops.service import MAX_HORIZON, Target
from mlops.settings import Settings

Form = TypeVar("Form", bound=BaseModel)

UPLOADS = "uploads"
"""Folder under MLOPS_BASE_PATH whose files a request may name."""

FILE_PATTERN = r"^([A-Za-z0-9_][A-Za-z0-9._-]{0,199})?$"


def _read_strictly(form: type[Form]) -> Callable[[object], object]:
    """Reads a form from JSON without turning texts into numbers; what is wrong is not repeated."""

    def read(given: object) -> object:
        if not isinstance(given, dict):
            return given
        try:
            return form.model_validate_json(orjson.dumps(given), strict=True)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, entry['loc'])) or 'it'}: {entry['msg']}"
                for entry in error.errors(include_input=False, include_url=False)
            )
            raise ValueError(wrong) from None

    return read


class TrainingForm(TrainingConfig):
    """The choices of a training; `bars_file` is the name of a file in the uploads folder."""

    bars_file: Annotated[str, Field(pattern=FILE_PATTERN)] | None = Field(
        None,
        description="Name of a file of bars under MLOPS_BASE_PATH/uploads; an empty text: the "
        "venue's own bars",
    )


TrainingField: TypeAlias = Annotated[TrainingForm, BeforeValidator(_read_strictly(TrainingForm))]
DeploymentField: TypeAlias = Annotated[
    DeploymentConfig, BeforeValidator(_read_strictly(DeploymentConfig))
]


class TrainBody(Body):
    """A training; the parts of the service that are left out come from the settings."""

    symbol: Name
    model_type: ModelType
    venue: Name | None = None
    timeframe: Name | None = None
    target: Target | None = None
    horizon: Annotated[Whole, Field(ge=1, le=MAX_HORIZON)] | None = None
    training_config: TrainingField = Field(default_factory=TrainingForm)
    deployment_config: DeploymentField = Field(default_factory=DeploymentConfig)

    def to_request(self, settings: Settings, actor: str) -> TrainingRequest:
        """The training that is asked for.

        Args:
            settings: Those of the API's process, which name the uploads folder.
            actor: Who asks; a leak override is this person's.

        Raises:
            Problem: when `bars_file` is no file there.
        """
        return TrainingRequest(**self.list_parts(settings, actor))

    def list_parts(self, settings: Settings, actor: str) -> dict[str, Any]:
        """The fields of `TrainingRequest`."""
        return {
            "symbol": self.symbol,
            "model_type": self.model_type,
            "venue": self.venue,
            "timeframe": self.timeframe,
            "target": None if self.target is None else str(self.target),
            "horizon": self.horizon,
            "training": complete_training(self.training_config, settings, actor),
            "deployment": self.deployment_config,
        }


def complete_training(form: TrainingForm, settings: Settings, actor: str) -> TrainingConfig:
    """The configuration with the path of its file of bars, and the actor of its override.

    Raises:
        Problem: when the uploads folder has no such file.
    """
    given = {name: getattr(form, name) for name in form.model_fields_set}
    if form.bars_file:
        given["bars_file"] = str(find_upload(settings, form.bars_file))
    if form.leak_override is not None:
        given["leak_override"] = LeakOverride(actor=actor, reason=form.leak_override.reason)
    return TrainingConfig(**given)


def find_upload(settings: Settings, name: str) -> Path:
    """The file of that name in the uploads folder.

    Raises:
        Problem: when there is none, or it leads out of the folder.
    """
    folder = (settings.mlops_base_path / UPLOADS).resolve()
    path = (folder / name).resolve()
    if path.parent != folder or not path.is_file():
        detail = (
            f"there is no file {name!r} in the folder {UPLOADS} of MLOPS_BASE_PATH; put it there, "
            "or leave bars_file out for the venue's own bars"
        )
        raise Problem("invalid-request", detail, entries=[("/training_config/bars_file", detail)])
    return path
