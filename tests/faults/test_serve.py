"""`make serve` ends in the middle of a rollout and starts again: the rollout goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mlops.store import Phase
from tests.faults.stage import Stage
from tests.faults.template import GOOD, MODULE
from tests.faults.world import REPLICAS, World
from tests.prefect_server import ROOT

pytestmark = pytest.mark.faults

LIMITS = {"load_s": 10.0, "gate_s": 10.0, "hold_s": 10.0}
"""Shorter than the pause, and longer than a start."""

PAUSE_S = 15.0


@contextmanager
def served(world: World) -> Iterator[subprocess.Popen[bytes]]:
    """Run `make serve` until Ctrl-C."""
    port = world.ports[REPLICAS[0]]
    with (world.folder / "serve.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.serve", "--only-replica", "--port", str(port)],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "MLOPS_BASE_PATH": str(world.folder),
                "STORE_URL": world.url,
                # The folder of the bundles.
                "MLFLOW_TRACKING_URI": f"file://{world.template.folder}",
                "CUSTOM_MODEL_MODULES": MODULE,
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        world.until(lambda: world.ready(REPLICAS[0]), "it is ready")
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60.0) == 0, (world.folder / "serve.log").read_text()


@pytest.mark.parametrize("phase", [Phase.LOADING, Phase.STEP, Phase.PROMOTED])
def test_a_rollout_goes_on_where_its_deadline_passed_while_nothing_ran(
    stage: Stage, phase: Phase
) -> None:
    with stage.world(f"served-{phase}") as world:
        with served(world):
            row = world.ask(GOOD, "canary", dwell_s=2.0, bake_s=2.0, **LIMITS)
            world.reaches(row, phase)
        time.sleep(PAUSE_S)
        with served(world):
            ended = world.ends(row)
        assert ended.phase is Phase.DONE, ended.reason
        assert world.route().champion == GOOD
