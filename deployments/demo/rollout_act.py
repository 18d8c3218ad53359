"""The second act of the demonstration: a version goes live under requests, another is undone.

A real replica process answers real windows of bars all the while.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from rich.console import Console

from deployments.demo.clients import Clients, windows_of
from deployments.demo.failing_model import TimeBomb
from deployments.demo.processes import end
from flows.deploy import deploy
from mlops.data.load import load_bars
from mlops.manager import MLOpsManager
from mlops.registry.connection import load
from mlops.reports.page import RolloutSection
from mlops.reports.rollouts import rollout_section
from mlops.rollout.config import RolloutSettings
from mlops.rollout.plan import Strategy
from mlops.service import Service
from mlops.stats.metrics import ModelMetrics
from mlops.store import Rollout, RolloutEvent, list_events, list_rollouts

QUICK = RolloutSettings(dwell_s=2.0, bake_s=3.0, hold_s=60.0, gate_s=60.0)
"""The usual canary, with seconds where it has minutes."""

FUSE_S = 6.0
READY_S = 60.0
STOP_S = 30.0


def go_live(manager: MLOpsManager, model_id: str, console: Console) -> list[RolloutSection]:
    """Roll a challenger out by canary, then a sabotaged version; both under live requests."""
    service = Service.parse(manager.get_model(model_id).service)
    bars = load_bars(service, cache_root=manager.config.bars_path)
    with replica(manager.config.mlops_base_path) as port:
        clients = Clients(port, service.key, windows_of(bars.frame, _bars_asked(manager, model_id)))
        with clients.asking():
            good = _roll_out(manager, model_id, clients, console)
            bad = _roll_out(manager, _sabotaged(manager, service), clients, console, force=True)
    _say_who_was_live(manager, service, console)
    return [good, bad]


def _roll_out(
    manager: MLOpsManager,
    model_id: str,
    clients: Clients,
    console: Console,
    *,
    force: bool = False,
) -> RolloutSection:
    asked = datetime.now(UTC)
    why = "to show what becomes of it" if force else "it passed its gates"
    # A rollout that is undone ends its run as failed: the lines below say how and why.
    deploy(
        model_id,
        Strategy.CANARY,
        plan=QUICK,
        actor="demonstration",
        reason=why,
        force=force,
        return_state=True,
    )
    store = manager.registry.store
    rollout = list_rollouts(store, service=manager.get_model(model_id).service)[0]
    events = list_events(store, rollout.id)
    answers = clients.since(asked)
    failed = sum(one.failed for one in answers)
    console.print(
        f"{model_id}: canary, {rollout.phase}; clients asked {len(answers):,} times meanwhile, "
        f"{failed} failed",
        highlight=False,
        soft_wrap=True,
    )
    for event in events:
        console.print(_line(event, rollout), highlight=False, soft_wrap=True)
    return rollout_section(rollout, events, answers)


def _line(event: RolloutEvent, rollout: Rollout) -> str:
    seconds = (event.at - rollout.requested_at).total_seconds()
    share = event.detail.get("weight_bp", 0) / 100
    return f"  {seconds:5.1f} s  {event.to_phase:<9} {share:3.0f} %  {event.reason}"


def _sabotaged(manager: MLOpsManager, service: Service) -> str:
    """A version that rests on claims and will fail; only a forced rollout takes it."""
    metadata = {
        "venue": service.venue,
        "timeframe": str(service.timeframe),
        "target": str(service.target),
        "horizon": service.horizon,
        "features": ["har_24"],
    }
    registering = manager.register_model(
        model=TimeBomb({"fuse_s": FUSE_S}),
        model_type="custom",
        symbol=service.symbol,
        metrics=ModelMetrics(mse=0.01, mae=0.05, r2_score=0.99, accuracy=0.99),
        metadata=metadata,
    )
    return asyncio.run(registering).model_id


def _say_who_was_live(manager: MLOpsManager, service: Service, console: Console) -> None:
    before = ""
    for reign in manager.live_history(service.key):
        if reign.champion != before:
            console.print(f"live since {reign.at:%Y-%m-%d %H:%M:%S}: {reign.champion} "
                          f"({reign.action})", highlight=False, soft_wrap=True)  # fmt: skip
        before = reign.champion


@contextmanager
def replica(home: Path) -> Iterator[int]:
    """A replica process on a free port, ready when the block begins and gone after it."""
    port = free_port()
    log = home / "replica.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.replica", "--port", str(port),
             "--drain-seconds", "0.5"],
            env=dict(os.environ),
            stdout=file,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        _wait_until_ready(port, process, log)
        yield port
    finally:
        end(process, within_s=STOP_S)


def _wait_until_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    raise SystemExit(f"the replica did not become ready; see {log}")


def _bars_asked(manager: MLOpsManager, model_id: str) -> int:
    """How many bars a request must bring, for the version that is going live."""
    return int(load(manager.registry, model_id).config["warm_up"])


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
