"""Every table, index and guard of the first release, in one step.

Migrations 0001 to 0009 of the time before it built the same schema, column for column; hence the
number. The statements are frozen as SQL, one after each blank line, and not taken from
`mlops.store.schema`: a migration must go on meaning what it meant when the schema has moved on.
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

from mlops.store.migrations import run_script

revision = "0009"
down_revision = None


def upgrade() -> None:
    run_script(Path(__file__), op.get_bind())
