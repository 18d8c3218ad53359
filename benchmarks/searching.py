"""Whole trainings on simulated bars, in worker processes with environments of their own.

A worker is started once: it keeps one base path and one Prefect server, and answers each job
it reads with one line. Every search is a service of its own, so none knows of another.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO

import numpy as np
import pandas as pd

from mlops.data.simulator import simulate_bars
from mlops.service import Target
from mlops.settings import Settings
from mlops.stats.trading import net_returns, positions_from_edge, sharpe_per_bar

ROOT = Path(__file__).resolve().parents[1]
BARS_PER_YEAR = 365 * 24
LOG_TAIL = 3_000
"""Characters of a failed worker's log that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One search: the market it is made on, its costs and its effort."""

    case: str
    number: int
    r2: float
    form: str
    fee_bps: float
    bars: int = 10_000
    trials: int = 10
    refits: int = 4

    @property
    def symbol(self) -> str:
        return f"{self.case}{self.number}/USD".upper()

    @property
    def seed(self) -> int:
        """Seed of the bars; no two searches share a market."""
        return zlib.crc32(self.symbol.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a search; Sharpe ratios are annualised and after costs.

    ``backtest_sharpe`` is that of the best trial's walk-forward forecasts: what a person who
    looks at nothing else goes by. ``holdout_sharpe`` is the winner's on rows not yet seen.
    """

    case: str
    number: int
    registered: bool
    refused_by: tuple[str, ...]
    backtest_sharpe: float
    holdout_sharpe: float
    seconds: float


def search(job: Job, home: Path) -> Outcome:
    """Run the flow on one simulated market; the process's surroundings lie under ``home``."""
    from flows.train import train
    from mlops.search.config import ModelType, TrainingConfig

    began = time.monotonic()
    os.environ["FEE_BPS"] = str(job.fee_bps)
    bars = simulate_bars(job.bars, seed=job.seed, r2=job.r2, form=job.form)
    path = home / "bars.parquet"
    bars.to_parquet(path)
    result = train(
        job.symbol,
        ModelType.LSTM,
        venue="simulator",
        timeframe="1h",
        target=Target.RETURN,
        horizon=1,
        training=TrainingConfig(
            bars_file=str(path),
            trials=job.trials,
            families=(ModelType.LINEAR, ModelType.LSTM),
            refits=job.refits,
            holdout_refits=job.refits,
            seed=job.number,
        ),
    )
    return Outcome(
        case=job.case,
        number=job.number,
        registered=result.status == "challenger",
        refused_by=result.refused_by,
        backtest_sharpe=best_backtest(home / "studies" / result.service, bars, job.fee_bps),
        holdout_sharpe=result.evaluation["sharpe_ratio"].value,
        seconds=time.monotonic() - began,
    )


def best_backtest(studies: Path, bars: pd.DataFrame, fee_bps: float) -> float:
    """Sharpe ratio of the best of all kept trials on the rows that it forecast."""
    closes = bars["close"].to_numpy()
    returns = pd.Series(
        np.append(closes[1:] / closes[:-1] - 1.0, np.nan),
        bars.index + (bars.index[1] - bars.index[0]),
    ).tz_localize(None)
    ratios = []
    for path in sorted(studies.glob("*/*.parquet")):
        kept = pd.read_parquet(path)
        earned = returns.reindex(pd.DatetimeIndex(kept["made_at"])).to_numpy()
        net = net_returns(positions_from_edge(kept["forecast"]), earned, fee_bps=fee_bps)
        ratios.append(sharpe_per_bar(net) * BARS_PER_YEAR**0.5)
    return float(np.nanmax(ratios))


def answer(jobs: IO[str], replies: IO[str], home: Path) -> None:
    """Do jobs until there are no more: one line of JSON for each job and each answer."""
    for line in jobs:
        outcome = search(Job(**json.loads(line)), home)
        replies.write(json.dumps(asdict(outcome)) + "\n")
        replies.flush()


def run_jobs(
    jobs: Sequence[Job], home: Path, *, workers: int, tell: Callable[[Outcome], None]
) -> list[Outcome]:
    """All outcomes, in the order in which searches ended.

    Raises:
        RuntimeError: when a worker ends early, with the end of its log.
    """
    waiting: SimpleQueue[Job] = SimpleQueue()
    for job in jobs:
        waiting.put(job)
    outcomes: list[Outcome] = []

    def serve(number: int) -> None:
        with _worker(home / f"worker-{number}") as ask:
            while True:
                try:
                    job = waiting.get_nowait()
                except Empty:
                    return
                outcomes.append(ask(job))
                tell(outcomes[-1])

    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(serve, number) for number in range(workers)]:
            done.result()
    return outcomes


@contextmanager
def _worker(home: Path) -> Iterator[Callable[[Job], Outcome]]:
    home.mkdir(parents=True)
    log = home / "worker.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.searching", str(home / "base")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=home,  # where no .env of the user's lies
            env=surroundings(),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        jobs, replies = process.stdin, process.stdout

        def ask(job: Job) -> Outcome:
            jobs.write(json.dumps(asdict(job)) + "\n")
            jobs.flush()
            reply = replies.readline()
            if not reply:
                process.wait()  # until its last words are written
                raise RuntimeError(f"the search {job} failed:\n{log.read_text()[-LOG_TAIL:]}")
            known = json.loads(reply)
            return Outcome(**{**known, "refused_by": tuple(known["refused_by"])})

        try:
            yield ask
        finally:
            jobs.close()
            process.wait()
            replies.close()


def surroundings() -> dict[str, str]:
    """The environment without any setting of the user's, one thread for every library."""
    ours = {name.upper() for name in Settings.model_fields}
    kept = {name: value for name, value in os.environ.items() if name.upper() not in ours}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def main(home: Path) -> None:
    """Answer jobs on stdin; whatever libraries print goes to the log."""
    from deployments.demo.__main__ import SERVER_UP_S, running_prefect, set_environment

    set_environment(home)
    with running_prefect(home) as server, os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)
        server.wait_until_up(within_s=SERVER_UP_S)
        answer(sys.stdin, replies, home)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
