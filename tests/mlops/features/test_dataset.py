"""A dataset's windows are views, bridge no hole, and its features are kept by content."""

import numpy as np
import pytest

from mlops.data.simulator import simulate_bars
from mlops.errors import FeatureError
from mlops.features.dataset import Dataset, windows
from mlops.features.spec import FeatureSpec
from mlops.features.targets import TargetSpec
from mlops.service import Target, Timeframe

SHORT = FeatureSpec(("close", "volume"))
T = 10


def dataset(frame, **options):
    target = TargetSpec(Target.VOLATILITY, 6)
    return Dataset(frame, timeframe=Timeframe("1h"), target=target, **options)


def test_a_hole_in_the_bars_is_found_by_the_calendar(holed):
    data = dataset(holed[0])
    assert np.array_equal(data.holes, holed[1])


def test_no_usable_window_crosses_a_hole_or_the_warm_up(holed):
    data = dataset(holed[0])
    rows = np.flatnonzero(data.usable(SHORT, T))
    missing = set(range(len(data))) - set(rows.tolist())
    assert missing == set(range(SHORT.warm_up + T - 1)) | set(range(800, 800 + T - 1))


def test_consecutive_bars_fill_every_usable_window(holed):
    data = dataset(holed[0])
    stamps = data.bars.open_time
    for row in np.flatnonzero(data.usable(SHORT, T)):
        assert stamps[row] - stamps[row - T + 1] == np.timedelta64(T - 1, "h")


def test_labelled_rows_have_a_window_and_a_label(holed):
    data = dataset(holed[0])
    rows = data.labelled(SHORT, T)
    assert data.labels.valid[rows].all()
    assert rows[-1] == len(data) - 7
    assert not set(range(794, 809)) & set(rows.tolist())


def test_windows_of_consecutive_rows_share_the_matrix(frame):
    matrix = dataset(frame).matrix(SHORT)
    cut = windows(matrix, np.arange(100, 200), T)
    assert cut.shape == (100, T, 2)
    assert np.shares_memory(cut, matrix)
    assert np.array_equal(cut[5], matrix[96:106])


def test_windows_of_scattered_rows_end_at_their_row(frame):
    matrix = dataset(frame).matrix(SHORT)
    cut = windows(matrix, np.array([700, 50, 51]), T)
    assert np.array_equal(cut[0], matrix[691:701])
    assert np.array_equal(cut[1], matrix[41:51])


def test_a_window_before_the_first_row_is_refused(frame):
    with pytest.raises(FeatureError, match="row 5 has no window of 10"):
        windows(dataset(frame).matrix(SHORT), np.array([5]), T)


def test_no_rows_give_no_windows(frame):
    matrix = dataset(frame).matrix(SHORT)
    assert windows(matrix, np.array([], dtype=int), T).shape == (0, T, 2)
    assert windows(matrix[:3], np.array([], dtype=int), T).shape == (0, T, 2)


def test_features_are_made_once_and_cannot_be_changed(frame):
    data = dataset(frame)
    assert data.matrix(SHORT) is data.matrix(FeatureSpec(("close", "volume")))
    with pytest.raises(ValueError, match="read-only"):
        data.matrix(SHORT)[0, 0] = 1.0


def test_live_bars_have_features_and_a_naive_forecast_before_any_label(frame):
    live = dataset(frame.iloc[:60])
    assert live.usable(SHORT, T)[-1]
    assert np.isfinite(live.labels.persistence[-1])
    assert not live.labels.valid[-1]


def test_features_on_disk_are_found_by_content_and_specification(frame, tmp_path, monkeypatch):
    made = dataset(frame, cache_dir=tmp_path).matrix(SHORT)
    monkeypatch.setattr("mlops.features.dataset.compute_features", None)
    again = dataset(frame.copy(), cache_dir=tmp_path).matrix(SHORT)
    np.testing.assert_array_equal(again, made)


@pytest.mark.parametrize("change", ["value", "features", "holes"])
def test_other_content_is_not_served_from_disk(frame, tmp_path, change):
    dataset(frame, cache_dir=tmp_path).matrix(SHORT)
    other, spec = frame.copy(), SHORT
    if change == "value":
        other.iloc[3, 4] += 1e-6
    if change == "features":
        spec = FeatureSpec(("volume", "close"))
    if change == "holes":
        other = other.drop(other.index[9])
    dataset(other, cache_dir=tmp_path).matrix(spec)
    assert len(list(tmp_path.glob("*.npy"))) == 2


def test_a_damaged_file_is_made_anew(frame, tmp_path):
    made = dataset(frame, cache_dir=tmp_path).matrix(SHORT)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    np.testing.assert_array_equal(dataset(frame, cache_dir=tmp_path).matrix(SHORT), made)
    assert dataset(frame, cache_dir=tmp_path).matrix(SHORT).shape == made.shape


def test_a_users_feature_is_never_kept_on_disk(frame, tmp_path, plant):
    """Its formula may change under the same name."""
    plant("body", lambda bars: bars.close / bars.open)
    dataset(frame, cache_dir=tmp_path).matrix(FeatureSpec(("body",)))
    assert not list(tmp_path.iterdir())


def test_a_feature_missing_after_its_warm_up_is_refused_by_name_and_bar(frame, plant):
    plant("gappy", lambda bars: np.where(np.arange(len(bars)) == 50, np.nan, 1.0))
    with pytest.raises(FeatureError, match=r"'gappy' is nan at bar 2020-01-03 02:00"):
        dataset(frame).matrix(FeatureSpec(("close", "gappy")))


def test_a_hundred_thousand_windows_cost_no_more_than_their_bars():
    """The million-bar figure is printed by the benchmark; views make it linear in bars."""
    import tracemalloc

    frame = simulate_bars(100_000, seed=1)
    spec = FeatureSpec()
    tracemalloc.start()
    data = dataset(frame)
    cut = windows(data.matrix(spec), data.labelled(spec, 100), 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert cut.nbytes > 250e6
    assert peak < 25e6


def test_bars_as_arrays_make_the_same_dataset_as_their_frame(holed):
    framed = dataset(holed[0])
    arrayed = Dataset.of_bars(framed.bars, timeframe=framed.timeframe, target=framed.target)
    assert np.array_equal(arrayed.matrix(SHORT), framed.matrix(SHORT), equal_nan=True)
    assert np.array_equal(arrayed.labels.y, framed.labels.y, equal_nan=True)
    assert np.array_equal(arrayed.labels.known_at, framed.labels.known_at, equal_nan=True)
    assert arrayed.content_hash == framed.content_hash
    assert arrayed.frame.index.equals(framed.frame.index)


@pytest.mark.parametrize("kind", list(Target))
def test_the_naive_forecast_alone_makes_no_label(frame, kind):
    data = Dataset(frame, timeframe=Timeframe("1h"), target=TargetSpec(kind, 6))
    naive = data.persistence
    assert "labels" not in vars(data)
    assert data.labels.persistence is naive
