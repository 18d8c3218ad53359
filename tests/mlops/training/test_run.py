"""Trials are counted, kept and logged as they finish; the winner is judged by all of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops.errors import TrainingTimeout
from mlops.features.dataset import Dataset
from mlops.registry import Registry
from mlops.registry.bundles import last_close
from mlops.registry.retention import remove_old_bundles
from mlops.store import ModelVersion, Status, Why, count_trials
from mlops.store.versions import change_status
from mlops.training.judgement import Judgement
from mlops.training.publish import publish
from tests.mlops.registry.conftest import SERVICE, dataset_of
from tests.mlops.training.trainings import judged, planned, searched

pytestmark = pytest.mark.usefixtures("unverified")

SEARCH: dict[str, Any] = {"trials": 3, "features": None, "sequence_length": None}


def children(registry: Registry, run_id: str) -> list[str]:
    tracking = registry.tracking
    of_parent = f"tags.`mlflow.parentRunId` = '{run_id}'"
    runs = tracking.client.search_runs([tracking.experiment_id], of_parent)
    return sorted(run.info.run_name for run in runs)


def test_each_trial_is_a_file_a_child_run_and_a_count(registry: Registry, dataset: Dataset) -> None:
    plan = planned(registry, dataset, **SEARCH)
    study, run = searched(registry, plan)
    folder = registry.home / "studies" / SERVICE.key / plan.study_key
    names = ["linear-0", "linear-1", "linear-2"]

    assert sorted(trial.name for trial in study.trials) == names
    assert sorted(path.stem for path in folder.glob("*.parquet")) == names
    assert children(registry, run.run_id) == names
    assert count_trials(registry.store, SERVICE.key) == 3


def test_the_run_says_what_was_asked_and_on_which_bars(
    registry: Registry, dataset: Dataset
) -> None:
    _, run = searched(registry, planned(registry, dataset))
    logged = registry.tracking.client.get_run(run.run_id)
    assert logged.data.params["asked.model_type"] == "linear"
    assert logged.data.params["asked.refits"] == "2"
    assert logged.data.tags["dataset_sha256"] == dataset.content_hash


def test_a_count_that_died_before_its_file_is_not_counted_again(
    registry: Registry, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(registry, dataset, **SEARCH)
    with monkeypatch.context() as patch:
        patch.setattr("mlops.search.trial_archive.TrialArchive.keep", died)
        with pytest.raises(KeyboardInterrupt):
            searched(registry, plan)
    assert count_trials(registry.store, SERVICE.key) == 1
    searched(registry, plan)
    assert count_trials(registry.store, SERVICE.key) == 3


def died(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_passed_deadline_stops_the_search(registry: Registry, dataset: Dataset) -> None:
    with pytest.raises(TrainingTimeout, match="TRAINING_JOB_TIMEOUT_HOURS"):
        searched(registry, planned(registry, dataset), seconds=-1)


def test_the_same_study_run_twice_at_once_is_searched_once(
    registry: Registry, dataset: Dataset
) -> None:
    plan = planned(registry, dataset, **SEARCH)
    with ThreadPoolExecutor(2) as pool:
        studies = list(pool.map(lambda _: searched(registry, plan), range(2)))
    logged = [children(registry, run.run_id) for _, run in studies]
    assert sorted(map(len, logged)) == [0, 3]
    assert studies[0][0].winner.recipe == studies[1][0].winner.recipe
    assert count_trials(registry.store, SERVICE.key) == 3


def test_trials_of_an_earlier_study_on_these_bars_are_judged_too(
    registry: Registry, dataset: Dataset
) -> None:
    """Both searches are pooled by their records; nothing is left to be allowed for by number."""
    first = planned(registry, dataset)
    searched(registry, first)
    second = planned(registry, dataset, sequence_length=1)
    study, _ = searched(registry, second)
    reason = judged(registry, second, study).report["G2"].reason
    assert "the best of 2 worthless trials" in reason


def test_a_longer_window_of_an_earlier_study_is_judged_too(
    registry: Registry, bars: pd.DataFrame
) -> None:
    """It lacks a few forecasts after a hole, which is no reason to forget the rest."""
    holed = dataset_of(bars.drop(bars.index[800]))
    searched(registry, planned(registry, holed, sequence_length=12))
    second = planned(registry, holed, sequence_length=1)
    study, _ = searched(registry, second)
    reason = judged(registry, second, study).report["G2"].reason
    assert "the best of 2 worthless trials" in reason


def test_trials_whose_records_are_gone_are_allowed_for_by_number(
    registry: Registry, dataset: Dataset
) -> None:
    searched(registry, planned(registry, dataset))
    for path in (registry.home / "studies").rglob("*.parquet"):
        path.unlink()
    second = planned(registry, dataset, sequence_length=1)
    study, _ = searched(registry, second)
    assert "records of some of the 2 trials" in judged(registry, second, study).report["G2"].reason


def test_a_judgement_uses_the_given_limits(registry: Registry, dataset: Dataset) -> None:
    plan = planned(registry, dataset)
    study, _ = searched(registry, plan)
    strict = judged(registry, plan, study, max_model_mse=1e-9).report
    assert "MAX_MODEL_MSE" in {result.title for result in strict.refused_by}


def test_a_champion_is_not_met_on_bars_it_was_fitted_on(
    registry: Registry, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the last refit's own test rows are new to a champion that saw the same bars."""
    plan = planned(registry, dataset)
    champion, judgement = registered(registry, dataset, reason="manual")
    study, _ = searched(registry, plan)
    monkeypatch.setattr("mlops.training.run.champion_of", lambda *_: champion)
    met = judged(registry, plan, study).report["G4"]
    assert met.n == len(study.slices.holdout[-1].test)
    assert met.n < len(judgement.holdout)


def test_a_refit_of_a_refit_continues_the_record_since_the_search(
    registry: Registry, bars: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [dataset_of(bars[:end]) for end in (-400, -200, None)]
    search, _ = registered(registry, known[0], reason="manual")
    champion, first = registered(registry, known[1], reason="schedule")
    assert search.notes["recipe"] == champion.notes["recipe"]
    monkeypatch.setattr("mlops.training.refit_policy.champion_of", lambda *_: champion)
    _, second = registered(registry, known[2], reason="schedule")

    assert len(first.record) > len(first.holdout)
    assert len(second.record) == len(first.record) + len(second.holdout)
    np.testing.assert_array_equal(second.record.made_at[: len(first.record)], first.record.made_at)
    assert second.report["MIN_R2_SCORE"].n == len(second.record)


def test_a_refit_finds_the_record_of_an_old_search_that_nothing_else_uses(
    registry: Registry, bars: pd.DataFrame
) -> None:
    search, _ = registered(registry, dataset_of(bars[:-200]), reason="manual")
    with registry.store.write() as connection:
        change_status(connection, search.model_id, Status.REFUSED, Why(search.created_at))
    assert remove_old_bundles(registry, days=1, limit=10) == 0
    refit, judgement = registered(registry, dataset_of(bars), reason="schedule")
    assert refit.notes["refit"]
    assert len(judgement.record) > len(judgement.holdout)


def registered(
    registry: Registry, dataset: Dataset, *, reason: str
) -> tuple[ModelVersion, Judgement]:
    """A training carried out, judged and put on record."""
    plan = planned(registry, dataset, reason=reason)
    study, run = searched(registry, plan)
    judgement = judged(registry, plan, study)
    version = publish(
        registry,
        plan,
        study,
        judgement,
        run,
        why=Why(last_close(dataset).to_pydatetime()),
    )
    return version, judgement
