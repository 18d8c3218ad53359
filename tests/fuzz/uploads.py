"""Mutants that the reader lets through, sent to a real replica: 201 or 4xx, and nothing left."""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.fuzz.model_files import GRAPH_FEATURES, Passed
from tests.fuzz.wire import resident_mb
from tests.mlops.models.graphs import STEPS
from tests.mlops.registry.conftest import SERVICE

GROWTH = 0.05
"""Share by which the replica's memory may have grown at the end."""

PATIENCE_S = 300.0
POLL_S = 0.2
WARM_UP = 3
"""Uploads before the memory is first read: what they load for the first time stays."""

_REGISTER = "/mlops/api/models/register"


@dataclass
class UploadResults:
    """The statuses of the uploads; ``findings`` says what must not be."""

    statuses: Counter[int] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


def fuzz_uploads(port: int, pid: int, chosen: Sequence[Passed], *, until: float) -> UploadResults:
    """Send mutants one after the other, until all are sent or the time is up.

    Args:
        pid: The replica's process.
        until: Second of `time.monotonic`.
    """
    results, before_mb = UploadResults(), 0.0
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
        for count, mutant in enumerate(chosen):
            if time.monotonic() > until:
                break
            status, text = send_upload(client, mutant)
            results.statuses[status] += 1
            if status != 201 and not 400 <= status < 500:
                results.findings.append(f"upload of file {mutant.number}: {status}: {text[:300]}")
            if count == WARM_UP:
                before_mb = resident_mb(pid)
    after_mb = resident_mb(pid)
    if before_mb and after_mb > before_mb * (1 + GROWTH):
        results.findings.append(f"the replica grew from {before_mb:.0f} to {after_mb:.0f} MB")
    left = list_left(pid)
    if left:
        results.findings.append(f"{len(left)} processes are left: {left[:3]}")
    return results


def send_upload(client: httpx.Client, mutant: Passed) -> tuple[int, str]:
    """Status and body of an upload; of one that becomes an operation, those that it ends with."""
    body = {
        "model_type": mutant.model_type,
        "symbol": SERVICE.symbol,
        "venue": SERVICE.venue,
        "model_data": base64.b64encode(mutant.content).decode(),
        "metrics": {"mse": 0.1, "mae": 0.1},
        "metadata": {"features": list(GRAPH_FEATURES), "sequence_length": STEPS},
    }
    until = time.monotonic() + PATIENCE_S
    while True:
        reply = client.post(_REGISTER, json=body)
        if reply.status_code != 503 or time.monotonic() > until:
            break
        time.sleep(float(reply.headers["retry-after"]))
    if reply.status_code != 202:
        return reply.status_code, reply.text
    place = reply.headers["location"]
    while time.monotonic() < until:
        operation: dict[str, Any] = client.get(place).json()
        if operation["status"] == "done":
            return 201, reply.text
        if operation["status"] == "failed":
            problem = operation["problem"]
            return int(problem.get("status", 500)), str(problem)
        time.sleep(POLL_S)
    return reply.status_code, f"the operation did not end within {PATIENCE_S:g} s"


def list_descendants(pid: int) -> list[str]:
    """The command lines of all processes that descend from one, zombies left out."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            parents.setdefault(int(parent), []).append(int(folder.name))
    found, waiting = [], [pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            waiting.append(child)
            try:
                command = (Path("/proc") / str(child) / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


def list_left(pid: int) -> list[str]:
    """Descendants of a replica at rest but the one server that forks children.

    A child has the command line of its server, so of those one is expected.
    """
    others = [name for name in list_descendants(pid) if "resource_tracker" not in name]
    servers = [name for name in others if "forkserver" in name]
    return [name for name in others if "forkserver" not in name] + servers[1:]
