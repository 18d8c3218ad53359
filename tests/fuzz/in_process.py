"""Mutated requests at the ASGI app of a replica in this process."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mlops.errors import ModelFault
from mlops.models.bundle import Trust
from mlops.models.signing import load_key
from mlops.registry.connection import key_file
from mlops.registry.fetching import bundle_folders
from mlops.serving.runtime import Options, Runtime
from mlops.serving.store_sync import Identity
from mlops.store import open_store
from tests.faults.template import BASELINE, CHAMPION, KEY
from tests.fuzz.answers import find_fault
from tests.fuzz.requests import RequestMaker
from tests.mlops.serving.asgi_client import answer_of
from tests.mlops.serving.stored_requests import StoredRequest

NAMES = {"{service}": KEY, "{champion}": CHAMPION, "{baseline}": BASELINE}
HANGS_S = 60.0
"""A request without an answer for so long hangs; it is far above any answer on a busy machine."""


@dataclass
class RequestResults:
    """What the answers were; ``findings`` says what must not be.

    Args:
        slowest: CPU seconds of the process for the dearest request, and its number.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)


@contextmanager
def open_replica(folder: Path) -> Iterator[Runtime]:
    """The replica of a template's installation, with champion and baseline loaded."""
    store = open_store(f"sqlite:///{folder / 'store.db'}")
    runtime = Runtime(
        store,
        identity=Identity.of("127.0.0.1:0", "fuzz"),
        home=folder / "home",
        trust=Trust(load_key(key_file(folder))),
        bundles=bundle_folders(folder, str(folder / "mlruns")),
        bars_root=folder / "bars",
        options=Options(max_body_mb=1.0, budget_s=HANGS_S),
    )
    try:
        runtime.store_sync.sync_once()
        while runtime.store_sync.load_next():
            pass
        runtime.store_sync.sync_once()
        yield runtime
    finally:
        runtime.batcher.stop()
        runtime.store_sync.stop()
        runtime.request_log.close()
        store.close()


def fuzz_app(runtime: Runtime, maker: RequestMaker, numbers: range) -> RequestResults:
    """Send the requests of these numbers, one after the other."""
    results, faults = RequestResults(), []

    def note_fault(service: str, fault: ModelFault) -> None:
        faults.append(fault)

    runtime.dispatcher.on_fault = note_fault

    async def send_all() -> None:
        for number in numbers:
            request = maker.make(number)
            began = time.process_time()
            fault = await _send(runtime, request, results)
            results.slowest = max(results.slowest, (time.process_time() - began, number))
            if faults:
                fault = f"a fault counted against a version: {faults.pop()}"
                faults.clear()
            if fault is not None:
                results.findings.append(f"request {number}: {fault}")

    asyncio.run(send_all())
    return results


async def _send(runtime: Runtime, request: StoredRequest, results: RequestResults) -> str | None:
    try:
        answering = answer_of(runtime.app, request)
        status, headers, body = await asyncio.wait_for(answering, HANGS_S)
    except TimeoutError:
        return f"no answer within {HANGS_S:g} s"
    except Exception as error:
        return f"the app raised {type(error).__name__}: {error}"
    results.statuses[status] += 1
    return find_fault(status, headers, body)
