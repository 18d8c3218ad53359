"""Notes on how far a drift report can be trusted, in sentences for the reader of the report."""

from __future__ import annotations

from collections.abc import Sequence

from mlops.monitoring.drift.column_test import (
    MIN_INDEPENDENT,
    MIN_REFERENCE_BARS,
    MIN_WINDOWS,
    ColumnDrift,
    ColumnStatus,
)
from mlops.monitoring.drift.config import MIN_WINDOW_BARS, DriftConfig
from mlops.monitoring.drift.recommendation import Rejections

THIN = 2.0
"""A reference worth fewer than this many times `MIN_INDEPENDENT` windows is thin."""


def advise(
    columns: Sequence[ColumnDrift],
    tested: Sequence[ColumnDrift],
    rejections: Rejections,
    config: DriftConfig,
    rows: int,
) -> tuple[str, ...]:
    """Say what limits the report: short windows, thin references, small or isolated changes.

    Args:
        columns: All columns of the report.
        tested: Those of them that were tested.
        rejections: The rejections of the window.
        rows: Bars of the window.
    """
    lines = [*_advise_on_size(columns, rows), *_advise_on_evidence(tested, rejections, config)]
    if tested and rows < config.window_bars:
        lines.append(
            f"the window has {rows} bars instead of {config.window_bars}: only large changes show"
        )
    return tuple(lines)


def _advise_on_size(columns: Sequence[ColumnDrift], rows: int) -> list[str]:
    short = [c for c in columns if c.status is ColumnStatus.INSUFFICIENT_DATA]
    if not short:
        return []
    if rows < MIN_WINDOW_BARS:
        return [
            f"wait for {MIN_WINDOW_BARS} bars (there are {rows}); decisions need a whole window"
        ]
    supported = [c.largest_window for c in short if c.largest_window]
    if supported:
        return [f"choose a window of at most {min(supported)} bars, or a longer reference"]
    return [
        f"give {short[0].name} a longer reference: at least {MIN_REFERENCE_BARS:,} bars, "
        f"{MIN_WINDOWS} windows, and {MIN_INDEPENDENT:.0f} independent ones"
    ]


def _advise_on_evidence(
    tested: Sequence[ColumnDrift], rejections: Rejections, config: DriftConfig
) -> list[str]:
    noticed = [column for column in tested if column.name in rejections.noticed]
    lines = []
    thin = [c for c in noticed if c.independent_windows < THIN * MIN_INDEPENDENT]
    if thin:
        least = min(thin, key=lambda column: column.independent_windows)
        lines.append(
            f"{least.name} has a reference worth only {least.independent_windows:.0f} independent "
            f"windows of {least.n} bars: its p-value is rough; a longer reference sharpens it"
        )
    small = [c.name for c in noticed if c.effect < config.effect_threshold]
    if small:
        lines.append(
            f"significant but small ({', '.join(small)}): below the threshold of "
            f"{config.effect_threshold:g} a retraining would change little"
        )
    slow = [c for c in noticed if c.tau > c.n / 2]
    if slow:
        lines.append(
            f"{slow[0].name} moves slowly: {slow[0].n} bars are worth about "
            f"{max(1, round(slow[0].n / slow[0].tau))} independent ones; wait for the next window"
        )
    if len(noticed) == 1 and len(tested) >= 5 and not rejections.decided:
        lines.append(
            f"only {noticed[0].name} of {len(tested)} columns changed, by a level that one "
            "window in twenty reaches by chance"
        )
    return lines
