"""Every scene without a fault: what it comes by is where faults are injected afterwards."""

import pytest

from tests.faults.scenes import SCENES
from tests.faults.stage import Stage


@pytest.mark.beside(first=True)
def test_no_request_fails_where_nothing_dies(stage: Stage) -> None:
    for scene in SCENES:
        assert stage.visited(scene), f"{scene} came by nothing"
