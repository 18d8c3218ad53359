"""Features that look ahead are refused by name, and honest ones leave a proof."""

import json

import numpy as np
import pandas as pd
import pytest

from mlops.data.bars import content_hash
from mlops.data.calendar import load_calendar
from mlops.errors import InsufficientData, LookaheadError
from mlops.features.causality import CausalityProof, prove_causality
from mlops.features.indicators import INDICATORS
from mlops.features.spec import FeatureSpec
from mlops.service import Timeframe


def prove(frame, spec, *, seed=0, **options):
    calendar = load_calendar("24/7")
    return prove_causality(
        frame, spec, timeframe=Timeframe("1h"), calendar=calendar, seed=seed, **options
    )


def centred_mean(bars):
    return pd.Series(bars.change).rolling(5, center=True, min_periods=1).mean().to_numpy()


def next_change(bars):
    return pd.Series(bars.change).shift(-1).to_numpy()


def next_change_filled(bars):
    return pd.Series(bars.change).shift(-1).fillna(0.0).to_numpy()


def full_sample_score(bars):
    return (bars.change - bars.change.mean()) / bars.change.std()


def full_sample_rank(bars):
    return pd.Series(bars.volume).rank(pct=True).to_numpy()


def filled_backwards(bars):
    return pd.Series(bars.change).where(bars.change > 0.008).bfill().fillna(0.0).to_numpy()


def position_from_the_end(bars):
    return np.arange(len(bars), 0, -1.0)


def smoothed_both_ways(bars):
    from scipy.signal import filtfilt

    return filtfilt([0.1], [1.0, -0.9], bars.change)


CHEATS = [
    centred_mean,
    next_change,
    next_change_filled,
    full_sample_score,
    full_sample_rank,
    filled_backwards,
    position_from_the_end,
    smoothed_both_ways,
]


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.__name__)
def test_a_planted_look_ahead_is_refused_with_feature_and_bar(frame, plant, cheat):
    plant("planted", cheat)
    with pytest.raises(LookaheadError, match="'planted' looks ahead: its value at bar 20") as no:
        prove(frame, FeatureSpec(("close", "planted", "rsi")))
    assert no.value.feature == "planted"
    assert pd.Timestamp(no.value.bar.removesuffix(" UTC"), tz="UTC") in frame.index


def test_a_centred_mean_is_caught_at_the_bars_before_the_cut(frame, plant):
    """Two bars a side: with one sample, only the two bars at the cut can tell."""
    plant("planted", centred_mean)
    with pytest.raises(LookaheadError) as refusal:
        prove(frame, FeatureSpec(("planted",)), n_bars=1)
    assert refusal.value.bar == frame.index[-3].strftime("%Y-%m-%d %H:%M UTC")


def test_every_built_in_feature_is_proven(holed):
    proof = prove(holed[0], FeatureSpec(tuple(INDICATORS)))
    assert proof.largest_change == 0.0
    assert proof.tests == 2 * len(proof.bars) == 64


def test_a_causal_feature_of_a_user_is_proven(frame, plant):
    plant("honest", lambda bars: pd.Series(bars.close).pct_change(3).to_numpy(), warm_up=3)
    assert prove(frame, FeatureSpec(("honest",))).features == ("honest",)


def test_the_proof_names_its_data_and_features_and_survives_json(frame):
    spec = FeatureSpec(("close", "macd"))
    proof = prove(frame, spec)
    assert (proof.data_digest, proof.spec_digest) == (content_hash(frame), spec.digest)
    assert CausalityProof.from_dict(json.loads(json.dumps(proof.to_dict()))) == proof


def test_the_same_seed_samples_the_same_bars(frame):
    spec = FeatureSpec(("close",))
    assert prove(frame, spec) == prove(frame, spec)
    assert prove(frame, spec).bars != prove(frame, spec, seed=1).bars


def test_bars_that_end_with_the_warm_up_are_too_few_for_a_proof(frame):
    spec = FeatureSpec(("har_168",))
    with pytest.raises(InsufficientData, match="at least 170 bars but got 169"):
        prove(frame.iloc[:169], spec)
    assert prove(frame.iloc[:170], spec).tests == 2
