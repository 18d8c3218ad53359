from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlops.serving.engine.model_pool import LoadedModel
from tests.mlops.serving.engine.crowd import Doubler, model_of


@pytest.fixture
def bundle() -> Iterator[Doubler]:
    made = Doubler()
    yield made
    made.gate.set()


@pytest.fixture
def model(bundle: Doubler) -> LoadedModel:
    return model_of(bundle)
