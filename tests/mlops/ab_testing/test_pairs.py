"""Pairs hold what both arms forecast; missing rows are told apart by whose fault they are."""

import numpy as np
import pytest

from mlops.ab_testing.pairs import Missing, Pairs, count_failures
from mlops.errors import GateError

TIMES = np.array(["2024-01-01T01", "2024-01-01T02", "2024-01-01T03"], dtype="datetime64[ns]")


def make_pairs(champion, challenger, closed_at=TIMES):
    return Pairs(
        horizon=1,
        closed_at=closed_at,
        champion_loss=np.array(champion),
        challenger_loss=np.array(challenger),
    )


def test_a_pair_needs_both_losses():
    pairs = make_pairs([1.0, np.nan, 3.0], [0.5, 1.0, np.inf]).finite()
    assert pairs.closed_at.tolist() == TIMES[:1].tolist()
    assert pairs.loss_columns().tolist() == [[0.5, 1.0]]


def test_columns_of_different_length_are_refused():
    with pytest.raises(GateError, match=r"\(3, 3, 2\)"):
        make_pairs([1.0, 2.0, 3.0], [1.0, 2.0])


@pytest.mark.parametrize("order", [[1, 0, 2], [0, 0, 1]])
def test_times_that_do_not_increase_are_refused(order):
    with pytest.raises(GateError, match="do not increase"):
        make_pairs([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], TIMES[order])


def test_only_faults_and_overruns_count_against_a_version():
    arm = {"fault": 2, "time_budget": 3, "not_loaded": 50, "unknown": 7}
    assert count_failures(arm) == 5
    assert Missing(bars=1000, holes=1, champion=arm, challenger=arm).replica_rows == 114
