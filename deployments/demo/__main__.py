"""`make demo`: trains, judges, rolls out and monitors models on embedded real bars, offline.

Everything is written under ``.mlops/demo``, which is emptied first; no process is left running.
One Prefect server, on a free port, serves the process of the first two acts and those of the third.
With ``--ab-test`` nothing but the A/B test of the third act runs, and goes on to its verdict.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from deployments.prefect_server import copy_empty_database, name_database
from deployments.processes import ServerProcess, free_port

HOME = Path(".mlops") / "demo"
PLAIN_WIDTH = 120
"""Columns where there is no terminal."""

ENVIRONMENT = {
    # The flow run of a rollout that is undone fails, as it should here; real errors raise.
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "DO_NOT_TRACK": "true",
}
SERVER_UP_S = 120.0
NICE = 5
"""How much less of the processor the A/B test may have than the other acts, as `nice` counts."""

REMOVED_VARIABLES = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "STORE_URL")


def set_environment(home: Path) -> None:
    """Empty ``home`` and point this process at it, away from the user's servers and stores."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    for name in REMOVED_VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(ENVIRONMENT)
    os.environ["MLOPS_BASE_PATH"] = str(home)
    # The second act registers a model of this module.
    os.environ["CUSTOM_MODEL_MODULES"] = "deployments.demo.failing_model"
    prefect_home = home.resolve() / "prefect"
    os.environ["PREFECT_HOME"] = str(prefect_home)
    os.environ.update(name_database(prefect_home, os.environ))


@contextmanager
def running_prefect(home: Path) -> Iterator[ServerProcess]:
    """Run a Prefect server for as long as the block lasts; it is not up yet when that begins."""
    copy_empty_database(home / "prefect")
    port = str(free_port())
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    server = ServerProcess(
        "prefect-server",
        # Its services schedule runs and record task runs; nothing here asks for either.
        [sys.executable, "-m", "prefect", "server", "start", "--no-services", "--no-ui",
         "--host", "127.0.0.1", "--port", port],
        f"http://127.0.0.1:{port}/api/health",
    )  # fmt: skip
    server.start(os.environ, home / "prefect-server.log")
    try:
        yield server
    finally:
        server.stop()


def parse_day(text: str) -> datetime:
    """The beginning of a day, in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def run_act_of_the_past(given: argparse.Namespace, console: Console, until: datetime) -> None:
    """Run a stretch of the third act in this process."""
    if given.only_past:
        from deployments.demo.history_act import write_history

        write_history(given.symbol, console, until=until, path=given.only_past)
    else:
        # It is the shortest: it may take what the other processes leave.
        os.nice(NICE)
        from deployments.demo.ab_test_act import write_first_looks

        write_first_looks(given.symbol, console, path=given.only_test)


def main() -> None:
    """Run the demonstration for one symbol of the embedded sample."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--symbol", default="BTC/USD", help="BTC/USD, ETH/USD or EUR/USD")
    parser.add_argument("--home", type=Path, default=HOME, help="where everything is written")
    parser.add_argument("--quick", action="store_true", help="one model, and two days of the break")
    parser.add_argument("--until", type=parse_day, help="the end of the break; else 2019-01-01")
    parser.add_argument("--ab-test", action="store_true", help="only the A/B test, to its verdict")
    parser.add_argument("--only-past", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only-test", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prefect-api", help=argparse.SUPPRESS)
    given = parser.parse_args()
    until = given.until or parse_day("2018-11-16" if given.quick else "2019-01-01")
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    began = time.monotonic()
    set_environment(given.home)
    # Prefect and MLflow read the environment when they are imported.
    if given.only_past or given.only_test:
        os.environ["PREFECT_API_URL"] = given.prefect_api
        run_act_of_the_past(given, console, until)
        return
    console.print(f"[bold]{given.symbol} sample[/], everything under {given.home}; no network used")
    with running_prefect(given.home) as server:
        from deployments.demo.ab_test_act import run_whole_test
        from deployments.demo.story import run_demo

        with console.status("Prefect's server starts"):
            server.wait_until_up(within_s=SERVER_UP_S)
        if given.ab_test:
            report = run_whole_test(given.symbol, console)
        else:
            report = run_demo(given.symbol, console, until=until, quick=given.quick)
    console.print(f"report  {report}")
    console.print(f"done in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
