"""One monitor run over five hundred services: bars read, outcomes matched, every champion watched.

It is what the hourly flow does between its first and its last task, each time in a process of its
own. The first look at a version fits its reference, later ones read it. `benchmarks.watched`
says what is watched.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.searching import surroundings
from benchmarks.watched import HOUR, Watched, make_watched
from tests.stores import start_postgres

SERVICES, QUICK_SERVICES = 500, 20
LIMIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run: wall and CPU seconds of the process, and counts of its results."""

    seconds: float
    busy: float
    matched: int
    looked: int
    official: int

    @property
    def each_ms(self) -> float:
        return 1000.0 * self.busy / max(1, self.looked)


def watch_once(now: datetime) -> list[Run]:
    """The first run of a process, then the next hour's, on the base path of the environment."""
    from tasks.monitoring import open_monitor_run

    began, busy = time.perf_counter(), time.process_time()
    watch = open_monitor_run(now + HOUR)  # the bars of both hours; each sees those it may
    runs = []
    for moment in (now, now + HOUR):
        matched, looked = watch.monitor.match_outcomes(moment), watch.monitor.look(moment)
        troubles = {entry.trouble for entry in matched} | {look.why_not for look in looked}
        if troubles != {""}:
            raise RuntimeError(f"some services were not watched: {troubles}")
        runs.append(
            Run(
                seconds=time.perf_counter() - began,
                busy=time.process_time() - busy,
                matched=sum(entry.new for entry in matched),
                looked=len(looked),
                official=sum(look.report is not None and look.report.official for look in looked),
            )
        )
        began, busy = time.perf_counter(), time.process_time()
    return runs


def catch_up(now: datetime) -> None:
    """Match the outcomes known before the first run, which are not part of the measurement."""
    from tasks.monitoring import open_monitor_run

    open_monitor_run(now).monitor.match_outcomes(now)


def in_a_fresh_process(watched: Watched, work: str, now: datetime) -> list[Run]:
    """The runs that a call of this module prints."""
    own = {"MLOPS_BASE_PATH": str(watched.home), "STORE_URL": watched.store_url}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.monitoring", work, now.isoformat()],
        cwd=watched.home,
        env=surroundings() | own,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the run at {now} failed:\n{done.stderr[-3_000:]}")
    return [Run(**figures) for figures in json.loads(done.stdout.splitlines()[-1])]


def over(watched: Watched, database: str) -> list[Figure]:
    """Figures of a first run, whose windows all decide, the next hour, and a later process."""
    in_a_fresh_process(watched, "catch-up", watched.begins - HOUR)
    deciding, next_hour = in_a_fresh_process(watched, "watch", watched.begins)
    quiet, _ = in_a_fresh_process(watched, "watch", watched.begins + 2 * HOUR)
    n = deciding.looked
    return [
        figure_of(f"{n} services on {database}, an ordinary hour in a fresh process", quiet),
        figure_of(
            f"{n} services on {database}, the first look: all are fitted, every window decides",
            deciding,
        ),
        figure_of(f"{n} services on {database}, the next hour in the same process", next_hour),
    ]


def figure_of(what: str, run: Run) -> Figure:
    return Figure(
        what,
        f"{run.busy:.1f} s of work, {run.each_ms:.0f} ms a service; {run.matched} outcomes "
        f"matched, {run.official} windows decided",
        f"<= {LIMIT_S:g} s",
        run.busy <= LIMIT_S,
        f"{run.seconds:.1f} s by the clock, neighbours included; one core",
    )


@contextmanager
def _stores(home: Path) -> Iterator[dict[str, str]]:
    servers = start_postgres(home)
    server = next(servers)
    server.create("watched")
    try:
        yield {"sqlite": f"sqlite:///{home / 'store.db'}", "postgres": server.url("watched")}
    finally:
        next(servers, None)


def figures(*, quick: bool = False) -> list[Figure]:
    services = QUICK_SERVICES if quick else SERVICES
    found: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="mlops-monitoring-") as folder:
        root = Path(folder)
        with _stores(root) as stores:
            for database, url in stores.items():
                watched = make_watched(root / database, url, services)
                found += over(watched, database)
    return found


def main(arguments: Sequence[str]) -> None:
    work, now = arguments[0], datetime.fromisoformat(arguments[1])
    if work == "catch-up":
        catch_up(now)
        print("[]")
    else:
        print(json.dumps([asdict(run) for run in watch_once(now)]))


if __name__ == "__main__":
    main(sys.argv[1:])
