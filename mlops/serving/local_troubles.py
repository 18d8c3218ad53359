"""Troubles of one replica that the store cannot record, because they may be the store's own."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from mlops.data.bars_folder import describe_full_disk
from mlops.serving.forecast_spool import ForecastSpool
from mlops.serving.store_sync import StoreSync

AWAY_S = 60.0
"""A store is told as away after so long; a restart of its server takes less."""


def find_local_troubles(
    store_sync: StoreSync, spool: ForecastSpool, folders: Iterable[Path]
) -> dict[str, str]:
    """The troubles that there are now: their texts by subject.

    Args:
        folders: Those that this replica writes to.
    """
    away_since = store_sync.store_away_since
    away_s = 0.0 if away_since is None else time.monotonic() - away_since
    full = next((text for text in map(describe_full_disk, folders) if text), "")
    texts = {
        "store away": f"the store has been away for {away_s:.0f} s; serving goes on by what was "
        "last read, and forecasts wait in the spool"
        if away_s >= AWAY_S
        else "",
        "spool refused": spool.trouble,
        "disk full": full,
    }
    return {subject: text for subject, text in texts.items() if text}
