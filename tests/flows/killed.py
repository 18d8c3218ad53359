"""A deploy flow in a process of its own, to be killed: the version and seconds a step lasts."""

from __future__ import annotations

import sys

from flows.deploy import deploy
from mlops.rollout.plan import RolloutSettings

if __name__ == "__main__":
    deploy(sys.argv[1], plan=RolloutSettings(dwell_s=float(sys.argv[2]), bake_s=0, load_s=60))
