"""`python -m benchmarks.replica_variants plain|counting ...`: a replica with another protocol.

The rest of the command is that of `deployments.replica`. A *plain* one has uvicorn's protocol; a
*counting* one prints the bytes its parser was fed, a line for each connection that ends.
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn

from deployments import replica
from deployments.http_protocol import HttpProtocol

FED = "bytes fed to the parser: "


class CountingParser:
    """Counts what the parser behind it is fed."""

    def __init__(self, parser: Any) -> None:
        self._parser = parser
        self.fed = 0

    def feed_data(self, data: bytes | memoryview) -> None:
        self.fed += len(data)
        self._parser.feed_data(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)


class CountingProtocol(HttpProtocol):
    """Prints the count of its parser when the connection ends."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._counting = CountingParser(self.parser)
        self.parser: Any = self._counting

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        print(f"{FED}{self._counting.fed}", flush=True)


def main(arguments: list[str]) -> None:
    variant, *rest = arguments
    if variant == "plain":
        _configure_plain_servers()
    else:
        vars(replica)["HttpProtocol"] = CountingProtocol
    replica.main(rest)


def _configure_plain_servers() -> None:
    configure = replica.configure_server

    def configure_plain(*given: Any, **named: Any) -> uvicorn.Config:
        config = configure(*given, **named)
        config.http = "httptools"
        return config

    replica.configure_server = configure_plain


if __name__ == "__main__":
    main(sys.argv[1:])
