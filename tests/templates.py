"""What many tests start from: a process that forks others, and trainings made once and copied."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.zygote import Zygote, import_pipeline

__all__ = ["zygote"]


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Forks processes that have imported the pipeline."""
    opened = Zygote(tmp_path_factory.mktemp("zygote") / "zygote.log", import_pipeline)
    yield opened
    opened.close()
