"""What every part of the manager stands on: the settings and what they open."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cached_property

from mlops.deployer import Deployer
from mlops.installation import open_installation
from mlops.models.bundle import Trust
from mlops.registry import Registry
from mlops.settings import Settings
from mlops.store import Store, Why
from mlops.store.audit import SYSTEM


class Opened:
    """Store, registry and deployer of one set of settings, opened on first use."""

    def __init__(self, config: Settings) -> None:
        self.config = config
        self.installation = open_installation(config)

    @cached_property
    def registry(self) -> Registry:
        """The open registry, for calls that this class does not have."""
        return self.installation.registry

    @property
    def store(self) -> Store:
        """The open store."""
        return self.installation.store

    @property
    def trust(self) -> Trust:
        """The signing key and the modules whose classes may be loaded."""
        return self.installation.trust

    @property
    def deployer(self) -> Deployer:
        """Takes versions live, for callers that follow a rollout step by step."""
        return self.installation.deployer


def why_of(actor: str, reason: str) -> Why:
    """The author and the reason of a change, dated now; without an author the system's own."""
    return Why(datetime.now(UTC), actor=actor or SYSTEM, reason=reason)
