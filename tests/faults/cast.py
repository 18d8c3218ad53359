"""The processes of a scenario: what each one runs, with its clocks shortened.

Times are the product's own constants, set before its main runs: a fifth of what they are, and a
bar of the sample closes every 2 s.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.faults.armed import Fault, Recorder, arm
from tests.faults.clock import arm_clock
from tests.faults.files import arm_files

LEASE_S = 1.0
EXPOSURE_S = 1.0
TICK_S = 0.2
BEAT_S = 0.2
BAR_S = 2.0
DRAIN_S = 0.6
PATIENCE_S = 1.0
REPLAY_BARS = 150


def hasten(exposure_s: float = EXPOSURE_S) -> None:
    """Shorten the clocks of this process."""
    import deployments.replica
    from mlops.data import market_clock
    from mlops.rollout import controller
    from mlops.serving import newest_forecast, record_order, replay_trials, store_sync

    controller.LEASE_S = store_sync.LEASE_S = LEASE_S
    controller.EXPOSURE_S = exposure_s
    controller.TICK_S = TICK_S
    store_sync.LOADER_S = 0.02
    defaults = store_sync.StoreSync.__init__.__kwdefaults__
    assert "interval_s" in defaults
    defaults["interval_s"] = BEAT_S
    replay_trials.LOOK_S, newest_forecast.LOOK_S = 0.1, 0.2
    record_order.LEAST_WAIT_S = BAR_S / 2
    replay_trials.REPLAY_BARS = REPLAY_BARS
    market_clock.REPLAY_BAR_S = BAR_S
    deployments.replica.STORE_PATIENCE_S = PATIENCE_S


def replica(given: Mapping[str, Any]) -> None:
    """A serving process; it may stand by as controller or not."""
    import deployments.replica
    from mlops.background import Repeated
    from mlops.serving import runtime
    from mlops.serving.engine import model_pool

    if not given["stands_by"]:
        runtime.controller_loop = lambda controller: Repeated("bystander", 1.0, lambda: None)
    if given["no_memory_for"]:
        _refuse_memory(model_pool, tuple(given["no_memory_for"]))
    if given["descriptors"]:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (given["descriptors"], most))
    port = str(given["port"])
    deployments.replica.main(
        ["--port", port, "--name", given["who"], "--drain-seconds", str(given["drain_s"])]
    )


def _refuse_memory(model_pool: Any, models: tuple[str, ...]) -> None:
    """The system says that it has nothing left, whenever one of these is about to be opened."""
    real = model_pool.ModelPool._check_memory

    def check(self: Any, model_id: str, n_bytes: int) -> None:
        if model_id in models:
            self._free_memory = lambda: 0
        real(self, model_id, n_bytes)

    model_pool.ModelPool._check_memory = check


def controller(given: Mapping[str, Any]) -> None:
    """A process that does nothing but carry the role; SIGTERM steps down."""
    from mlops.rollout.controller import Controller, controller_loop
    from mlops.store import open_store

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with closing(open_store(given["url"], patience_s=PATIENCE_S)) as store:
        loop = controller_loop(Controller(store, given["who"]))
        loop.start()
        stop.wait()
        loop.stop()


def further_controller(given: Mapping[str, Any]) -> None:
    """As `controller`, of a release that is one migration further, which it runs."""
    from tests.further_release import further_release

    with further_release(Path(given["folder"]), given["min_reader"]):
        controller(given)


def asker(given: Mapping[str, Any]) -> None:
    """A process that asks for something and ends: a rollout, its end, or one step back.

    It may also ask for an A/B test, or look at one and find its challenger better.
    """
    from datetime import UTC, datetime

    from mlops.rollout.plan import plan_for
    from mlops.rollout.request import request_rollout, roll_back
    from mlops.store import Why, open_store
    from mlops.store.rollouts import request_abort
    from tests.faults.ab_test_rows import find_better, request_test_of

    why = Why(datetime.now(UTC), actor="ann", reason="because")
    with closing(open_store(given["url"], patience_s=PATIENCE_S)) as store:
        if given["what"] == "rollout":
            plan = plan_for(given["strategy"], **given["plan"])
            request_rollout(store, given["model"], plan, why)
        elif given["what"] == "abort":
            request_abort(store, given["rollout"], why)
        elif given["what"] == "test":
            request_test_of(store, given["service"], given["model"], given["plan"], why)
        elif given["what"] == "look":
            find_better(store, given["rollout"], why)
        else:
            roll_back(store, given["service"], why, prove=lambda version: None)


def prober(given: Mapping[str, Any]) -> None:
    """The client and its balancer."""
    from tests.faults.prober import main

    main(given)


def crowd(given: Mapping[str, Any]) -> None:
    """Many clients, each of which asks again as soon as it is answered."""
    from tests.faults.crowd import main

    main(given)


def trainer(given: Mapping[str, Any]) -> None:
    """A training on every core, again and again."""
    import numpy as np
    import pandas as pd
    import torch

    from mlops.features.dataset import Dataset
    from mlops.features.targets import TargetSpec
    from mlops.models.base import FitContext, build_forecaster, default_recipe
    from mlops.service import Target, Timeframe

    torch.set_num_threads(os.cpu_count() or 1)
    target, timeframe = TargetSpec(Target.VOLATILITY, 24), Timeframe("1h")
    dataset = Dataset(pd.read_parquet(given["bars"]), timeframe=timeframe, target=target)
    while True:
        forecaster = build_forecaster(default_recipe("lstm", target, {}), target)
        rows = np.flatnonzero(dataset.labels.valid & forecaster.ready(dataset))
        cut = int(len(rows) * 0.8)
        forecaster.fit(dataset, rows[:cut], rows[cut:], FitContext())


ROLES: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
    "replica": replica,
    "controller": controller,
    "further_controller": further_controller,
    "asker": asker,
    "prober": prober,
    "crowd": crowd,
    "trainer": trainer,
}
NOT_ARMED = ("prober", "crowd", "trainer")


def play(role: str, given: Mapping[str, Any]) -> None:
    """Be one of them, in a process that has just been forked."""
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if role not in NOT_ARMED:
        hasten(given.get("exposure_s") or EXPOSURE_S)
        faults = tuple(Fault(**fault) for fault in given.get("faults", ()))
        gate = given["gate"] and Path(given["gate"])
        clock = Path(given["clock"])
        if clock.exists():
            arm_clock(clock)
        notes, drag = Path(given["notes"]), Path(given["drag"])
        recorder = Recorder(notes, given["who"], faults, gate=gate, drag=drag)
        arm(recorder)
        arm_files(recorder, faults)
    ROLES[role](given)


IMPORTED = (
    "pyarrow.parquet",
    "deployments.replica",
    "mlops.models.baselines",
    "mlops.models.custom",
    "mlops.models.linear",
    "mlops.models.lstm",
    "mlops.rollout.request",
    "tests.faults.misbehaving",
    "tests.faults.prober",
    "tests.faults.crowd",
)


def import_everything() -> None:
    """What any role will need, so that a fork need not import it again."""
    import torch

    for name in IMPORTED:
        import_module(name)
    torch.set_num_threads(1)
