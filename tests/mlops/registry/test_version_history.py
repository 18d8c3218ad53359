"""A version explains itself: the verdict, the data, the code, and who did what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlops.errors import VersionNotFound
from mlops.registry import Candidate, Registry, code_version, explain, register
from mlops.store import Status, Why, get_version
from mlops.validation.report import GateReport, GateResult
from tests.mlops.registry.conftest import AT, Populated

REPORT = GateReport(
    candidate="linear",
    target="volatility",
    mode="skill",
    alpha=0.05,
    results=(
        GateResult(
            name="G1", title="r2", value=0.7, threshold=0.5, passed=True, reason="above the floor"
        ),
        GateResult(
            name="G2", title="spa", value=0.4, threshold=0.05, passed=False, reason="could be luck"
        ),
    ),
)


@pytest.mark.usefixtures("unverified")
def test_a_refused_version_says_which_gate_refused_it(
    registry: Registry, candidate: Candidate
) -> None:
    judged = replace(candidate, status=Status.REFUSED, report=REPORT.to_dict())
    row = register(registry, judged, Why(AT, actor="ann", reason="nightly"))
    found = explain(registry, row.model_id)
    assert found.report == REPORT
    assert found.reasons == ("G2 spa: could be luck",)
    assert "was refused by the gates" in found.verdict
    assert "ann: register nightly" in str(found)


def test_an_explanation_names_data_and_code(populated: Populated) -> None:
    found = explain(populated.registry, populated.challenger)
    version = get_version(populated.registry.store, populated.challenger)
    assert f"bars {version.watermark[:12]} up to 2" in str(found)
    assert version.code_version == code_version()
    assert code_version() in str(found)


def test_the_baseline_needs_no_gate(populated: Populated) -> None:
    assert "needs no gate" in explain(populated.registry, populated.baseline).verdict


def test_an_unknown_version_is_said_to_be_unknown(populated: Populated) -> None:
    with pytest.raises(VersionNotFound, match="no version 'nobody'"):
        explain(populated.registry, "nobody")
