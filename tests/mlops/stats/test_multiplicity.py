"""Benjamini and Yekutieli's rule."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from statsmodels.stats.multitest import multipletests

from mlops.errors import MlopsError
from mlops.stats.selection import benjamini_yekutieli


@pytest.mark.parametrize("level", [0.001, 0.05, 0.2])
@pytest.mark.parametrize("size", [1, 2, 10, 60])
def test_rejections_are_those_of_statsmodels(size, level):
    rng = np.random.default_rng(size)
    for power in (1, 4, 12):
        p = rng.random(size) ** power
        expected = multipletests(p, level, method="fdr_by")[0]
        assert_array_equal(benjamini_yekutieli(p, level), expected)


def test_equal_p_values_are_rejected_together():
    assert_array_equal(benjamini_yekutieli([0.9, 0.01, 0.01], 0.05), [False, True, True])


def test_with_nothing_to_find_something_is_found_rarely_however_dependent_the_tests():
    rng = np.random.default_rng(1)
    shared = rng.standard_normal((4000, 1))
    mixed = 0.9**0.5 * shared + 0.1**0.5 * rng.standard_normal((4000, 20))
    from scipy.stats import norm

    rate = np.mean([benjamini_yekutieli(norm.sf(row), 0.05).any() for row in mixed])
    assert rate < 0.05


def test_no_tests_no_rejections():
    assert benjamini_yekutieli([], 0.05).shape == (0,)


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.1])
def test_what_is_no_p_value_is_refused(bad):
    with pytest.raises(MlopsError, match="drop untested columns"):
        benjamini_yekutieli([0.5, bad], 0.05)
