"""Makes a copied store that of another place: where its bundles lie, and who holds its roles."""

from __future__ import annotations

from collections.abc import Mapping

from mlops.store.engine import Store
from mlops.store.schema import lease, version


def relocate_store(store: Store, bundle_uris: Mapping[str, str]) -> None:
    """Name the new place of each version's bundle, by model_id, and end every lease.

    The holders of the leases are processes of the time of the copy. Terms stay, so that none of
    these processes that still lives could take its lease for held.
    """
    with store.write() as connection:
        for model_id, uri in bundle_uris.items():
            moved = version.update().where(version.c.model_id == model_id)
            connection.execute(moved.values(bundle_uri=uri))
        connection.execute(lease.update().values(until=0.0))
