"""The flows: each calls its steps in order."""

import os

# Without a Prefect server, a first call in a notebook starts a temporary one, which takes a busy
# machine longer than Prefect's 20 s. Prefect reads it when it is imported.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "90")
