"""One serving process: `python -m deployments.replica [--port P]`, as many beside one another as
the machine has cores to spare; they share nothing but the store and the bars on disk.

SIGTERM drains: the replica says so (`/readyz`, and in the store), goes on answering while the
balancer turns away, asks each connection to close, and then ends. No request is lost.

[[Connections that clients have opened and this process has not accepted yet.]]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn
import uvloop

from mlops import logs
from mlops.alerts.channels import channels_of
from mlops.installation import Installation, open_installation
from mlops.monitoring.guard import Guard
from mlops.serving.runtime import Options, Runtime
from mlops.serving.store_sync import Identity
from mlops.settings import current_settings

_UNACKED = struct.Struct("@8B5I")
"""The beginning of Linux's ``tcp_info``; its last field here counts, at a socket that listens,
the connections that wait."""


def waiting_connections(descriptor: int) -> int:
    """How many wait at a listening socket; 0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    with socket.socket(fileno=os.dup(descriptor)) as listening:
        if listening.family not in (socket.AF_INET, socket.AF_INET6):
            return 0
        told = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.size)
    return int(_UNACKED.unpack(told)[-1])


log = logging.getLogger("mlops.replica")

DRAIN_S = 3.0
"""How long a replica that was told to end goes on answering: two checks of most balancers."""

STOP_S = 30
"""How long answers that are under way may take after that."""

READS = 3
"""Rounds of the event loop in which whatever has arrived is read."""

KEEP_ALIVE_S = 75
"""Longer than balancers keep an idle connection (mostly 60 s): who closes first must not be us,
or the request that is on its way at that moment is lost."""

STORE_PATIENCE_S = 2.0
"""A background round does not wait longer for a locked store than its lease lasts."""

SWITCH_S = 0.0005
"""The event loop gets the interpreter back from the forecasting thread within this time."""


class Server(uvicorn.Server):
    """uvicorn without its own signals: it would close the door at once."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def open_runtime(
    installation: Installation, identity: Identity, *, batching: bool = True
) -> Runtime:
    """A replica of this installation; ``batching`` lets requests that wait share one forecast."""
    settings = installation.settings
    return Runtime(
        installation.store,
        identity=identity,
        home=installation.home,
        trust=installation.trust,
        bars_root=settings.bars_path,
        options=Options(
            queue_limit=settings.serving_queue_limit,
            max_body_mb=settings.serving_max_body_mb,
            budget_s=settings.serving_time_budget_s,
            max_age_bars=settings.forecast_max_age_bars,
            log_days=settings.forecast_log_days,
            spool_mb=settings.replica_spool_mb,
            batching=batching,
            exchange_base_url=settings.exchange_base_url or None,
        ),
    )


def open_guard(installation: Installation, runtime: Runtime) -> Guard:
    """A guard that works in this replica's process."""
    identity = runtime.keeper.identity
    holder = f"guard@{identity.name}:{identity.incarnation}"
    return installation.open_guard(holder, runtime.newest.bars.newest)


@contextmanager
def guard_and_alerts(installation: Installation, runtime: Runtime) -> Iterator[None]:
    """Run the guard, and send alerts, for as long as the block lasts."""
    sender = installation.open_alert_sender(channels_of(installation.settings))
    guard = open_guard(installation, runtime)
    sender.start()
    guard.start()
    try:
        yield
    finally:
        guard.stop()
        sender.stop()


async def serve(runtime: Runtime, *, host: str, port: int, drain_s: float = DRAIN_S) -> None:
    """Answer until SIGTERM or SIGINT, then drain and end."""
    config = uvicorn.Config(
        runtime.app,
        host=host,
        port=port,
        http="httptools",
        lifespan="off",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        # Its lines look like all others.
        log_config=None,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_S,
    )
    server = Server(config)
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    attending = asyncio.create_task(runtime.attend())
    serving = asyncio.create_task(server.serve())
    leaving = asyncio.create_task(_leave(runtime, server, told, drain_s))
    await serving
    for task in (leaving, attending):
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _leave(runtime: Runtime, server: Server, told: asyncio.Event, drain_s: float) -> None:
    await told.wait()
    log.info("draining for %g s", drain_s)
    runtime.app.draining = True
    # A store that is silent does not hold up the end.
    telling = asyncio.create_task(asyncio.to_thread(runtime.keeper.drain))
    await asyncio.sleep(drain_s)
    await _take_in(server)
    server.should_exit = True
    await telling


async def _take_in(server: Server) -> None:
    """Accept what waits at the door, and read what lies in open connections.

    A loop that was busy has not got to them yet, and closing would lose them.
    """
    descriptors = [one.fileno() for server in server.servers for one in server.sockets]
    with suppress(TimeoutError):
        async with asyncio.timeout(STOP_S):
            while any(waiting_connections(one) for one in descriptors):
                await asyncio.sleep(0)
    for _ in range(READS):
        await asyncio.sleep(0)


def main(arguments: list[str] | None = None) -> None:
    """Serve what the store says is live."""
    settings = current_settings()
    parser = argparse.ArgumentParser(prog="python -m deployments.replica", description=__doc__)
    parser.add_argument("--host", default=settings.api_host)
    parser.add_argument("--port", type=int, default=settings.api_port)
    parser.add_argument("--name", help="stays over restarts; by default host and port")
    parser.add_argument("--batching", choices=("on", "off"), default="on")
    parser.add_argument("--drain-seconds", type=float, default=DRAIN_S)
    given: Any = parser.parse_args(arguments)
    logs.configure(settings.log_format, settings.log_level)
    sys.setswitchinterval(SWITCH_S)
    if settings.mlflow_tracking_uri:
        # Bundles that lie on an MLflow server are fetched from there, once a host.
        os.environ.setdefault("MLFLOW_TRACKING_URI", settings.mlflow_tracking_uri)
    identity = Identity.of(f"{given.host}:{given.port}", given.name)
    installation = open_installation(settings, patience_s=STORE_PATIENCE_S)
    runtime = open_runtime(installation, identity, batching=given.batching == "on")
    # What was imported stays for good: the collector need not walk it with every full round.
    gc.collect()
    gc.freeze()
    with (
        runtime.roles(),
        guard_and_alerts(installation, runtime),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(serve(runtime, host=given.host, port=given.port, drain_s=given.drain_seconds))


if __name__ == "__main__":
    main()
