"""What was found of bars is kept as JSON, in counts and first dates."""

from __future__ import annotations

import json

import pandas as pd

from mlops.data.findings import Findings
from tests.mlops.data.conftest import make_bars
from tests.mlops.data.odd_bars import Loaded, at, loaded, with_bad_prints

__all__ = ["loaded"]


def test_findings_are_read_back_from_json(loaded: Loaded) -> None:
    frame = with_bad_prints(make_bars(500), range(100, 103)).drop([at(300)])
    rows = pd.concat([frame, frame.iloc[[1]]]).rename_axis("time")
    found = Findings.of(loaded(rows, stamps="close"))
    assert Findings.from_dict(json.loads(json.dumps(found.to_dict()))) == found
