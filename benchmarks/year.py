"""A year of daily scheduled retrainings: the yearly budget refuses noise and promotes skill.

Each service is searched once on its first bars, as a person would ask for it, and from then on
the same request is asked again every day by a schedule (`benchmarks.retrains` says how near
this is to the flow). The first refit that passes ends its service's year. What the search
itself found is not rolled out, so that every refit is set against the baseline.

Beside it stand the same refits judged at the level of a search, as without the ledger.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import track

from benchmarks.figure import Figure
from benchmarks.retrains import LIMITS, hourly, retrain, search
from mlops.data.simulator import simulate_bars
from mlops.service import Service
from mlops.store import Store, open_store
from mlops.training.refit_policy import SEARCH_ALPHA
from mlops.validation.gates import judge

DAYS, BARS_A_DAY = 365, 24
SEARCHED_BARS = 2_000
SERVICES, QUICK_SERVICES = 40, 4
AT_MOST, AT_LEAST = 2, 0.8
WORKERS = 2


@dataclass(frozen=True, slots=True)
class World:
    """A kind of simulated market: its predictability and trading costs."""

    name: str
    r2: float
    fee_bps: float


NOISE = World("noise", 0.0, 0.0)
PLANTED = World("planted", 0.05, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Year:
    """The result of one service; days count from the search, None where nothing passed.

    ``promoted`` is judged as shipped, ``unbudgeted`` at the level of a search every day.
    """

    world: str
    searched: bool
    promoted: int | None
    unbudgeted: int | None


def live_a_year(store: Store, world: World, number: int, *, days: int = DAYS) -> Year:
    """Search on the first bars, then retrain every day until a refit passes."""
    symbol = f"{world.name}{number}/USD".upper()
    service = Service.of(
        venue="simulator", symbol=symbol, timeframe="1h", target="return", horizon=1
    )
    seed, n = zlib.crc32(symbol.encode()), SEARCHED_BARS + days * BARS_A_DAY
    bars = simulate_bars(n, seed=seed, r2=world.r2)
    first = search(store, service, hourly(bars[:SEARCHED_BARS]), fee_bps=world.fee_bps)
    year = Year(
        world=world.name,
        searched=judge(first, LIMITS).passed,
        promoted=None,
        unbudgeted=None,
    )
    for day in range(1, days + 1):
        known = hourly(bars[: SEARCHED_BARS + day * BARS_A_DAY])
        evidence = retrain(store, service, known, fee_bps=world.fee_bps)
        if year.unbudgeted is None:
            plain = judge(replace(evidence, alpha=SEARCH_ALPHA), LIMITS)
            year = replace(year, unbudgeted=day if plain.passed else None)
        # What fails at the level of a search fails at any part of the budget.
        if year.unbudgeted is not None and judge(evidence, LIMITS).passed:
            return replace(year, promoted=day)
    return year


def one_year(world: World, number: int, days: int) -> Year:
    """The same in a store of its own, for a worker process."""
    with (
        tempfile.TemporaryDirectory(prefix="mlops-year-") as folder,
        closing(open_store(f"sqlite:///{Path(folder) / 'store.db'}")) as store,
    ):
        return live_a_year(store, world, number, days=days)


def kept_out(years: Sequence[Year], *, services: int = SERVICES) -> list[Figure]:
    """Promotions of noise, as shipped and without the ledger, where there must be too many."""
    n, limit = len(years), AT_MOST * len(years) // services
    promoted = [year.promoted for year in years if year.promoted is not None]
    without = [year.unbudgeted for year in years if year.unbudgeted is not None]
    searched = sum(year.searched for year in years)
    return [
        Figure(
            f"{n} services of pure noise, no costs, retrained daily for a year",
            f"{len(promoted)} promoted over the baseline",
            f"at most {limit}",
            len(promoted) <= limit,
            f"the {n} first searches, each at 5 %, found {searched}",
        ),
        Figure(
            "the same retrains without the ledger, each judged at 5 %",
            f"{len(without)} promoted{_when(without)}",
            f"more than {limit}: the ledger is what keeps them out",
            len(without) > limit,
        ),
    ]


def let_in(years: Sequence[Year]) -> Figure:
    """Promotions of planted skill within the year."""
    promoted = [year.promoted for year in years if year.promoted is not None]
    searched = sum(year.searched for year in years)
    return Figure(
        f"{len(years)} services with a planted R2 of {PLANTED.r2:.0%}, {PLANTED.fee_bps:g} bp",
        f"{len(promoted)} promoted{_when(promoted)}",
        f"at least {AT_LEAST:.0%}",
        len(promoted) >= AT_LEAST * len(years),
        f"the first searches found {searched}",
    )


def _when(days: Sequence[int]) -> str:
    return f", half of them by day {median(days):.0f}" if days else ""


def live_years(
    worlds: Sequence[World], services: int, *, days: int = DAYS, workers: int = WORKERS
) -> Iterator[Year]:
    """The year of every service, in the order in which they end."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=fresh) as pool:
        jobs = [
            pool.submit(one_year, world, number, days)
            for world in worlds
            for number in range(services)
        ]
        for job in as_completed(jobs):
            yield job.result()


def figures(*, quick: bool = False, workers: int = WORKERS) -> list[Figure]:
    services = QUICK_SERVICES if quick else SERVICES
    began = time.monotonic()
    lived = live_years([NOISE, PLANTED], services, workers=workers)
    console = Console(stderr=True)
    years = list(track(lived, "years", total=2 * services, console=console))
    minutes = (time.monotonic() - began) / 60
    noise = [year for year in years if year.world == NOISE.name]
    planted = [year for year in years if year.world == PLANTED.name]
    figures = [*kept_out(noise), let_in(planted)]
    spent = f"{minutes:.1f} minutes, {workers} at a time"
    return [*figures, Figure("all of these years", spent, "said", holds=True)]
