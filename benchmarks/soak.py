"""One replica at half of its greatest rate while version after version goes live.

Three fits of one network take turns by canary, blue-green and rolling rollouts, so each rollout
loads a version anew and lets another go. The replica itself carries them out.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count, cycle
from pathlib import Path
from threading import Event, Thread

import numpy as np
from rich.console import Console

from benchmarks import peers
from benchmarks.figure import Figure
from benchmarks.load import Load, Report, Running, measure
from benchmarks.peers import Served, serving
from benchmarks.served import SERVICE, Place, add_version, make_place, questions
from benchmarks.serving import CLIENT_CORE, CROWD, SERVER_CORE
from mlops.data.market_clock import market_now
from mlops.data.recent_bars import RecentBars
from mlops.errors import RolloutRefused
from mlops.registry import load
from mlops.rollout.plan import Strategy, plan_for
from mlops.rollout.request import request_rollout
from mlops.service import Service
from mlops.store import Phase, Why, list_rollouts
from mlops.store.forecasts import ForecastRow, list_forecasts

STRATEGIES = (Strategy.CANARY, Strategy.BLUE_GREEN, Strategy.ROLLING)
VERSIONS = 3
EVERY_S = 20.0
LAST_S = 15.0
"""Seconds before the end in which no rollout begins, because it could not end in time."""

END_S = 60.0
"""Seconds that the last rollout may take after the load."""

SETTLE_S = 5.0
"""The forecast of a bar that closed this many seconds before the end may not be stored yet."""

LOOK_S = 0.5
MEBIBYTE = 1024.0
TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """Seconds of each part; memory is compared from ``settled_s`` on."""

    peak_s: float = 8.0
    quiet_s: float = 30.0
    soak_s: float = 300.0
    settled_s: float = 60.0
    compared_s: float = 20.0


QUICK = Length(peak_s=2.0, quiet_s=5.0, soak_s=20.0, settled_s=8.0, compared_s=4.0)


@dataclass(slots=True)
class Memory:
    """Resident MiB of a process, sampled at intervals."""

    at_s: list[float] = field(default_factory=list)
    mebibytes: list[float] = field(default_factory=list)

    def between(self, first_s: float, last_s: float) -> float:
        """The median of the samples between two moments."""
        pairs = zip(self.at_s, self.mebibytes, strict=True)
        return float(np.median([size for at, size in pairs if first_s <= at <= last_s]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Soaked:
    """The results of one run."""

    peak: Report
    quiet: Report
    loaded: Report
    memory: Memory
    rollouts: Counter[str]
    due: int
    missing: int
    double: int
    wrong: int


def start_rollout(place: Place, model_id: str, strategy: Strategy) -> str:
    """Request the rollout of a version, with seconds where usual plans have minutes; its id."""
    plan = plan_for(strategy, gate_s=30.0, dwell_s=1.0, hold_s=30.0, bake_s=2.0)
    why = Why(at=datetime.now(UTC), actor="benchmark", reason="its turn in the soak")
    return request_rollout(place.registry.store, model_id, plan, why).id


def take_turns(place: Place, model_ids: Sequence[str], *, seconds: float) -> None:
    """Start a rollout every `EVERY_S` seconds; where the last one is not done, as soon as it is."""
    began = time.monotonic()
    # The first version is live already.
    turns = zip(count(), cycle((*model_ids[1:], model_ids[0])), cycle(STRATEGIES), strict=False)
    for number, model_id, strategy in turns:
        due = number * EVERY_S
        if due > seconds - LAST_S:
            return
        time.sleep(max(0.0, began + due - time.monotonic()))
        while not _started(place, model_id, strategy):
            if time.monotonic() - began > seconds:
                return
            time.sleep(LOOK_S)


def _started(place: Place, model_id: str, strategy: Strategy) -> bool:
    try:
        start_rollout(place, model_id, strategy)
    except RolloutRefused:
        return False
    return True


def await_rollouts(place: Place) -> None:
    """Wait for open rollouts; one that does not end counts with its phase."""
    until = time.monotonic() + END_S
    while time.monotonic() < until and not all(phase.final for phase in phases(place)):
        time.sleep(LOOK_S)


def phases(place: Place) -> list[Phase]:
    """The phase of each rollout."""
    return [rollout.phase for rollout in list_rollouts(place.registry.store)]


def records(place: Place) -> tuple[ForecastRow, ...]:
    """Every forecast of record of the service."""
    return list_forecasts(place.registry.store, SERVICE)


def bars_due(place: Place, began: datetime, ended: datetime) -> set[datetime]:
    """The newest complete bar of each second between two moments of the wall clock."""
    moment = [began]
    recent = RecentBars(
        place.home / "bars",
        clock=lambda market, first, last: market_now(market, first, last, moment[0]),
    )
    due = set()
    while moment[0] < ended:
        known = recent.load(Service.parse(SERVICE))
        assert known is not None
        due.add(known.frame.index[-1].to_pydatetime())
        moment[0] += timedelta(seconds=1)
    return due


def wrong_records(place: Place, rows: Sequence[ForecastRow]) -> int:
    """Forecasts of record that differ from what their version forecasts from their bar."""
    forecasters = {row.model_id: load(place.registry, row.model_id).forecaster for row in rows}
    opens = place.dataset.frame.index
    wrong = 0
    for row in rows:
        at = np.array([opens.get_loc(row.bar)])
        expected = forecasters[row.model_id].predict(place.dataset, at)[0]
        wrong += not abs(row.value - expected) <= TOLERANCE * max(1.0, abs(expected))
    return wrong


@contextmanager
def sampled(served: Served) -> Iterator[Memory]:
    """Sample the memory of a server for as long as the block lasts."""
    memory, over, began = Memory(), Event(), time.monotonic()

    def watch() -> None:
        while not over.wait(LOOK_S):
            memory.at_s.append(time.monotonic() - began)
            memory.mebibytes.append(resident_mebibytes(served.process.pid))

    thread = Thread(target=watch)
    thread.start()
    try:
        yield memory
    finally:
        over.set()
        thread.join()


def resident_mebibytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / MEBIBYTE


def soak(home: Path, length: Length) -> Soaked:
    """Measure the greatest rate and the quiet latency, then roll out versions under load."""
    console = Console(stderr=True)
    place = make_place(home / "base")
    others = [add_version(place, seed=seed) for seed in range(1, VERSIONS)]
    model_ids = [place.version.model_id, *(version.model_id for version in others)]
    asks = questions(place, others).bars
    with serving(peers.replica(place), home / "logs", core=SERVER_CORE) as served:
        began = datetime.now(UTC)

        def at(rate: float | None, seconds: float) -> Load:
            return Load(
                port=served.port,
                asks=asks,
                connections=CROWD,
                seconds=seconds,
                rate=rate,
                core=CLIENT_CORE,
            )

        peak = measure(at(None, length.peak_s))
        console.print(f"greatest rate: {peak}")
        quiet = measure(at(peak.rate / 2, length.quiet_s))
        console.print(f"half of it, nothing else: {quiet}, p99 {quiet.p99 * 1e3:.1f} ms")
        with sampled(served) as memory:
            running = Running(at(peak.rate / 2, length.soak_s))
            take_turns(place, model_ids, seconds=length.soak_s)
            loaded = running.report()
        await_rollouts(place)
        console.print(f"with rollouts: {loaded}, p99 {loaded.p99 * 1e3:.1f} ms")
        ended = datetime.now(UTC)
    # The replica has gone: what was on its way is in the store now.
    rows, due = records(place), bars_due(place, began, ended - timedelta(seconds=SETTLE_S))
    times = Counter(row.bar for row in rows)
    return Soaked(
        peak=peak,
        quiet=quiet,
        loaded=loaded,
        memory=memory,
        rollouts=Counter(map(str, phases(place))),
        due=len(due),
        missing=len(due - set(times)),
        double=sum(number > 1 for number in times.values()),
        wrong=wrong_records(place, rows),
    )


def judged(found: Soaked, length: Length) -> list[Figure]:
    """The promised figures."""
    times = found.loaded.p99 / found.quiet.p99
    first = found.memory.between(length.settled_s, length.settled_s + length.compared_s)
    last = found.memory.between(length.soak_s - length.compared_s, length.soak_s)
    failed = found.quiet.failed + found.loaded.failed
    done, asked = found.rollouts[str(Phase.DONE)], found.rollouts.total()
    return [
        Figure(
            f"p99 at half of the greatest rate, a rollout every {EVERY_S:g} s, {length.soak_s:g} s",
            f"{times:.2f} times its quiet value: {found.loaded.p99 * 1e3:.1f} ms; "
            f"{found.loaded.answered:,} right answers, {failed} failures "
            f"{dict(found.loaded.failures) or ''}",
            "within 3 times, no failure",
            times <= 3 and not failed,
            f"quiet: p99 {found.quiet.p99 * 1e3:.1f} ms at {found.quiet.rate:,.0f}/s; greatest "
            f"rate {found.peak.rate:,.0f}/s; worst answer {found.loaded.worst * 1e3:.0f} ms",
        ),
        Figure(
            f"growth of its memory after the first {length.settled_s:g} s",
            f"{last / first - 1:+.1%}, to {last:.0f} MiB",
            "< 5 %",
            last / first - 1 < 0.05,
            "resident, of the whole process; three versions loaded and let go in turn",
        ),
        Figure(
            "rollouts that ended with their version live",
            f"{done} of {asked}",
            "all",
            done == asked > 0,
            ", ".join(f"{name} {number}" for name, number in sorted(found.rollouts.items())),
        ),
        Figure(
            "forecasts of record",
            f"{found.due} due: {found.missing} missing, {found.double} double, {found.wrong} wrong",
            "none missing or double",
            not (found.missing or found.double or found.wrong) and found.due > 0,
            "each set against what its version makes of its bar",
        ),
    ]


def figures(*, quick: bool = False) -> list[Figure]:
    length = QUICK if quick else Length()
    with tempfile.TemporaryDirectory() as folder:
        return judged(soak(Path(folder), length), length)
