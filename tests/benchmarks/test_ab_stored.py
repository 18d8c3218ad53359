"""An A/A test through the store ends as the same losses do without one."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.ab_harness import PAIRS_A_LOOK
from benchmarks.ab_paths import BARS_A_WEEK, draw_better_challenger
from benchmarks.ab_stored import empty_store_file, run_stored_tests
from mlops.store import Verdict

RECORD_BARS = 10 * 2 * BARS_A_WEEK + 100


def test_a_plain_difference_is_found_through_the_store() -> None:
    rng = np.random.default_rng(3)
    pairs = 4 * PAIRS_A_LOOK
    paths = draw_better_challenger(rng, runs=1, bars=RECORD_BARS + pairs, r2=0.4)
    with empty_store_file() as template:
        ends, looks = run_stored_tests(paths, pairs=pairs, template=template)
    assert ends.words == [Verdict.BETTER]
    assert ends.pairs[0] in looks.at
    champion, challenger = (loss[0, -pairs:] for loss in paths.losses())
    read = looks.runs
    assert read.difference.shape == (1, pairs)
    # The scale is the service's own, which follows the returns.
    gain = read.difference.mean() / read.champion_loss.mean()
    assert gain == pytest.approx(1.0 - challenger.mean() / champion.mean(), abs=0.05)
