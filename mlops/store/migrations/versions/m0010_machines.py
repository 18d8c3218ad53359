"""Several machines and several releases on one store.

The store gets an identity, the fingerprints of its signing keys and the oldest revision whose code
may open it; leases say how long they last, failed loads their cause, routes that they are retired,
versions that their bundle was removed, and a rollout may wait for another one to end.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import sqlalchemy as sa
from alembic import op

from mlops.store.migrations import run_script

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    run_script(Path(__file__), op.get_bind())
    row = {"id": 1, "uuid": str(uuid.uuid4()), "fingerprints": "[]", "min_reader": revision}
    op.get_bind().execute(
        sa.text(
            "INSERT INTO installation (id, uuid, key_fingerprints, min_reader) "
            "VALUES (:id, :uuid, :fingerprints, :min_reader)"
        ),
        row,
    )
