"""The window null: exact where it can be, honest under the null, and awake to planted changes."""

import time

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import ks_2samp, norm, wasserstein_distance
from scipy.stats import t as student

from mlops.stats.dependence import integrated_time
from mlops.stats.ordered_reference import OrderedReference
from mlops.stats.statistic_null import StatisticNull
from mlops.stats.window_null import (
    NULLS,
    CategoricalNull,
    MeanNull,
    NumericNull,
)
from tests.mlops.monitoring.series import (
    GAP,
    autoregressive,
    evidently_alarms,
    iid,
    kolmogorov_smirnov_alarms,
    nine_series,
    plant,
)

RATE = 0.05
LOWEST, HIGHEST = 0.02, 0.075
SLOW_SERIES = ("AR.9", "rv24", "rsi", "macd")


def test_integrated_time_of_an_autoregression_is_known():
    x = autoregressive(0.9, 1, 200_000, np.random.default_rng(0))[0]
    assert integrated_time(x) == pytest.approx(1.9 / 0.1, rel=0.1)


def test_integrated_time_is_one_for_noise_and_for_what_never_changes():
    noise = integrated_time(np.random.default_rng(1).standard_normal(50_000))
    assert noise == pytest.approx(1.0, abs=0.1)
    assert integrated_time(np.full(100, 3.0)) == 1.0


@pytest.mark.parametrize(("size", "n"), [(1000, 1), (1000, 37), (999, 168), (50, 400)])
def test_the_wasserstein_distance_is_scipys(size, n):
    rng = np.random.default_rng(size + n)
    reference, current = 1e4 + rng.standard_t(3, size), 1e4 + rng.standard_normal(n) + 0.3
    expected = wasserstein_distance(reference, current)
    assert_allclose(OrderedReference(reference).wasserstein(current), expected, rtol=1e-9)


def test_the_wasserstein_distance_counts_ties_and_values_beyond_either_end():
    reference, current = np.repeat([0.0, 1.0, 1.0, 5.0], 5), np.array([-9.0, 1.0, 1.0, 99.0])
    expected = wasserstein_distance(reference, current)
    assert_allclose(OrderedReference(reference).wasserstein(current), expected, rtol=1e-12)


def test_normal_scores_are_those_of_mid_ranks():
    ordered = OrderedReference([1.0, 2.0, 2.0, 3.0])
    expected = norm.ppf([0.5 / 5, 1.0 / 5, 2.5 / 5, 4.5 / 5])
    assert_allclose(ordered.normal_scores(np.array([0.0, 1.0, 2.0, 9.0])), expected)


@pytest.mark.parametrize("values", [[3.0, 1.0, 2.0], [3.0, 1.0, 2.0, 1.0, 3.0, 1.0]])
def test_a_reference_scores_its_own_values_like_any_others(values):
    ordered = OrderedReference(values)
    assert_array_equal(ordered.own_scores(), ordered.normal_scores(np.array(values)))


def test_beyond_the_history_the_p_value_is_students():
    null = StatisticNull.of(np.arange(20.0), 10.0, resolution=0.0)
    spread = np.arange(20.0).std() * np.sqrt(11 / 9)
    expected = student.sf((40.0 - 9.5) / spread, 9)
    assert_allclose(null.upper(np.array([40.0])), expected)
    assert_allclose(null.two_sided(np.array([40.0])), 2 * expected)


def test_inside_the_history_the_p_value_is_never_below_the_share_that_went_as_far():
    values = np.concatenate([np.zeros(99), [100.0]])
    null = StatisticNull.of(values, 50.0, resolution=0.0)
    assert_allclose(null.upper(np.array([99.0])), 2 / 101)
    assert null.upper(np.array([101.0])) < 1e-9


def test_the_distance_is_kolmogorovs_on_the_grid():
    rng = np.random.default_rng(2)
    reference, current = rng.standard_normal(5000), rng.standard_normal(500) + 0.7
    null = NumericNull(reference)
    usual = np.median(null.calibrate(500)["distance"].ranked) ** 1.5
    effect = null.check(current).effect[0]
    exact = ks_2samp(reference, current).statistic
    assert np.sqrt(effect**2 + usual**2) == pytest.approx(exact, abs=1 / 64)


