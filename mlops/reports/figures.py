"""The pictures of the reports, and the only module that imports matplotlib.

Every function takes plain arrays and returns a PNG as a ``data:`` URI, so that a report is one
file that opens anywhere.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from mlops.arrays import FloatArray, TimeArray
from mlops.stats.trading import equity_curve

INK, MUTED, MODEL, BASELINE, GOOD, BAD = (
    "#1f2430",
    "#8a93a6",
    "#2563c9",
    "#e08a1e",
    "#2c8a57",
    "#c0392b",
)
MAX_POINTS = 1500
CALIBRATION_BINS = 12


def forecast_against_outcome(
    made_at: TimeArray,
    outcome: FloatArray,
    forecast: FloatArray,
    baseline: FloatArray,
    *,
    unit: str,
) -> str:
    """Outcome, forecast and baseline over time; long series are thinned to `MAX_POINTS`."""
    keep = slice(None, None, max(1, len(outcome) // MAX_POINTS))
    with _figure(height=3.2) as (figure, axes):
        axes.plot(made_at[keep], outcome[keep], color=MUTED, lw=0.9, label="outcome")
        axes.plot(made_at[keep], baseline[keep], color=BASELINE, lw=0.8, label="baseline")
        axes.plot(made_at[keep], forecast[keep], color=MODEL, lw=1.1, label="forecast")
        axes.set_ylabel(unit)
        axes.legend(ncols=3, loc="upper left")
        return _encode(figure)


def skill_by_fold(labels: Sequence[str], skills: Mapping[str, Sequence[float]]) -> str:
    """One bar for each fold and baseline: the share of the baseline's squared error removed."""
    palette = [MODEL, BASELINE, GOOD, MUTED]
    width = 0.8 / max(1, len(skills))
    with _figure(height=2.8) as (figure, axes):
        for place, (name, values) in enumerate(skills.items()):
            left = np.arange(len(labels)) + place * width
            colour = palette[place % len(palette)]
            axes.bar(left, 100 * np.asarray(values), width, color=colour, label=f"over {name}")
        axes.axhline(0, color=INK, lw=0.8)
        axes.set_xticks(np.arange(len(labels)) + 0.4 - width / 2, labels)
        axes.set_ylabel("squared error removed, %")
        axes.legend(ncols=max(1, len(skills)))
        return _encode(figure)


def equity_and_drawdown(
    made_at: TimeArray, net_returns: FloatArray, baseline_returns: FloatArray
) -> str:
    """Growth of one unit after costs, above the fall from its last peak."""
    with _figure(height=3.8, rows=2, shared=True) as (figure, axes):
        curves = ((net_returns, MODEL, "model"), (baseline_returns, BASELINE, "baseline"))
        for returns, colour, label in curves:
            equity = equity_curve(np.nan_to_num(returns))
            peak = np.maximum.accumulate(np.maximum(equity, 1.0))
            axes[0].plot(made_at, equity, color=colour, lw=1.1, label=label)
            axes[1].fill_between(made_at, 100 * (equity / peak - 1), color=colour, alpha=0.35)
        axes[0].set_ylabel("equity after costs")
        axes[1].set_ylabel("drawdown, %")
        axes[0].legend(ncols=2)
        return _encode(figure)


def calibration(outcome: FloatArray, forecast: FloatArray, *, unit: str) -> str:
    """Mean outcome in each twelfth of the forecasts; a calibrated model lies on the diagonal."""
    order = np.argsort(forecast)
    groups = [group for group in np.array_split(order, CALIBRATION_BINS) if len(group)]
    expected = np.array([forecast[group].mean() for group in groups])
    observed = np.array([outcome[group].mean() for group in groups])
    with _figure(height=3.2, width=4.2) as (figure, axes):
        axes.plot(expected, expected, color=MUTED, lw=1, ls="--", label="calibrated")
        axes.plot(expected, observed, "o-", color=MODEL, lw=1, ms=4, label="model")
        axes.set_xlabel(f"forecast, {unit}")
        axes.set_ylabel(f"mean outcome, {unit}")
        axes.legend()
        return _encode(figure)


def trials(names: Sequence[str], statistics: Sequence[float], *, winner: str) -> str:
    """Every trial that was counted, by the statistic it was ranked by, the winner marked."""
    order = np.argsort(statistics)
    colours = [GOOD if names[place] == winner else MUTED for place in order]
    with _figure(height=0.9 + 0.26 * len(names)) as (figure, axes):
        axes.barh([names[place] for place in order], np.asarray(statistics)[order], color=colours)
        axes.axvline(0, color=INK, lw=0.8)
        axes.set_xlabel("t-statistic of the gain over the benchmark")
        return _encode(figure)


