"""Tells whose a draft or a run in MLflow is, and whether the process that made it may be at work.

Installations may share an MLflow, and machines may share an installation. So each draft (a version
or logged model that is not committed yet) and each run carries

    installation   the uuid of the store
    lease, term    the lease under which it was made: that of the registration, or of a training

A draft or run is abandoned when it is this installation's own and no process holds that lease at
that term any more. A term never comes back, so whoever stalled and wakes up is refused at its
commit, and what was cleaned meanwhile is missed by nobody.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from uuid import uuid4

from mlops.errors import RegistryError, TrainingTimeout
from mlops.store import Store
from mlops.store.identity import read_installation
from mlops.store.leases import Lease, exclusive, read_held_terms, require_held

INSTALLATION_TAG = "mlops.installation"
LEASE_TAG = "mlops.lease"
TERM_TAG = "mlops.lease_term"

REGISTRATION = "registration"
"""The lease under which an installation registers, repairs and is backed up."""

REGISTRATION_TIMEOUT_S = 600.0


@contextmanager
def exclusive_registration(
    store: Store, *, timeout_s: float = REGISTRATION_TIMEOUT_S
) -> Iterator[Lease]:
    """Hold the registration lease: one registration, repair or backup of the installation at once.

    Raises:
        RegistryError: when another process holds it for longer than ``timeout_s``.
    """
    # Containers may share host name and process id.
    holder = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
    with ExitStack() as stack:
        try:
            lease = stack.enter_context(exclusive(store, REGISTRATION, holder, timeout_s=timeout_s))
        except TrainingTimeout as error:
            raise RegistryError(
                f"another registration, repair or backup has held the {REGISTRATION} lease for "
                f"{timeout_s:g} s ({error}); wait for it to end, or end it"
            ) from error
        yield lease


def owner_tags(store: Store, lease: Lease) -> dict[str, str]:
    """The tags of a draft or run that is made under a lease."""
    return {
        INSTALLATION_TAG: installation_id(store),
        LEASE_TAG: lease.name,
        TERM_TAG: str(lease.term),
    }


def installation_id(store: Store) -> str:
    """The uuid of the store, equal on all machines that use it."""
    with store.read() as connection:
        return read_installation(connection).uuid


@dataclass(frozen=True, slots=True)
class Owner:
    """An installation and the leases that its processes hold, as the store says at one moment.

    Args:
        terms: The term of each held lease by its name.
    """

    installation: str
    terms: Mapping[str, int]

    def has_abandoned(self, tags: Mapping[str, str]) -> bool:
        """Whether what carries these tags is this installation's, and its term is over."""
        if tags.get(INSTALLATION_TAG) != self.installation:
            return False
        term = self.terms.get(tags.get(LEASE_TAG, ""))
        return str(term) != tags.get(TERM_TAG)


def read_owner(store: Store, registration: Lease) -> Owner:
    """Read who works at the installation; the caller holds the registration lease.

    The caller lists drafts and runs first: what is made after this reading is not among them. Its
    own lease is left out, because a draft of its own is abandoned when it comes to clean up.

    Raises:
        LeaseLost: when the lease was lost; the caller must not remove anything.
    """
    with store.write() as connection:
        require_held(connection, registration)
        terms = read_held_terms(connection)
        installation = read_installation(connection).uuid
    terms.pop(registration.name, None)
    return Owner(installation, terms)
