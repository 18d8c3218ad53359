"""A record too good to be true is stopped by G1, until a person answers for it."""

from pathlib import Path

import pytest

from mlops.data.simulator import simulate_bars
from tests.project import Place

ANSWERED = {"actor": "ada", "reason": "the simulator planted it"}


@pytest.fixture
def too_good(tmp_path: Path) -> str:
    """Bars whose next return is mostly known in advance, which no market offers."""
    path = tmp_path / "planted.parquet"
    simulate_bars(2400, seed=4, r2=0.6).to_parquet(path)
    return str(path)


def test_a_leak_alarm_refuses_until_a_person_answers_for_it(project: Place, too_good: str) -> None:
    asked = {"target": "return", "horizon": 1, "bars_file": too_good}
    features = {"features": ("log_return", "volume"), "sequence_length": 1}
    alarmed = project.train(**asked, **features)
    answered = project.train(**asked, **features, leak_override=ANSWERED)

    assert any(refusal.startswith("G1") for refusal in alarmed.refused_by)
    assert not any(refusal.startswith("G1") for refusal in answered.refused_by)
