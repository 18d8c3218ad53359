"""A server that computes nothing, which measures the speed of the load generator itself."""

from __future__ import annotations

import asyncio
import sys
from typing import cast

BODY = b'{"predictions":[{"forecast":0.5}]}'
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Echo(asyncio.Protocol):
    """The same answer to every whole request."""

    def __init__(self) -> None:
        self.received = b""
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, ends, body = self.received.partition(b"\r\n\r\n")
        if ends and len(body) >= _length(head):
            self.received = b""
            assert self.transport is not None
            self.transport.write(ANSWER)


def _length(head: bytes) -> int:
    _, _, after = head.lower().partition(b"content-length:")
    return int(after.split(b"\r\n", 1)[0] or 0)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1])))
