"""Every scene without a fault: what it comes by is where faults are injected afterwards."""

import pytest

from tests.faults.scenes import SCENES
from tests.faults.stage import Stage


@pytest.mark.beside
@pytest.mark.parametrize("scene", SCENES)
def test_no_request_fails_where_nothing_dies(stage: Stage, scene: str) -> None:
    visits = stage.rehearsed(scene)
    assert visits["replica"]