@pytest.mark.parametrize("null", [NumericNull, CategoricalNull, MeanNull])
def test_many_windows_at_once_are_those_windows_one_by_one(null):
    rng = np.random.default_rng(3)
    reference, later = rng.integers(0, 4, 3000), rng.integers(0, 5, 400)
    fitted, ends = null(reference), [100, 250, 251, 400]
    together = fitted.check(later, 100, ends)
    for row, end in enumerate(ends):
        alone = fitted.check(later[end - 100 : end])
        for name in together.__slots__:
            assert_allclose(getattr(together, name)[row], getattr(alone, name)[0], atol=1e-12)


@pytest.mark.parametrize("kind", NULLS)
def test_a_null_read_back_from_its_arrays_gives_equal_results(kind):
    rng = np.random.default_rng(4)
    fitted = NULLS[kind](rng.integers(0, 4, 3000))
    fitted.calibrate(100)
    arrays = fitted.to_arrays()
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    read, window = NULLS[kind].from_arrays(arrays), rng.integers(0, 5, 100)
    assert_array_equal(read.check(window).p_value, fitted.check(window).p_value)
    assert_array_equal(read.calibrate(100).keys(), fitted.calibrate(100).keys())


def test_a_long_reference_keeps_its_last_rows_within_a_quarter_of_a_megabyte():
    fitted = NumericNull(np.arange(50_000.0))
    fitted.calibrate(168)
    assert fitted.values[0] == 30_000.0
    assert sum(array.nbytes for array in fitted.to_arrays().values()) < 250_000


def test_a_feature_of_the_clock_does_not_alarm_at_a_missing_bar():
    clock = np.sin(2 * np.pi * np.arange(5000) % 24 / 24 * 2 * np.pi)
    null = NumericNull(clock)
    whole = clock[:192]
    for missing in (0, 1, 6):
        assert null.check(np.delete(whole, np.arange(missing))[-168:]).p_value[0] > 0.05
    assert null.check(np.full(168, clock[6])).p_value[0] < 1e-6


def test_a_new_label_is_a_change_however_rare():
    null = CategoricalNull(np.random.default_rng(5).integers(0, 3, 5000))
    window = np.random.default_rng(6).integers(0, 3, 168)
    assert null.check(window).p_value[0] > 0.05
    window[:8] = 7
    assert null.check(window).p_value[0] < 0.01


def test_a_series_of_one_value_is_judged_by_that_value():
    null = NumericNull(np.full(3000, 2.0))
    assert null.check(np.full(168, 2.0)).p_value[0] > 0.05
    assert null.check(np.full(168, 3.0)).p_value[0] < 1e-6


def alarm_rates(paths, size, n, *, change="none", seed=0, names=None, rules=()):
    """Share of paths where ours, then each of ``rules``, alarms at .05."""
    found = {}
    for name, x in nine_series(paths, size + GAP + n, seed).items():
        if names is None or name in names:
            verdicts = [_verdicts(row, size, n, change, rules) for row in x]
            found[name] = np.mean(verdicts, axis=0)
    return found


def _verdicts(row, size, n, change, rules):
    reference, window = row[:size], plant(change, row[:size], row[-n:])
    ours = NumericNull(reference).check(window).p_value[0] < RATE
    return [ours, *(rule(reference, window) for rule in rules)]


def test_false_alarms_keep_the_stated_rate_where_usual_rules_alarm_nearly_always():
    usual = (kolmogorov_smirnov_alarms, evidently_alarms)
    rates = alarm_rates(60, 2000, 168, seed=301, rules=usual)
    ours = np.mean([rate[0] for rate in rates.values()])
    # Paths of one market share their shocks, so no fewer than 60 draws and no more than 420.
    error = np.sqrt(RATE * (1 - RATE) / 150)
    assert LOWEST - error < ours < HIGHEST + error
    for name in SLOW_SERIES:
        assert rates[name][1] > 0.7 - 3 * np.sqrt(0.21 / 60)
        assert rates[name][2] > 0.9 - 3 * np.sqrt(0.09 / 60)


