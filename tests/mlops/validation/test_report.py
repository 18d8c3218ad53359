"""Gate reports: what passes, how they read, how they are stored."""

import json
import math
from dataclasses import FrozenInstanceError

import pytest

from mlops.validation.report import GateReport, GateResult, Severity


def result(**changes):
    known = {"name": "G3", "title": "holdout", "value": 1.0, "threshold": 0.0, "passed": True}
    return GateResult(**known | {"reason": "the Sharpe ratio is 1.00", "n": 500} | changes)


def report(*results):
    return GateReport(candidate="m", target="return", mode="skill", alpha=0.05, results=results)


def test_only_a_hard_gate_refuses():
    noted = result(title="PSR", passed=False, severity=Severity.ADVISORY)
    assert report(result(), noted).passed
    assert not report(result(), result(passed=False)).passed


def test_a_refusal_names_gate_and_reason():
    refused = report(result(passed=False))
    assert refused.refused_by == (result(passed=False),)
    assert refused.reasons == ("G3 holdout: the Sharpe ratio is 1.00",)


@pytest.mark.parametrize("value", [0.1, math.nan, math.inf, -math.inf])
def test_a_report_survives_json_exactly(value):
    gates = report(result(value=value), result(severity=Severity.ADVISORY))
    text = json.dumps(gates.to_dict(), allow_nan=False)
    assert GateReport.from_dict(json.loads(text)) == gates


def test_a_report_cannot_be_altered():
    with pytest.raises(FrozenInstanceError):
        result().passed = True


def test_a_report_reads_as_a_table():
    lines = str(report(result(), result(name="G5", passed=False, value=math.nan))).splitlines()
    assert lines[0] == "m (return): refused by G5"
    assert "passed" in lines[2]
    assert "refused" in lines[3]
    assert "nan" not in lines[3]


def test_results_are_found_by_title_or_gate():
    gates = report(result(), result(name="G5", title="costs"))
    assert gates["costs"] is gates["G5"]
    with pytest.raises(KeyError, match="costs"):
        gates["beauty"]
