"""The identity of a store: what tells one installation from another that shares its MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from mlops.store.engine import Connection
from mlops.store.schema import installation


@dataclass(frozen=True, slots=True)
class InstallationRow:
    """The one row of an installation, which may run on several machines.

    Args:
        uuid: Made with the store; machines on one store share it.
        key_fingerprints: Of the signing keys that its bundles may be signed with.
        min_reader: The oldest schema revision whose code may open the store.
    """

    uuid: str
    key_fingerprints: tuple[str, ...]
    min_reader: str


def read_installation(connection: Connection) -> InstallationRow:
    """The identity of the store that the caller's transaction reads."""
    row = connection.execute(sa.select(installation)).one()
    return InstallationRow(row.uuid, tuple(row.key_fingerprints), row.min_reader)


def write_key_fingerprints(connection: Connection, fingerprints: Sequence[str]) -> None:
    """Replace the signing keys that the store knows, inside the caller's transaction."""
    connection.execute(installation.update().values(key_fingerprints=list(fingerprints)))


def record_first_key(connection: Connection, fingerprint: str) -> tuple[str, ...]:
    """Write the signing key of a store that knows none; returns the keys that it knows then.

    Where the store has versions, the caller has verified that the key signed a champion.
    """
    query = sa.select(installation.c.key_fingerprints).with_for_update()
    known = tuple(connection.execute(query).scalar_one())
    if not known:
        write_key_fingerprints(connection, (fingerprint,))
    return known or (fingerprint,)
