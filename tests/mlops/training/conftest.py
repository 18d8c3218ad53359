"""The registry's fixtures: a training begins with one and ends in it."""

from tests.mlops.registry.conftest import (  # noqa: F401
    bars,
    candidate,
    dataset,
    linear,
    populated,
    populated_once,
    registry,
    signing_key,
    unverified,
    written,
)
