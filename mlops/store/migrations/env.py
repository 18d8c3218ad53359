"""Alembic's entry: it runs on the connection and in the transaction it is handed."""

from __future__ import annotations

from alembic import context

from mlops.store.migrations import VERSION_TABLE
from mlops.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
