"""The second act of the demonstration: a version goes live under requests, another is undone.

A replica process answers windows of real bars meanwhile, sent by threads at a steady rate.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from rich.console import Console

from deployments.demo.failing_model import FailingModel
from deployments.processes import ServerProcess, free_port
from flows.deploy import deploy
from mlops.data.bars import COLUMNS
from mlops.data.load import load_bars
from mlops.manager import MLOpsManager
from mlops.registry.connection import load
from mlops.reports.page import RolloutSection
from mlops.reports.rollouts import Answered, rollout_section
from mlops.rollout.plan import RolloutSettings, Strategy
from mlops.service import Service
from mlops.stats.metrics import ModelMetrics
from mlops.store import Rollout, RolloutEvent, list_events, list_rollouts

FAST_CANARY = RolloutSettings(dwell_s=1.0, bake_s=2.0, hold_s=60.0, gate_s=60.0)
"""The usual canary, with seconds where it has minutes."""

FAILS_AFTER_S = 4.0
READY_S = 60.0

REQUESTS_PER_S = 50.0
THREADS = 2
BODIES = 200
TIMEOUT_S = 10.0


class Clients:
    """Threads that send requests to a replica and keep the answers."""

    def __init__(self, port: int, service: str, bodies: Sequence[bytes]) -> None:
        self.port = port
        self.path = f"/services/{service}/invocations"
        self.bodies = bodies
        self.answers: list[Answered] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._send_requests, args=(number,), daemon=True)
            for number in range(THREADS)
        ]

    @contextmanager
    def sending(self) -> Iterator[Clients]:
        """Send requests for as long as the block lasts."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def answers_since(self, moment: datetime) -> list[Answered]:
        """Answers to requests sent at ``moment`` or later."""
        return [answer for answer in self.answers if answer.at >= moment]

    def _send_requests(self, number: int) -> None:
        """Send every body whose number modulo the threads is ``number``, over and over."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        due = time.monotonic()
        while not self._stop.is_set():
            due += THREADS / REQUESTS_PER_S
            self.answers.append(self._send(connection, self.bodies[number % len(self.bodies)]))
            number += THREADS
            self._stop.wait(max(0.0, due - time.monotonic()))
        connection.close()

    def _send(self, connection: http.client.HTTPConnection, body: bytes) -> Answered:
        sent_at = datetime.now(UTC)
        try:
            connection.request("POST", self.path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return Answered(sent_at, "nobody", failed=True)
        variant = answer.headers.get("x-variant", "nobody")
        return Answered(sent_at, variant, failed=answer.status != 200)


def request_bodies(frame: pd.DataFrame, n_bars: int) -> list[bytes]:
    """The newest windows of ``n_bars`` bars as bodies of MLflow's scoring protocol."""
    bodies = []
    for last in range(len(frame) - BODIES, len(frame)):
        part = frame.iloc[last - n_bars + 1 : last + 1]
        times = [stamp.isoformat() for stamp in part.index]
        data = [[at, *row] for at, row in zip(times, part[list(COLUMNS)].to_numpy().tolist(),
                                               strict=True)]  # fmt: skip
        split = {"columns": ["open_time", *COLUMNS], "data": data}
        bodies.append(json.dumps({"dataframe_split": split}).encode())
    return bodies


def roll_out_versions(
    manager: MLOpsManager, model_id: str, console: Console
) -> list[RolloutSection]:
    """Roll a challenger out by canary, then a version that fails; both under live requests."""
    service = Service.parse(manager.get_model(model_id).service)
    bars = load_bars(service, cache_root=manager.config.bars_path)
    port = free_port()
    with running_replica(manager.config.mlops_base_path, port) as replica:
        # The replica starts meanwhile.
        failing = _register_failing_model(manager, service)
        n_bars = int(load(manager.registry, model_id).config["warm_up"])
        clients = Clients(port, service.key, request_bodies(bars.frame, n_bars))
        replica.wait_until_up(within_s=READY_S)
        with clients.sending():
            good = _roll_out(manager, model_id, clients, console)
            bad = _roll_out(manager, failing, clients, console, force=True)
    _print_live_history(manager, service, console)
    return [good, bad]


def _roll_out(
    manager: MLOpsManager,
    model_id: str,
    clients: Clients,
    console: Console,
    *,
    force: bool = False,
) -> RolloutSection:
    began = datetime.now(UTC)
    why = "to show what becomes of it" if force else "it passed its gates"
    # The flow run of a rollout that is undone fails: the lines below say why.
    deploy(
        model_id,
        Strategy.CANARY,
        plan=FAST_CANARY,
        actor="demonstration",
        reason=why,
        force=force,
        return_state=True,
    )
    store = manager.registry.store
    rollout = list_rollouts(store, service=manager.get_model(model_id).service)[0]
    events = list_events(store, rollout.id)
    answers = clients.answers_since(began)
    failed = sum(answer.failed for answer in answers)
    console.print(
        f"{model_id}: canary, {rollout.phase}; clients asked {len(answers):,} times meanwhile, "
        f"{failed} failed",
        highlight=False,
        soft_wrap=True,
    )
    for event in events:
        console.print(_event_line(event, rollout), highlight=False, soft_wrap=True)
    return rollout_section(rollout, events, answers)


def _event_line(event: RolloutEvent, rollout: Rollout) -> str:
    seconds = (event.at - rollout.requested_at).total_seconds()
    share = event.detail.get("weight_bp", 0) / 100
    return f"  {seconds:5.1f} s  {event.to_phase:<9} {share:3.0f} %  {event.reason}"


def _register_failing_model(manager: MLOpsManager, service: Service) -> str:
    """Register a model that will fail; its figures are claims, so its rollout must be forced."""
    metadata = {
        "venue": service.venue,
        "timeframe": str(service.timeframe),
        "target": str(service.target),
        "horizon": service.horizon,
        "features": ["har_24"],
    }
    registering = manager.register_model(
        model=FailingModel({"fails_after_s": FAILS_AFTER_S}),
        model_type="custom",
        symbol=service.symbol,
        metrics=ModelMetrics(mse=0.01, mae=0.05, r2_score=0.99, accuracy=0.99),
        metadata=metadata,
    )
    return asyncio.run(registering).model_id


def _print_live_history(manager: MLOpsManager, service: Service, console: Console) -> None:
    before = ""
    for period in manager.live_history(service.key):
        if period.champion != before:
            console.print(f"live since {period.at:%Y-%m-%d %H:%M:%S}: {period.champion} "
                          f"({period.action})", highlight=False, soft_wrap=True)  # fmt: skip
        before = period.champion


@contextmanager
def running_replica(home: Path, port: int) -> Iterator[ServerProcess]:
    """Run a replica process for as long as the block lasts; it is not up yet when that begins."""
    replica = ServerProcess(
        "replica",
        [sys.executable, "-m", "deployments.replica", "--port", str(port),
         "--drain-seconds", "0.5"],
        f"http://127.0.0.1:{port}/readyz",
    )  # fmt: skip
    replica.start(os.environ, home / "replica.log")
    try:
        yield replica
    finally:
        replica.stop()
