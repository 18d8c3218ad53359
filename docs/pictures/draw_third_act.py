"""Draws the third act of the demo from the rows it left: price, volatility, and what was live.

    make demo
    .venv/bin/python docs/pictures/draw_third_act.py .mlops/demo/past docs/pictures/third-act.png

The first argument is the base path of the third act. The rows are those that the demo's report
draws; here they are drawn narrow, with large letters, so that the picture can be read on a phone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.dates import DateFormatter, MonthLocator
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from mlops import load_bars
from mlops.paths import sqlite_url
from mlops.reports.figures import BAD, BASELINE, GOOD, INK, MODEL, MUTED
from mlops.store import list_routes, open_store
from mlops.store.outcomes import Role, read_matched

COLOURS = (MODEL, GOOD, BASELINE, MUTED)


def draw(home: Path, picture: Path) -> None:
    """Read the store under ``home`` and write ``picture`` as a PNG."""
    store = open_store(sqlite_url(home.resolve() / "store.db"))
    service = list_routes(store)[0].service
    rows = read_matched(store, service, role=Role.RECORD)
    bars = load_bars(venue="sample", symbol="BTC/USD", timeframe="1h", cache_root=home / "bars")
    close = bars.frame["close"].loc[pd.Timestamp(rows.bar[0], tz="UTC") :]
    close = close.loc[: pd.Timestamp(rows.bar[-1], tz="UTC")]

    figure = Figure(figsize=(5.6, 6.2), layout="constrained", facecolor="white")
    price, volatility, live = figure.subplots(3, sharex=True, height_ratios=(3, 4, 1))
    price.plot(close.index.tz_localize(None), close, color=INK, lw=1)
    price.set_ylabel("BTC, USD")
    volatility.plot(rows.bar, percent(rows.value), color=BASELINE, lw=0.9, label="outcome")
    volatility.plot(rows.bar, percent(rows.forecast), color=MODEL, lw=1.2, label="forecast")
    volatility.set_yscale("log")
    volatility.set_yticks([0.05, 0.1, 0.2, 0.5, 1, 2], ["0.05", "0.1", "0.2", "0.5", "1", "2"])
    volatility.yaxis.set_minor_locator(NullLocator())
    volatility.set_ylabel("volatility, % an hour")
    volatility.legend(loc="lower right", frameon=False)

    names = rows.model_id.astype(str)
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    ends = np.r_[starts[1:], len(names) - 1]
    for number, (first, last) in enumerate(zip(starts, ends, strict=True)):
        live.axvspan(rows.bar[first], rows.bar[last], color=COLOURS[number], alpha=0.5, lw=0)
        live.text(rows.bar[first], 0.5, f" model {number + 1}", color=INK, va="center")
        if number:
            for axes in (price, volatility, live):
                axes.axvline(rows.bar[first], color=BAD, lw=1, ls=":")
            price.annotate(" retrained, live", (rows.bar[first], 0.97), color=BAD, va="top",
                           xycoords=("data", "axes fraction"))  # fmt: skip
    live.set_yticks([])
    live.set_ylabel("live")
    live.xaxis.set_major_locator(MonthLocator(bymonthday=(1, 15)))
    live.xaxis.set_major_formatter(DateFormatter("%-d %b"))
    live.set_xlabel("2018, UTC")
    for axes in (price, volatility, live):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=140)


def percent(logarithm: np.ndarray) -> np.ndarray:
    """A log volatility as percent of the price."""
    return 100 * np.exp(logarithm)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
