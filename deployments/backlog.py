"""Connections that clients have opened and this process has not accepted yet."""

from __future__ import annotations

import os
import socket
import struct
import sys

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
