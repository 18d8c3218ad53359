"""A scheduled refit of an answered request: young bars only, at the level that has accrued."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops.data.simulator import START
from mlops.store import ModelVersion, alpha_for_refit, count_trials, get_version
from tests.project import BARS, SERVICE, Place, made_place, skip_verification

HOUR = timedelta(hours=1)
SEARCHED_UNTIL = START + 1600 * HOUR
LATER = START + BARS * HOUR
SOON = SEARCHED_UNTIL + 100 * HOUR
YEAR = timedelta(days=365)


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[Place]:
    """A service whose request was searched on its first 1,600 bars."""
    with made_place(tmp_path_factory.mktemp("answered"), mlflow_template) as place:
        skip_verification(place.patch)
        place.train(trials=2, features=None, sequence_length=None, end=SEARCHED_UNTIL)
        yield place


def refit(place: Place, end: datetime) -> tuple[Any, ModelVersion]:
    """The same request again, asked by a schedule."""
    asked: dict[str, Any] = {"trials": 2, "features": None, "sequence_length": None}
    result = place.train(reason="schedule", end=end, **asked)
    return result, get_version(place.registry.store, result.model_id)


def gate(version: ModelVersion, title: str) -> dict[str, Any]:
    assert version.report is not None
    return next(one for one in version.report["results"] if one["title"] == title)


def test_few_bars_cannot_pass_and_spend_nothing(answered: Place) -> None:
    store = answered.registry.store
    before = alpha_for_refit(store, SERVICE, LATER)
    result, version = refit(answered, SOON)

    assert not result.passed
    assert "G0 test bars" in result.refused_by
    # The last 24 of the 100 bars have no label yet; a forecast at the cut itself is not young.
    assert gate(version, "test bars")["value"] == 100 - 24
    assert alpha_for_refit(store, SERVICE, LATER) == before


def test_a_refit_is_judged_on_bars_after_the_search_at_the_accrued_level(answered: Place) -> None:
    result, version = refit(answered, LATER)
    assert version.report is not None
    assert gate(version, "test bars")["value"] == BARS - 1600 - 24
    assert version.report["alpha"] == pytest.approx(0.05 * (LATER - SEARCHED_UNTIL) / YEAR)
    assert version.trained_until == LATER
    assert result.evaluation.n == BARS - 1600 - 24

    store = answered.registry.store
    assert alpha_for_refit(store, SERVICE, LATER) == 0.0
    again = refit(answered, LATER)[1]
    assert again.report is not None
    assert again.report["alpha"] == version.report["alpha"]
    assert again.recipe_digest == version.recipe_digest
    assert count_trials(store, SERVICE) == 2


def test_a_persons_request_is_a_search_on_all_bars(answered: Place) -> None:
    asked: dict[str, Any] = {"trials": 2, "features": None, "sequence_length": None}
    result = answered.train(end=datetime.now(UTC), **asked)
    version = get_version(answered.registry.store, result.model_id)
    assert version.report is not None
    assert version.report["alpha"] == 0.05
    assert count_trials(answered.registry.store, SERVICE) == 4
