"""One serving process: `python -m deployments.replica [--port P]`.

It answers forecasts, and under `/mlops/` the HTTP API unless API_IN_REPLICA is false.

Run as many on one machine as it has cores to spare; they share the store and the bars on disk only.

SIGTERM drains: `/readyz` and the store say so, the replica goes on answering for `DRAIN_S` while
balancers stop sending, reads the requests that have arrived, closes its connections and ends. No
request is lost.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import uvicorn
import uvloop

from deployments.api_mount import mounted_api
from deployments.connections import OpenConnections, count_allowed_connections
from deployments.http_protocol import HttpProtocol, Limits
from mlops import logs
from mlops.alerts.channels import channels_of
from mlops.alerts.delivery import Channel
from mlops.alerts.direct import DirectAlerts
from mlops.api.app import Dispatcher
from mlops.errors import KeyMismatch, ReplicaNameTaken
from mlops.installation import Installation, open_installation
from mlops.monitoring.guard import Guard
from mlops.serving.app import App
from mlops.serving.local_troubles import find_local_troubles
from mlops.serving.runtime import Options, Runtime
from mlops.serving.store_sync import Identity
from mlops.settings import current_settings

log = logging.getLogger("mlops.replica")

DRAIN_S = 3.0
"""Seconds that a draining replica goes on answering: two checks of most balancers."""

STOP_S = 30
"""Seconds that requests under way may take after that."""

READS = 3
"""Iterations of the event loop that read what has arrived at open connections."""

KEEP_ALIVE_S = 75
"""Longer than balancers keep an idle connection (mostly 60 s): if the replica closed it first, a
request under way at that moment would be lost."""

STORE_PATIENCE_S = 2.0
"""Seconds a background thread waits for a lock of the store, less than its lease lasts."""

SWITCH_S = 0.0005
"""The forecasting thread yields the interpreter to the event loop within this time."""

GARBAGE_OBJECTS = 50_000
"""The collector looks for cycles after so many new objects; Python's 700 come twice a batch."""

_TCP_INFO = struct.Struct("@8B5I")
"""The beginning of Linux's ``tcp_info``, up to ``tcpi_unacked``: at a listening socket the number
of connections that the process has not accepted yet."""


class Server(uvicorn.Server):
    """uvicorn without its signal handlers, which would close the listening socket at once."""

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
        bundles=installation.bundles,
        bars_root=settings.bars_path,
        options=Options(
            queue_limit=settings.serving_queue_limit,
            max_body_mb=settings.serving_max_body_mb,
            budget_s=settings.serving_time_budget_s,
            max_age_bars=settings.forecast_max_age_bars,
            log_days=settings.forecast_log_days,
            log_mb=settings.replica_request_log_mb,
            spool_mb=settings.replica_spool_mb,
            batching=batching,
            exchange_base_url=settings.exchange_url,
        ),
    )


def open_guard(installation: Installation, runtime: Runtime) -> Guard:
    """A guard that works in this replica's process."""
    identity = runtime.store_sync.identity
    holder = f"guard@{identity.name}:{identity.incarnation}"
    return installation.open_guard(holder, runtime.publisher.bars.find_newest)


def open_direct_alerts(
    installation: Installation, runtime: Runtime, channels: Sequence[Channel]
) -> DirectAlerts:
    """The alerts of this replica about a store that is away, a spool or a disk that is full."""
    folders = (installation.home, installation.settings.bars_path)
    find_troubles = partial(find_local_troubles, runtime.store_sync, runtime.spool, folders)
    return DirectAlerts(channels, runtime.store_sync.identity.name, find_troubles)


@contextmanager
def guard_and_alerts(installation: Installation, runtime: Runtime) -> Iterator[None]:
    """Run the guard, and send alerts, for as long as the block lasts."""
    channels = channels_of(installation.settings)
    sender = installation.open_alert_sender(channels)
    guard = open_guard(installation, runtime)
    direct = open_direct_alerts(installation, runtime, channels)
    for started in (sender, guard, direct):
        started.start()
    try:
        yield
    finally:
        for stopped in (direct, guard, sender):
            stopped.stop()


def configure_server(
    app: Any,
    *,
    host: str,
    port: int,
    connections: int | None = None,
    limits: Limits = Limits(),  # noqa: B008 - it is frozen
) -> uvicorn.Config:
    """The server of a replica.

    Args:
        connections: That may be open; by default as many as there are descriptors to spare.
    """
    allowed = count_allowed_connections() if connections is None else connections
    protocol: Any = partial(HttpProtocol, limits=limits, open_connections=OpenConnections(allowed))
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        # Its lines go through our handler.
        log_config=None,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_S,
    )


async def serve(
    runtime: Runtime,
    *,
    host: str,
    port: int,
    drain_s: float = DRAIN_S,
    app: Dispatcher | App | None = None,
) -> None:
    """Answer until SIGTERM or SIGINT, then drain and end.

    Args:
        app: What is answered; by default the data plane alone.
    """
    server = Server(configure_server(app or runtime.app, host=host, port=port))
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    attending = asyncio.create_task(runtime.run_until_cancelled())
    serving = asyncio.create_task(server.serve())
    draining = asyncio.create_task(_drain(runtime, server, stopping, drain_s))
    await serving
    for task in (draining, attending):
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _drain(runtime: Runtime, server: Server, stopping: asyncio.Event, drain_s: float) -> None:
    await stopping.wait()
    log.info("draining for %g s", drain_s)
    runtime.app.draining = True
    # In a thread, so that a store that does not answer delays nothing.
    noting = asyncio.create_task(asyncio.to_thread(runtime.store_sync.drain))
    await asyncio.sleep(drain_s)
    await _accept_waiting(server)
    server.should_exit = True
    await noting


async def _accept_waiting(server: Server) -> None:
    """Accept connections that wait, and read requests that have arrived.

    A busy event loop may not have done so yet, and closing the sockets would lose them.
    """
    descriptors = [
        listening.fileno() for listener in server.servers for listening in listener.sockets
    ]
    with suppress(TimeoutError):
        async with asyncio.timeout(STOP_S):
            while any(count_waiting_connections(number) for number in descriptors):
                await asyncio.sleep(0)
    for _ in range(READS):
        await asyncio.sleep(0)


def count_waiting_connections(descriptor: int) -> int:
    """Connections at a listening socket that are not accepted yet; 0 where that is unknown."""
    if sys.platform != "linux":
        return 0
    with socket.socket(fileno=os.dup(descriptor)) as listening:
        if listening.family not in (socket.AF_INET, socket.AF_INET6):
            return 0
        tcp_info = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    return int(_TCP_INFO.unpack(tcp_info)[-1])


def main(arguments: list[str] | None = None) -> None:
    """Serve the versions that are live in the store."""
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
    identity = Identity.of(f"{given.host}:{given.port}", given.name)
    installation = open_installation(settings, patience_s=STORE_PATIENCE_S)
    try:
        runtime = open_runtime(installation, identity, batching=given.batching == "on")
        # Imported modules stay: a full collection need not walk them. A request leaves no cycle.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE_OBJECTS)
        with (
            runtime.background_threads(),
            guard_and_alerts(installation, runtime),
            mounted_api(runtime.app, settings, given.host) as app,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            serving = serve(
                runtime, host=given.host, port=given.port, drain_s=given.drain_seconds, app=app
            )
            runner.run(serving)
    except (KeyMismatch, ReplicaNameTaken) as error:
        sys.exit(f"the replica does not start: {error}")


if __name__ == "__main__":
    main()
