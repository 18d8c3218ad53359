"""Writes the answers into docs/api.md: `python docs/make_api.py`.

A comment before a block names method, path and status; the block becomes what the API answered to
that, as mlops/api/examples.json keeps it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "api.md"
EXAMPLES = ROOT / "mlops" / "api" / "examples.json"
ANSWER = re.compile(r"<!-- (?P<route>\w+ \S+) (?P<status>\d+) -->\n```json\n.*?```\n", re.DOTALL)
MOST_ITEMS = 2
"""Entries of a list that the page shows."""


def fill_page(page: str, examples: dict[str, dict[str, Any]]) -> str:
    """The page with each answer in its block."""

    def write(block: re.Match[str]) -> str:
        answer = examples[block["route"]][block["status"]]
        text = json.dumps(shorten(answer), indent=2, ensure_ascii=False)
        return f"<!-- {block['route']} {block['status']} -->\n```json\n{text}\n```\n"

    return ANSWER.sub(write, page)


def shorten(value: Any) -> Any:
    """An answer whose lists have few entries."""
    if isinstance(value, dict):
        return {name: shorten(part) for name, part in value.items()}
    if isinstance(value, list):
        return [shorten(part) for part in value[:MOST_ITEMS]]
    return value


if __name__ == "__main__":
    examples = json.loads(EXAMPLES.read_text(encoding="utf-8"))
    PAGE.write_text(fill_page(PAGE.read_text(encoding="utf-8"), examples), encoding="utf-8")