@pytest.mark.slow
@pytest.mark.parametrize("size", [5000, 2000])
def test_false_alarms_of_every_series_keep_the_stated_rate(size):
    usual = (kolmogorov_smirnov_alarms, evidently_alarms)
    rates = alarm_rates(300, size, 168, seed=302, rules=usual)
    print({name: rate.round(3).tolist() for name, rate in rates.items()})
    error = 3 * np.sqrt(RATE * (1 - RATE) / 300)
    for name, (ours, smirnov, evidently) in rates.items():
        assert LOWEST - error < ours < HIGHEST + error, name
        if name in SLOW_SERIES:
            assert smirnov > 0.7
            assert evidently > 0.9
    assert LOWEST < np.mean([rate[0] for rate in rates.values()]) < HIGHEST


PLANTED = [
    ("mean +1 sd", "iid", 0.98),
    ("mean +1 sd", "ret", 0.98),
    ("mean +1 sd", "rsi", 0.5),
    ("scale x2", "rsi", 0.85),
    ("scale x2", "AR.9", 0.9),
]


def test_planted_changes_are_found():
    """All the acceptance cases in one, with fewer paths; the slow test asks for each."""
    for change in ("mean +1 sd", "scale x2"):
        wanted = {name: power for planted, name, power in PLANTED if planted == change}
        rates = alarm_rates(50, 5000, 168, change=change, seed=303, names=wanted)
        for name, power in wanted.items():
            assert rates[name][0] >= power - 3 * np.sqrt(power * (1 - power) / 50)


@pytest.mark.slow
@pytest.mark.parametrize(("change", "name", "power"), PLANTED)
def test_each_planted_change_is_found_at_the_stated_rate(change, name, power):
    rate = alarm_rates(300, 5000, 168, change=change, seed=304, names=(name,))[name][0]
    print(change, name, rate)
    assert rate >= power - 3 * np.sqrt(power * (1 - power) / 300)


def persistent_labels(paths, bars, rng, stay=0.95):
    """A Markov chain of three labels."""
    moves = rng.random((paths, bars)) > stay
    return (np.cumsum(moves * rng.integers(1, 3, (paths, bars)), axis=1) % 3).astype(float)


def test_persistent_labels_do_not_alarm_and_relabelled_ones_do():
    rng = np.random.default_rng(7)
    labels = persistent_labels(100, 5668, rng)
    alarms = [CategoricalNull(x[:5000]).check(x[-168:]).p_value[0] < RATE for x in labels]
    assert np.mean(alarms) <= HIGHEST + 3 * np.sqrt(RATE * (1 - RATE) / 100)
    free = rng.integers(0, 3, (50, 5168)).astype(float)
    free[:, -168:][rng.random((50, 168)) < 0.3] = 0.0
    found = [CategoricalNull(x[:5000]).check(x[-168:]).p_value[0] < RATE for x in free]
    assert np.mean(found) > 0.9


def test_a_mean_alarms_one_way_only():
    x = iid(1, 5168, np.random.default_rng(8))[0]
    null = MeanNull(x[:5000])
    assert null.check(x[-168:] + 1.0).p_value[0] < 1e-6
    assert null.check(x[-168:] - 1.0).p_value[0] > 0.9
    assert null.check(x[-168:] + 0.25).effect[0] == pytest.approx(0.1, abs=0.06)


@pytest.mark.parametrize("n", [24, 168, 500])
def test_a_check_costs_less_than_a_millisecond(n):
    x = autoregressive(0.9, 1, 5000 + n, np.random.default_rng(9))[0]
    null = NumericNull(x[:5000])
    null.calibrate(n)
    began = time.process_time()
    for _ in range(50):
        null.check(x[-n:])
    assert (time.process_time() - began) / 50 < 1e-3
