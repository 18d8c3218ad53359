"""Real series by file alone: which calendar is recognised, and what a linear training ends with.

Each training runs through `flows.train` with the default settings on the file's own clock, in a
process with a base path and a Prefect server of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.extra_series import NOT_RUN, ExtraSeries, list_extra_series
from benchmarks.figure import Figure
from benchmarks.searching import LOG_TAIL, surroundings
from mlops.data.bars import Bars
from mlops.data.load import load_bars
from mlops.data.sources.files import FileSource

DAYS_AND_NIGHTS, SESSIONS = (1, 6, 24), (1, 7, 24)
"""Horizons of a market that never closes, and of one that trades in sessions."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training ended with; R2 and skill over the baseline are those of the holdout."""

    series: str
    horizon: int
    status: str
    refused_by: tuple[str, ...]
    r2: float
    skill: float
    seconds: float


def train_series(series: ExtraSeries, horizon: int) -> Trained:
    """Train the linear recipe on the volatility of a series, by its file alone."""
    from flows.train import train
    from mlops.search.config import ModelType, TrainingConfig
    from mlops.service import Target
    from mlops.settings import FileClock

    began = time.monotonic()
    result = train(
        series.symbol,
        ModelType.LINEAR,
        venue="file",
        timeframe=series.timeframe,
        target=Target.VOLATILITY,
        horizon=horizon,
        training=TrainingConfig(bars_file=str(series.path), file_clock=FileClock.REPLAY),
    )
    return Trained(
        series=series.name,
        horizon=horizon,
        status=result.status,
        refused_by=result.refused_by,
        r2=result.evaluation["r2_score"].value,
        skill=result.evaluation["skill"].value,
        seconds=time.monotonic() - began,
    )


def read_series(series: ExtraSeries) -> Bars:
    return load_bars(
        symbol=series.symbol,
        timeframe=series.timeframe,
        source=FileSource(path=series.path),
        cache_root="unused",
    )


def horizons_of(bars: Bars) -> Sequence[int]:
    return DAYS_AND_NIGHTS if bars.calendar.name == "24/7" else SESSIONS


def describe(bars: Bars, name: str) -> str:
    """One line on a series: bars, span, calendar and holes."""
    opened = bars.frame.index
    return (
        f"{name}: {len(opened):,} bars, {opened[0]:%Y-%m} to {opened[-1]:%Y-%m}, calendar "
        f"{bars.calendar.name}, {len(bars.quality.holes)} holes"
    )


def figures(*, quick: bool = False) -> list[Figure]:
    found = list_extra_series()
    if not found:
        return [Figure("real series by file alone", NOT_RUN, "", holds=True)]
    bars = {series.name: read_series(series) for series in found}
    jobs = [
        (series.name, horizon)
        for series in found
        for horizon in horizons_of(bars[series.name])[: 1 if quick else None]
    ]
    return [figure_of(one, bars[one.series]) for one in _train_in_a_process(jobs)]


def figure_of(trained: Trained, bars: Bars) -> Figure:
    refused = f" by {', '.join(trained.refused_by)}" if trained.refused_by else ""
    return Figure(
        f"{describe(bars, trained.series)}; horizon {trained.horizon}",
        f"{trained.status}{refused}; R2 {trained.r2:.3f}, skill {trained.skill:.3f}",
        "challenger",
        trained.status == "challenger",
        f"{trained.seconds:.0f} s from file to model card",
    )


def _train_in_a_process(jobs: Sequence[tuple[str, int]]) -> list[Trained]:
    """Train in a process whose surroundings are its own.

    Raises:
        RuntimeError: when it ends early, with the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="series-") as folder:
        asked, answer, log = (Path(folder) / name for name in ("jobs", "answer", "log"))
        asked.write_text(json.dumps(jobs))
        with log.open("w") as errors:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.series", folder],
                cwd=folder,  # where no .env of the user's lies
                env=surroundings(),
                stdout=errors,
                stderr=errors,
                check=False,
            )
        if done.returncode:
            raise RuntimeError(f"the trainings failed:\n{log.read_text()[-LOG_TAIL:]}")
        return [
            Trained(**{**known, "refused_by": tuple(known["refused_by"])})
            for known in json.loads(answer.read_text())
        ]


def main(folder: Path) -> None:
    """Do the jobs of the file ``jobs`` and write what came of them to ``answer``."""
    from deployments.demo.__main__ import SERVER_UP_S, running_prefect, set_environment

    series = {one.name: one for one in list_extra_series()}
    home = folder / "base"
    set_environment(home)
    with running_prefect(home) as server:
        server.wait_until_up(within_s=SERVER_UP_S)
        jobs = json.loads((folder / "jobs").read_text())
        trained = [train_series(series[name], horizon) for name, horizon in jobs]
    (folder / "answer").write_text(json.dumps([asdict(one) for one in trained]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
