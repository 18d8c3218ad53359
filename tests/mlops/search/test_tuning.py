"""The search: each model type gets its share of the trials, finished trials outlive a kill."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mlops.errors import ModelError, TrainingError, TrainingTimeout
from mlops.models.base import FitContext, default_recipe
from mlops.search import tuning
from mlops.search.spaces import Choices, SearchSpace, search_space
from mlops.search.tuning import tune

CONTEXT = FitContext(seed=2)
ROOT = Path(__file__).parents[3]


@pytest.fixture
def spaces(dataset):
    """Linear recipes in two families' clothes: quick, and each of its own space."""
    linear = search_space("linear", dataset.target)
    ewma = SearchSpace(
        default_recipe("ewma", dataset.target), {"span": Choices((6, 12, 24, 48, 96))}
    )
    return linear, ewma


def _digests(records):
    return [record.recipe.digest for record in records]


def test_families_take_turns_and_start_from_their_base(spaces, dataset, folds):
    records = tune(spaces, dataset, folds, CONTEXT, n_trials=6)
    assert [record.recipe.model_type for record in records] == ["linear", "ewma"] * 3
    assert [record.number for record in records] == list(range(6))
    assert records[0].recipe == spaces[0].base
    assert records[1].recipe == spaces[1].base


def test_no_recipe_is_tried_twice_while_there_are_others(spaces, dataset, folds):
    records = tune(spaces, dataset, folds, CONTEXT, n_trials=10)
    assert len(set(_digests(records))) == 10


def test_the_same_seed_searches_the_same_recipes(spaces, dataset, folds):
    first, second = (tune(spaces, dataset, folds, CONTEXT, n_trials=8) for _ in range(2))
    assert [(r.recipe, r.skill) for r in first] == [(r.recipe, r.skill) for r in second]


def test_every_new_trial_is_reported_with_its_forecasts(spaces, dataset, folds):
    reported = []
    records = tune(spaces, dataset, folds, CONTEXT, n_trials=3, on_trial=reported.append)
    assert tuple(reported) == records
    assert all(record.walk is not None and math.isfinite(record.skill) for record in reported)


def test_a_journal_keeps_finished_trials(spaces, dataset, folds, tmp_path):
    journal = tmp_path / "study.journal"
    first = tune(spaces, dataset, folds, CONTEXT, n_trials=4, journal=journal)
    reported = []
    both = tune(
        spaces, dataset, folds, CONTEXT, n_trials=7, journal=journal, on_trial=reported.append
    )
    kept = sorted(both, key=lambda record: record.number)
    assert [(r.recipe, r.skill) for r in kept[:4]] == [(r.recipe, r.skill) for r in first]
    assert [record.number for record in reported] == [4, 5, 6]
    assert all(record.walk is None for record in kept[:4])


def test_a_trial_that_fails_is_recorded_and_not_tried_again(
    spaces, dataset, folds, monkeypatch, tmp_path
):
    def fail(*_, **__):
        raise TrainingError("the loss became nan")

    journal = tmp_path / "study.journal"
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "run_walk_forward", fail)
        (failed,) = tune(spaces[1:], dataset, folds, CONTEXT, n_trials=1, journal=journal)
    assert math.isnan(failed.skill)
    assert failed.failure == "the loss became nan"
    records = tune(spaces[1:], dataset, folds, CONTEXT, n_trials=3, journal=journal)
    assert _digests(records).count(failed.recipe.digest) == 1


def test_a_passed_deadline_ends_the_search(spaces, dataset, folds):
    with pytest.raises(TrainingTimeout):
        tune(spaces, dataset, folds, replace(CONTEXT, deadline=time.monotonic() - 1), n_trials=2)


def test_nothing_to_search_is_refused(spaces, dataset, folds):
    with pytest.raises(ModelError, match="0 trials"):
        tune(spaces, dataset, folds, CONTEXT, n_trials=0)
    with pytest.raises(ModelError, match="0 spaces"):
        tune((), dataset, folds, CONTEXT, n_trials=1)


KILLED = """
    import os, sys
    from pathlib import Path
    import numpy as np
    from mlops.data.simulator import simulate_bars
    from mlops.data.splits import walk_forward
    from mlops.features.dataset import Dataset
    from mlops.features.targets import TargetSpec
    from mlops.models.base import FitContext
    from mlops.service import Target, Timeframe
    from mlops.search import tuning
    from mlops.search.spaces import search_space

    data = Dataset(simulate_bars(1500, seed=5), timeframe=Timeframe("1h"),
                   target=TargetSpec(Target.RETURN, 1))
    labels = data.labels
    rows = np.flatnonzero(labels.valid)
    folds = walk_forward(labels.made_at, labels.known_at, rows, n_folds=3)
    whole, done = tuning.run_walk_forward, []

    def dies_in_the_third(*args, **kwargs):
        if len(done) == 2:
            os.kill(os.getpid(), 9)
        done.append(1)
        return whole(*args, **kwargs)

    tuning.run_walk_forward = dies_in_the_third
    tuning.tune([search_space("linear", data.target)], data, folds, FitContext(seed=2),
                n_trials=5, journal=Path(sys.argv[1]))
"""


def test_a_killed_search_goes_on_where_it_was(dataset, folds, tmp_path):
    """The trial that died is run again with the recipe it had drawn."""
    journal = tmp_path / "study.journal"
    script = textwrap.dedent(KILLED)
    died = subprocess.run(
        [sys.executable, "-c", script, str(journal)], check=False, cwd=ROOT, env=os.environ
    )
    assert died.returncode == -signal.SIGKILL
    space = search_space("linear", dataset.target)
    reported = []
    records = tune(
        [space], dataset, folds, CONTEXT, n_trials=5, journal=journal, on_trial=reported.append
    )
    whole = tune([space], dataset, folds, CONTEXT, n_trials=5)
    assert [record.number for record in reported] == [2, 3, 4]
    kept = sorted(records, key=lambda record: record.number)
    assert _digests(kept)[:3] == _digests(whole)[:3]
    assert len(kept) == 5
