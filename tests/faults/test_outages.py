"""The store is away for a minute: serving goes on, nobody new is exposed, nothing is lost."""

from __future__ import annotations

import os

import pytest

from tests.faults.outage import GONE, LOCKED, SILENT, SLOW
from tests.faults.outages import sit_out
from tests.faults.stage import Stage

SECONDS = float(os.environ.get("OUTAGE_SECONDS", "60"))


@pytest.mark.beside
@pytest.mark.parametrize(
    ("database", "kind"),
    [
        *(("sqlite", kind) for kind in (GONE, LOCKED, SLOW)),
        *(("postgres", kind) for kind in (GONE, LOCKED, SLOW, SILENT)),
    ],
)
def test_while_the_store_is_away_replicas_serve_the_champion_and_keep_every_forecast(
    stage: Stage, database: str, kind: str
) -> None:
    sit_out(stage, database, kind, seconds=SECONDS)
