"""A scaler learns the middle of its fit rows and nothing from one bad print."""

import json

import numpy as np
import pytest

from mlops.errors import FeatureError
from mlops.features.scaling import CLIP_SIGMAS, Scaler


@pytest.fixture
def rows():
    """4,000 rows of normals with means 5 and -1, deviations 2 and 0.01."""
    draws = np.random.default_rng(0).standard_normal((4000, 2))
    return (draws * [2.0, 0.01] + [5.0, -1.0]).astype(np.float32)


def test_normal_columns_come_out_standard(rows):
    """Standard error of mean and deviation at 4,000 rows is about 0.02."""
    scaled = Scaler.fit(rows).transform(rows)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=0.08)
    np.testing.assert_allclose(scaled.std(axis=0), 1, atol=0.08)
    assert scaled.dtype == np.float32


@pytest.mark.parametrize("prints", [1, 60])
def test_bad_prints_do_not_set_the_range(rows, prints):
    spoiled = rows.copy()
    spoiled[17 : 17 + prints, 0] = 1e9
    clean, robust = Scaler.fit(rows), Scaler.fit(spoiled)
    np.testing.assert_allclose(robust.scale, clean.scale, rtol=0.05)
    assert robust.transform(spoiled)[17, 0] == CLIP_SIGMAS


@pytest.mark.parametrize("value", [0.0, 1.0, -1e6, 0.1])
def test_a_constant_column_gets_scale_one(rows, value):
    rows[:, 1] = value
    scaler = Scaler.fit(rows)
    assert scaler.scale[1] == 1.0
    assert not scaler.transform(rows)[:, 1].any()


def test_a_column_of_mostly_one_value_takes_a_wider_range(rows):
    """Four bars in five have no volume: the quartiles are equal, the tails are not."""
    rows[: len(rows) * 4 // 5, 0] = 0.0
    scaler = Scaler.fit(rows)
    assert 0.5 < scaler.scale[0] < 5


def test_rows_that_still_warm_up_are_left_out(rows):
    expected = Scaler.fit(rows[100:])
    rows[:100, 0] = np.nan
    assert Scaler.fit(rows) == expected


def test_fitting_a_scaler_without_a_complete_row_is_refused():
    with pytest.raises(FeatureError, match="none of 3 rows"):
        Scaler.fit(np.full((3, 2), np.nan))


def test_other_features_than_those_fitted_are_refused(rows):
    with pytest.raises(FeatureError, match="knows 2 features but got 1"):
        Scaler.fit(rows).transform(rows[:, :1])


def test_a_scaler_survives_json_to_the_bit(rows):
    scaler = Scaler.fit(rows)
    assert Scaler.from_dict(json.loads(json.dumps(scaler.to_dict()))) == scaler


def test_a_windows_last_row_is_scaled_like_the_row_itself(rows):
    scaler = Scaler.fit(rows)
    cube = np.stack([rows[:5], rows[5:10]])
    np.testing.assert_array_equal(scaler.transform(cube)[1], scaler.transform(rows[5:10]))
