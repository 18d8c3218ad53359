"""A store that is away, and what must hold meanwhile and afterwards."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from mlops.store import Phase, list_forecasts
from tests.faults import cast
from tests.faults.laws import Count
from tests.faults.outage import GONE, LOCKED, SILENT, SLOW, away
from tests.faults.results import Published, Results
from tests.faults.stage import Stage
from tests.faults.template import GOOD, KEY
from tests.faults.world import World
from tests.lines import line_to

EXPIRY_S = cast.EXPOSURE_S + 4 * cast.BEAT_S
"""A share that was renewed just before the store went is over after this."""

RATE = 50
"""Requests a second: several outages are sat out at once."""

LONG = {"dwell_s": 3600.0, "hold_s": 7200.0}


def kinds_of(database: str) -> tuple[str, ...]:
    """How a store goes away; only a server can take a question and never answer."""
    return (GONE, LOCKED, SLOW) if database == "sqlite" else (GONE, LOCKED, SLOW, SILENT)


@dataclass(frozen=True, slots=True)
class Outage:
    """What came of it; ``exposed`` counts answers of the challenger after its share had ended."""

    count: Count
    exposed: int
    published: int
    on_record: int
    seconds: float


def sit_out(stage: Stage, database: str, kind: str, *, seconds: float) -> Outage:
    """Take the store away in the middle of a canary, give it back, and hold all to account."""
    with stage.world(f"away-{kind}", database) as world, ExitStack() as stack:
        line, url = (
            (None, None) if database == "sqlite" else stack.enter_context(line_to(world.url))
        )
        serving = world.replicas(url=url)
        world.prober(rate=RATE)
        row = world.ask(GOOD, **LONG)
        world.reaches(row, Phase.STEP)
        world.until(lambda: exposed(world.results()) > 0, "the challenger answers somebody")
        began = time.monotonic()
        before = len(world.results().published)
        with away(world, kind, line):
            time.sleep(seconds)
            during = _bars(world.results().published[before:])
        ended = time.monotonic()
        world.until(
            lambda: exposed(world.results(), ended) > 0, "the challenger has its share again"
        )
        world.until(lambda: _recorded_since(world, set(during)), "forecasts go on record again")
        world.abort(row)
        assert world.ends(row).phase is Phase.FAILED
        assert all(process.alive for process in serving), "a replica died of it"
        settle(world)
        count = world.check()
        results = world.results()
        seen = exposed(results, began + EXPIRY_S, ended)
        published, on_record = _check_forecasts(world, results)
        least = seconds / cast.BAR_S / 3
        assert len(during) >= least, f"{len(during)} bars were forecast, not {least:.0f}"
        assert seen == 0, f"{seen} answers by the challenger while nobody vouched for it"
        return Outage(count, seen, published, on_record, seconds)


def exposed(results: Results, since: float = 0.0, until: float = float("inf")) -> int:
    """Requests begun in that time that the challenger answered."""
    asked = results.between(since, until)
    return sum(one.answer.variant == "challenger" for one in asked)


def _bars(published: Sequence[Published]) -> dict[str, set[float | None]]:
    """Each bar whose forecast was handed out, and what it was."""
    bars: dict[str, set[float | None]] = {}
    for one in published:
        if one.status == 200 and one.bar is not None:
            bars.setdefault(one.bar, set()).add(one.value)
    return bars


def _recorded_since(world: World, known: set[str]) -> bool:
    """Whether a bar is on record that is none of those."""
    rows = list_forecasts(world.store, KEY)
    return any(row.bar.isoformat() not in known for row in rows[-3:])


def settle(world: World) -> None:
    """Wait until what was published by now has arrived."""
    bars = set(_bars(world.results().published))

    def arrived() -> bool:
        return bars <= {row.bar.isoformat() for row in list_forecasts(world.store, KEY)}

    world.until(arrived, "every forecast that was handed out is on record")


def _check_forecasts(world: World, results: Results) -> tuple[int, int]:
    """What was published is on record once, and says what was published."""
    rows = list_forecasts(world.store, KEY)
    twice = [bar for bar, times in Counter(row.bar for row in rows).items() if times > 1]
    assert not twice, f"on record twice: {twice}"
    on_record = {row.bar.isoformat(): row.value for row in rows}
    bars = _bars(results.published)
    other = {bar: values for bar, values in bars.items() if on_record.get(bar) not in values}
    assert not other, f"published and not on record: {other}"
    return len(bars), len(rows)
