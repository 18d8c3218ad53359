"""The store away for five minutes, in each way that it goes, under 200 requests a second.

The scenarios are those of `tests.faults`, where the same is asked of one minute.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

from benchmarks.figure import Figure
from tests.faults.outages import Outage, kinds_of, sit_out
from tests.faults.stage import Stage
from tests.stores import start_postgres

SECONDS, QUICK_SECONDS = 300.0, 20.0
DATABASES = ("sqlite", "postgres")
MESSAGE = 600
"""Characters shown of an error."""


def figures(*, quick: bool) -> list[Figure]:
    """One figure for each database and kind of outage; those of a database run side by side."""
    seconds = QUICK_SECONDS if quick else SECONDS
    # Replicas say every second that the store is away; that is what they are here for.
    logging.getLogger("mlops").setLevel(logging.ERROR)
    return [figure for database in DATABASES for figure in _figures(database, seconds)]


def _figures(database: str, seconds: float) -> list[Figure]:
    kinds = kinds_of(database)
    with _stage(database) as stage, ThreadPoolExecutor(len(kinds)) as pool:
        futures = {
            kind: pool.submit(sit_out, stage, database, kind, seconds=seconds) for kind in kinds
        }
        return [_figure(database, kind, seconds, future.result) for kind, future in futures.items()]


def _figure(database: str, kind: str, seconds: float, result: Callable[[], Outage]) -> Figure:
    what = f"{database} {kind} for {seconds:g} s"
    asked = "all answered, share 0, each forecast on record once"
    try:
        seen = result()
    except AssertionError as error:
        return Figure(what, " ".join(str(error).split())[:MESSAGE], asked, holds=False)
    measured = (
        f"{seen.count.sent:,} requests, {len(seen.count.broken)} lost; {seen.exposed} answers of "
        f"the challenger after its share; {seen.published} forecasts handed out, all on record"
    )
    return Figure(what, measured, asked, holds=True)


@contextmanager
def _stage(database: str) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="mlops-outages-") as folder:
        root = Path(folder)
        servers = start_postgres(root) if database == "postgres" else iter([None])
        server = next(servers)
        try:
            with closing(Stage(root, server)) as stage:
                yield stage
        finally:
            next(servers, None)
