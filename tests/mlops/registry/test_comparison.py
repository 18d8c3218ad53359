"""Any version is measured on any period; two are measured on exactly the same bars."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from mlops.data.simulator import simulate_bars
from mlops.errors import BarsError, RegistryError
from mlops.features.dataset import Dataset
from mlops.models.base import Forecaster
from mlops.registry import Period, compare_versions, evaluate_version

from .conftest import Populated, dataset_of


@pytest.fixture(scope="module")
def later() -> pd.DataFrame:
    return simulate_bars(900, seed=2)


def test_an_evaluation_measures_the_versions_own_forecasts(
    populated: Populated, later: pd.DataFrame, linear: Forecaster
) -> None:
    found = evaluate_version(populated.registry, populated.challenger, later, fee_bps=1.0)
    dataset: Dataset = dataset_of(later)
    forecast, labels = linear.forecast(dataset), dataset.labels
    rows = labels.valid & np.isfinite(forecast)
    assert found.n == rows.sum()
    assert found["mse"].value == pytest.approx(np.mean((labels.y - forecast)[rows] ** 2))
    naive = np.mean((labels.y - labels.persistence)[rows] ** 2)
    assert found["mse"].baseline == pytest.approx(naive)


def test_a_period_limits_what_is_judged_but_not_the_history(
    populated: Populated, later: pd.DataFrame
) -> None:
    start = later.index[500]
    period = Period(start=start, end=start + timedelta(hours=100))
    found = evaluate_version(
        populated.registry, populated.challenger, later, fee_bps=1.0, period=period
    )
    assert found.n == 100
    assert found.start == str(start.tz_localize(None).to_datetime64().astype("datetime64[s]"))


def test_two_versions_meet_on_the_rows_both_can_forecast(
    populated: Populated, later: pd.DataFrame
) -> None:
    """Persistence could forecast earlier than the linear model; those rows do not count."""
    against = (populated.challenger, populated.baseline)
    compared = compare_versions(populated.registry, *against, later, fee_bps=1.0)
    reverse = compare_versions(populated.registry, *against[::-1], later, fee_bps=1.0)
    assert compared.n == reverse.n == compared.evaluation_a.n == compared.evaluation_b.n
    assert compared.evaluation_b["mse"].value == pytest.approx(
        compared.evaluation_a["mse"].baseline
    )
    assert compared.a_beats_b.p_value == pytest.approx(reverse.b_beats_a.p_value)
    assert compared.a_beats_b.p_value + compared.b_beats_a.p_value == pytest.approx(1.0)
    assert f"on {compared.n:,} forecasts" in str(compared)


def test_a_version_compared_with_its_twin_has_no_evidence(
    populated: Populated, later: pd.DataFrame
) -> None:
    compared = compare_versions(
        populated.registry, populated.challenger, populated.refused, later, fee_bps=1.0
    )
    assert compared.a_beats_b.p_value == compared.b_beats_a.p_value == 1.0


def test_a_period_without_outcomes_is_refused(populated: Populated, later: pd.DataFrame) -> None:
    with pytest.raises(RegistryError, match="bars of history and an outcome"):
        evaluate_version(populated.registry, populated.challenger, later.head(60), fee_bps=1.0)


def test_times_without_zone_are_read_as_the_caller_says(
    populated: Populated, later: pd.DataFrame
) -> None:
    local = later.set_axis(later.index.tz_convert("Asia/Tokyo").tz_localize(None))
    with pytest.raises(BarsError, match="pass timezone='UTC'"):
        evaluate_version(populated.registry, populated.challenger, local, fee_bps=1.0)
    read = evaluate_version(
        populated.registry, populated.challenger, local, fee_bps=1.0, timezone="Asia/Tokyo"
    )
    plain = evaluate_version(populated.registry, populated.challenger, later, fee_bps=1.0)
    assert read == plain
