"""Evidence that contradicts itself is refused before it is judged."""

from dataclasses import replace

import numpy as np
import pytest

from mlops.errors import GateError
from mlops.validation.evidence import Override


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"n_trials": 3}, "ledger counts 3 trials but 6"),
        ({"n_trials": 0, "trials": None}, "ledger counts 0"),
        ({"winner": "trial 9"}, "not among the trials"),
        ({"winner": "trial 2"}, "not that of the winner"),
        ({"champion": np.zeros(3)}, "champion has 3 forecasts for 1500"),
    ],
)
def test_contradictory_evidence_is_refused_by_name(return_evidence, changes, message):
    evidence = return_evidence()
    with pytest.raises(GateError, match=message):
        replace(evidence, **changes)


def test_trials_must_forecast_the_same_rows(return_evidence):
    trials = dict(return_evidence().trials) | {"short": np.zeros(5)}
    with pytest.raises(GateError, match="short"):
        return_evidence(trials=trials, n_trials=7)


def test_records_of_two_targets_do_not_mix(return_evidence, volatility_evidence):
    with pytest.raises(GateError, match="different targets"):
        return_evidence(holdout=volatility_evidence().holdout)


def test_an_override_needs_a_person_and_a_reason():
    with pytest.raises(GateError, match="person and the reason"):
        Override(actor="ada", reason=" ")
