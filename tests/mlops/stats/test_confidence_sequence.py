"""Bounds that hold at every look, against known answers and by their error under the null."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import chi2

from mlops.errors import GateError
from mlops.stats.confidence_sequence import (
    DelayedStart,
    NormalMixture,
    block_covariance,
    delayed_start_constant,
    share_mismatch_evidence,
    upper_variance_factor,
)


@pytest.mark.parametrize(("alpha", "a"), [(0.05, 2.795483), (0.01, 3.368214), (0.10, 2.500278)])
def test_the_delayed_start_has_its_known_constant(alpha, a):
    assert_allclose(delayed_start_constant(alpha), a, atol=1e-5)


@pytest.mark.parametrize(
    ("first", "n", "z"),
    [
        (480, 480, 2.795483),
        (480, 960, 2.916826),
        (480, 2880, 3.099433),
        (100, 480, 3.063224),
        (100, 960, 3.174349),
        (100, 2880, 3.342918),
    ],
)
def test_the_delayed_start_has_its_known_boundary(first, n, z):
    assert_allclose(DelayedStart(first, 0.05).z(n), z, atol=1e-5)


@pytest.mark.parametrize(
    ("n", "z", "p"), [(960, 3.5, 0.00906614), (960, 3.0, 0.0400779), (480, 2.0, 0.261464)]
)
def test_the_delayed_start_has_its_known_p_values(n, z, p):
    boundary = DelayedStart(480, 0.05)
    assert_allclose(boundary.p_value(n, z), p, atol=1e-5)
    assert boundary.p_value(n, -z) == boundary.p_value(n, z)


def test_no_look_counts_before_the_delayed_start():
    boundary = DelayedStart(480, 0.05)
    assert boundary.z(479) == math.inf
    assert boundary.p_value(479, 100.0) == 1.0


@pytest.mark.parametrize("boundary", [DelayedStart(100, 0.05), NormalMixture(1000, 0.05)])
@pytest.mark.parametrize("n", [100, 480, 5000])
def test_a_mean_on_the_boundary_has_the_p_value_alpha(boundary, n):
    assert_allclose(boundary.p_value(n, boundary.z(n)), 0.05, rtol=1e-9)


@pytest.mark.parametrize(
    ("n", "z"),
    [
        (100, 3.855055),
        (250, 3.264293),
        (500, 3.083569),
        (1000, 3.035209),
        (2000, 3.061477),
        (5000, 3.153030),
        (10000, 3.241723),
    ],
)
def test_the_normal_mixture_has_its_known_boundary(n, z):
    assert_allclose(NormalMixture(1000, 0.05).z(n), z, atol=1e-5)


def test_the_normal_mixture_agrees_with_confseq():
    """Its unit test: v = v_opt = 100, alpha .05; rho is 1 / scale, the bound that of a sum."""
    mixture = NormalMixture(100, 0.05)
    assert_allclose(1.0 / mixture.scale, 12.60056, atol=1e-5)
    assert_allclose(math.sqrt(100) * mixture.z(100), 30.35209, atol=1e-5)
    assert mixture.z(0) == math.inf
    assert mixture.p_value(100, 0.0) == 1.0


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan])
def test_an_alpha_that_is_no_probability_is_refused(alpha):
    with pytest.raises(GateError, match="between 0 and 1"):
        DelayedStart(100, alpha).z(100)
    with pytest.raises(GateError, match="between 0 and 1"):
        NormalMixture(100, alpha).z(100)


@pytest.mark.parametrize(("blocks", "factor"), [(10, 1.672846), (15, 1.478770), (26, 1.319975)])
def test_the_upper_limit_of_a_variance_has_its_known_factor(blocks, factor):
    assert_allclose(upper_variance_factor(blocks), factor, atol=1e-5)


def test_the_upper_limit_is_above_the_variance_as_often_as_it_says():
    """20,000 variances of 12 block means: the Monte-Carlo error at .8 is .003."""
    drawn = chi2.rvs(11, size=20_000, random_state=1) / 11
    assert abs(np.mean(drawn * upper_variance_factor(12) > 1.0) - 0.8) < 3 * 0.003


def test_one_block_has_no_variance():
    with pytest.raises(GateError, match="at least 2 blocks"):
        upper_variance_factor(1)
    covariance, blocks = block_covariance(np.ones((7, 2)), 4)
    assert blocks == 1
    assert np.isnan(covariance).all()


def test_blocks_end_with_the_newest_row():
    columns = np.random.default_rng(2).standard_normal((11, 2))
    covariance, blocks = block_covariance(columns, 3)
    means = columns[2:].reshape(3, 3, 2).mean(axis=1)
    assert blocks == 3
    assert_allclose(covariance, np.cov(means.T))


@pytest.mark.parametrize(
    ("counts", "evidence"),
    [((50, 50), 0.7062235), ((500, 500), 0.3008269), ((1000, 1100), 2.0681147)],
)
def test_share_mismatch_has_its_known_evidence(counts, evidence):
    assert_allclose(share_mismatch_evidence(counts, (0.5, 0.5)), evidence, atol=1e-5)


def test_a_wrong_split_is_found_and_a_right_one_is_not():
    """400 splits looked at every 100 keys: at most 5 % exceed 20, with a Monte-Carlo error of 1."""
    rng = np.random.default_rng(3)
    dealt = np.cumsum(rng.binomial(100, 0.5, size=(400, 48)), axis=1)
    keys = 100 * np.arange(1, 49)
    highest = [
        max(
            share_mismatch_evidence((int(a), int(n - a)), (0.5, 0.5))
            for a, n in zip(row, keys, strict=True)
        )
        for row in dealt
    ]
    assert np.mean(np.array(highest) > 20) <= 0.05
    assert share_mismatch_evidence((600, 400), (0.5, 0.5)) > 1000
    assert share_mismatch_evidence((100_000, 0), (0.5, 0.5)) > 1e300


@pytest.mark.parametrize("shares", [(0.5, 0.4), (1.0, 0.0), (1.0,)])
def test_shares_that_are_no_split_are_refused(shares):
    with pytest.raises(GateError, match="together 1"):
        share_mismatch_evidence((1, 1), shares)


@pytest.mark.parametrize("boundary", [DelayedStart(100, 0.05), NormalMixture(1000, 0.05)])
def test_all_looks_together_err_as_often_as_alpha_at_most(boundary):
    """2,000 white series looked at after every row: the Monte-Carlo error at .05 is .005."""
    rng = np.random.default_rng(4)
    n = np.arange(1, 2001)
    z = np.array([boundary.z(int(k)) for k in n])
    crossed = 0
    for _ in range(10):
        sums = np.cumsum(rng.standard_normal((200, n.size)), axis=1)
        crossed += int((np.abs(sums) / np.sqrt(n) > z).any(axis=1).sum())
    assert 0.01 < crossed / 2000 < 0.05 + 3 * 0.005
