"""Bars with something planted, and folds over them."""

from __future__ import annotations

import numpy as np
import pytest

from mlops.data.simulator import simulate_bars
from mlops.data.splits import walk_forward
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.service import Target, Timeframe


@pytest.fixture(scope="session")
def dataset():
    """1,500 simulated hours, next hour's return."""
    return make_dataset(1500, seed=5)


def make_dataset(n, *, seed, **planted):
    frame = simulate_bars(n, seed=seed, **planted)
    target = TargetSpec(Target.RETURN, 1)
    return Dataset(frame, timeframe=Timeframe("1h"), target=target)


@pytest.fixture(scope="session")
def planted():
    """``planted(n, seed=..., r2=..., form=...)``: a dataset from the laboratory."""
    return make_dataset


@pytest.fixture(scope="session")
def folds_of():
    """``folds_of(dataset, n_folds)``: a walk-forward over every labelled row."""

    def folds(dataset, n_folds=3):
        labels = dataset.labels
        rows = np.flatnonzero(labels.valid)
        return walk_forward(labels.made_at, labels.known_at, rows, n_folds=n_folds)

    return folds


@pytest.fixture(scope="session")
def folds(dataset, folds_of):
    return folds_of(dataset)