def traffic(
    seconds: FloatArray,
    answered: Mapping[str, FloatArray],
    failed: FloatArray,
    marks: Sequence[tuple[float, str]],
) -> str:
    """Answers a second by variant, stacked, with failed requests as crosses.

    Args:
        seconds: Middles of the bins (n,).
        answered: Answers a second by variant, each (n,).
        failed: Failed requests a second (n,).
        marks: Moments on the same axis in seconds, each with a text.
    """
    palette = {"champion": MODEL, "challenger": GOOD, "previous": BASELINE, "baseline": MUTED}
    with _figure(height=3.4) as (figure, axes):
        colours = [palette.get(name, INK) for name in answered]
        axes.stackplot(seconds, list(answered.values()), labels=list(answered), colors=colours,
                       alpha=0.75, step="mid", lw=0)  # fmt: skip
        total = np.sum(list(answered.values()), axis=0)
        bad = failed > 0
        axes.plot(seconds[bad], failed[bad], "x", color=BAD, label="failed")
        top = float(total.max(initial=1.0))
        for place, (at, text) in enumerate(marks):
            axes.axvline(at, color=INK, lw=0.7, ls=":")
            axes.text(at, top * (1.04 + 0.09 * (place % 3)), f" {text}", fontsize=7, color=INK)
        axes.set_ylim(0, top * 1.35)
        axes.set_xlabel("seconds")
        axes.set_ylabel("answers a second")
        figure.legend(ncols=5, loc="outside lower left")
        return _encode(figure)


def draw_confidence_sequence(
    pairs: FloatArray,
    gain: FloatArray,
    low: FloatArray,
    high: FloatArray,
    *,
    zone: float,
    first: int,
    verdict: str,
) -> str:
    """The challenger's gain against the number of pairs, with the band that holds at every look.

    Args:
        pairs: Pairs of each look (n,).
        gain: Mean loss difference as a share of the champion's loss (n,).
        low, high: Bounds of the difference, in the same unit (n,); NaN before the looks that
            count.
        zone: Shares within plus and minus this are equivalent.
        first: Pairs before which no look counts.
        verdict: Written at the last look.
    """
    with _figure(height=3.6) as (figure, axes):
        axes.axhspan(-100 * zone, 100 * zone, color=BASELINE, alpha=0.25, lw=0, label="equivalent")
        axes.axhline(0, color=INK, lw=0.8)
        axes.fill_between(pairs, 100 * low, 100 * high, color=MODEL, alpha=0.2, lw=0, label="band")
        axes.plot(pairs, 100 * gain, color=MODEL, lw=1.2, label="challenger's gain")
        axes.axvline(first, color=MUTED, lw=0.8, ls=":")
        known = np.isfinite(low) & np.isfinite(high)
        if known.any():
            # Early means are far off; the band and what follows it set the scale.
            reach = 100 * max(np.abs(low[known]).max(), np.abs(high[known]).max(), 2 * zone)
            axes.set_ylim(-1.15 * reach, 1.15 * reach)
        if len(pairs):
            axes.annotate(f"{verdict} ", (pairs[-1], 100 * gain[-1]), fontsize=8, color=INK,
                          ha="right", va="bottom")  # fmt: skip
        axes.set_xlabel("pairs")
        axes.set_ylabel("share of the champion's loss, %")
        axes.legend(ncols=3, loc="upper right")
        return _encode(figure)


def draw_history(
    bars: tuple[TimeArray, FloatArray],
    scored: tuple[TimeArray, FloatArray, FloatArray, FloatArray],
    spans: Sequence[tuple[np.datetime64, np.datetime64, str]],
    marks: Sequence[tuple[np.datetime64, str]],
    *,
    unit: str,
) -> str:
    """Price, forecasts against outcomes, and champions, above one another on one time axis.

    Args:
        bars: Times and closes (n,).
        scored: Times, outcomes, forecasts and the baseline's forecasts (m,).
        spans: When each champion served: first bar, last bar, name.
        marks: Moments that are drawn through all three, each with a text.
    """
    made_at, outcome, forecast, baseline = scored
    with _figure(height=6.4, rows=3, shared=True, ratios=(3, 4, 1)) as (figure, axes):
        axes[0].plot(*bars, color=INK, lw=0.9)
        axes[0].set_ylabel("price")
        axes[1].plot(made_at, outcome, color=MUTED, lw=0.7, label="outcome")
        axes[1].plot(made_at, baseline, color=BASELINE, lw=0.5, alpha=0.8, label="baseline")
        axes[1].plot(made_at, forecast, color=MODEL, lw=0.9, label="forecast of record")
        axes[1].set_ylabel(unit)
        axes[1].legend(ncols=3, loc="lower right")
        _draw_spans(axes[2], spans)
        for place, (at, text) in enumerate(marks):
            for panel in axes:
                panel.axvline(at, color=BAD, lw=0.8, ls=":")
            height = 0.98 - 0.1 * (place % 3)
            axes[0].annotate(f" {text}", (at, height), xycoords=("data", "axes fraction"),
                             fontsize=7, color=BAD, va="top")  # fmt: skip
        return _encode(figure)


def _draw_spans(axes: Any, spans: Sequence[tuple[np.datetime64, np.datetime64, str]]) -> None:
    """Draw a band for each champion, with its name where the band begins."""
    palette = [MODEL, GOOD, BASELINE, MUTED]
    names = list(dict.fromkeys(name for *_, name in spans))
    for began, ended, name in spans:
        colour = palette[names.index(name) % len(palette)]
        axes.axvspan(began, ended, color=colour, alpha=0.5, lw=0)
        axes.text(began, 0.5, f" {name}", fontsize=7, color=INK, va="center")
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_ylabel("live")


@contextmanager
def _figure(
    *,
    height: float,
    width: float = 9.0,
    rows: int = 1,
    shared: bool = False,
    ratios: Sequence[float] | None = None,
) -> Iterator[tuple[Any, Any]]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: Any = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "legend.frameon": False,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
    }
    with rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(rows, sharex=shared, height_ratios=ratios)


def _encode(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
