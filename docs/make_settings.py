"""Writes docs/settings.md from .env.example: `.venv/bin/python docs/make_settings.py`."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "settings.md"
HEAD = """\
# Settings

Every setting is an environment variable. This page is written from
[.env.example](../.env.example) by `docs/make_settings.py`; a test compares the two, and another
one compares .env.example with the code.

Where a value comes from, the first that has one:

1. the environment of the process (`export FEE_BPS=5`);
2. a file `.env` in the working directory (`cp .env.example .env`, then change what you need);
3. the default below. An empty value means the default.

A wrong value is refused when a process starts. The message names the variable, what it was and
what is allowed. A misspelled name is **not** noticed: `MIN_R2_SCOR=0.9` changes nothing. Read back
what a process uses:

```python
from mlops import mlops_config

print(mlops_config.min_r2_score, mlops_config.mlops_base_path)
```

In `.env` a blank followed by `#` begins a comment, unless the value stands in quotes. Paths may
begin with `~` or `~user`, and have variables (`$HOME/mlops`); one that is not set is refused.
Behind `sqlite:///` stands a path as it is, up to a `?` where options begin; behind `file://` a path
in which `%20` means a blank.

Replicas, workers and notebooks of one installation must have the same values; a process reads them
when it starts, so start it again after a change. Prefect and MLflow read variables of their own.
Three that you may need: `PREFECT_API_URL` (the Prefect server of commands and notebooks),
`PREFECT_HOME` (the folder of a server's own database; `make serve` replaces `~` and variables) and
`PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS` (how long a notebook waits for a temporary
server); see [Troubleshooting](troubleshooting.md).
"""


def write_page(example: str) -> str:
    """The page as Markdown: one table for each group of ``example``, the text of .env.example."""
    parts = [HEAD]
    groups = re.split(r"^# --- (.+?) -+$", example, flags=re.MULTILINE)
    for title, lines in zip(groups[1::2], groups[2::2], strict=True):
        parts.append(f"\n## {title}\n\n| variable | default | meaning |\n|---|---|---|\n")
        variables = re.findall(r"((?:^# .*\n)+)^([A-Z0-9_]+)=(.*)$", lines, flags=re.MULTILINE)
        for comment, name, default in variables:
            meaning = " ".join(line.removeprefix("# ") for line in comment.splitlines())
            shown = f"`{default}`" if default else "empty"
            parts.append(f"| `{name}` | {shown} | {meaning} |\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(write_page((ROOT / ".env.example").read_text()))
