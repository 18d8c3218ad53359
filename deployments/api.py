"""The HTTP API alone, without forecasts: `python -m deployments.api [--port P]`.

For machines whose replicas stand behind a balancer and have API_IN_REPLICA=false. It runs no
rollout itself: replicas and the reconcile flow do.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from contextlib import closing
from typing import Any

import uvloop

from deployments.api_mount import check_host, make_context
from deployments.replica import Server, configure_server
from mlops import logs
from mlops.api.app import build_api
from mlops.errors import KeyMismatch, SettingsError
from mlops.settings import Settings, current_settings

PORT = 8006
"""Beside the replica's 8005."""


async def serve(settings: Settings, *, host: str, port: int) -> None:
    """Answer until SIGTERM or SIGINT; requests under way are answered first."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    with closing(make_context(settings, stopping.is_set)) as context:
        server = Server(configure_server(build_api(context), host=host, port=port))
        serving = asyncio.create_task(server.serve())
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait((serving, stopped), return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        stopped.cancel()
        await serving


def main(arguments: list[str] | None = None) -> None:
    """Answer the HTTP API on loopback."""
    settings = current_settings()
    parser = argparse.ArgumentParser(prog="python -m deployments.api", description=__doc__)
    parser.add_argument("--host", default=settings.api_host)
    parser.add_argument("--port", type=int, default=PORT)
    given: Any = parser.parse_args(arguments)
    logs.configure(settings.log_format, settings.log_level)
    try:
        check_host(given.host)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings, host=given.host, port=given.port))
    except (KeyMismatch, SettingsError) as error:
        sys.exit(f"the API does not start: {error}")


if __name__ == "__main__":
    main()
