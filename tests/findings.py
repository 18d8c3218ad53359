"""Findings of bars, made to order."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from mlops.data.findings import BAD_PRINT, Findings, Sighting

CLEAN = Findings(
    rows_in=10_000,
    rows_out=10_000,
    begins=datetime(2024, 1, 1, tzinfo=UTC),
    ends=datetime(2025, 2, 20, 15, tzinfo=UTC),
    calendar="24/7",
    dropped={},
    suspected={},
    rebuilt={},
    holes=Sighting(0),
    missing=0,
    completeness=1.0,
    flat=0,
    reordered=False,
    warnings=(),
)


def findings_with(*, bad_prints: int = 0, **dropped: int) -> Findings:
    """Of 10,000 bars, with so many bad prints, and rows dropped beside them by reason."""
    return replace(
        CLEAN,
        rows_in=CLEAN.rows_out + sum(dropped.values()),
        dropped={reason: Sighting(count, (CLEAN.begins,)) for reason, count in dropped.items()},
        suspected={BAD_PRINT: Sighting(bad_prints, (CLEAN.begins,))} if bad_prints else {},
    )
