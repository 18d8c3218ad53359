"""Tasks are steps of the library with the project's settings put in."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlops.errors import BarsError, SourceError
from mlops.search.config import TrainingConfig
from mlops.settings import current_settings
from mlops.store import get_route
from tasks import training as step
from tasks.context import open_project
from tests.project import BARS, Place
from tests.studied import Studied, assigned


def test_bars_known_by_the_end_are_loaded(project: Place) -> None:
    end = project.frame.index[100].to_pydatetime()
    service = current_settings().service("BTC/USD", venue="simulator")
    assert len(step.load.fn(open_project(), service, project.config(end=end)).frame) == 100


def test_a_file_that_is_not_there_fails_at_once(project: Place) -> None:
    service = current_settings().service("BTC/USD", venue="simulator")
    assert step.load.retries == 0
    with pytest.raises(SourceError, match=r"missing\.parquet"):
        step.load.fn(open_project(), service, TrainingConfig(bars_file="missing.parquet"))


def test_what_was_found_of_the_bars_is_logged_and_goes_with_them(
    project: Place, caplog: pytest.LogCaptureFixture
) -> None:
    frame = project.frame
    frame.iloc[500:, :4] /= 2
    frame.to_parquet(project.bars)
    opened, service = open_project(), current_settings().service("BTC/USD", venue="simulator")
    with caplog.at_level("INFO", "mlops"):
        bars = step.load.fn(opened, service, project.config())
    told = [text for text in caplog.messages if "as a split does" in text]
    assert len(told) == 1
    findings = step.build_dataset.fn(opened, service, bars).findings
    assert findings is not None
    assert findings.suspected["split"].first == (frame.index[500],)


def test_a_file_of_doubtful_bars_is_refused_before_a_service_begins(project: Place) -> None:
    frame = project.frame
    frame.iloc[500:600:2, 1] *= 2
    frame.to_parquet(project.bars)
    opened, service = open_project(), current_settings().service("BTC/USD", venue="simulator")
    with pytest.raises(BarsError, match=r"50 of 2,400 bars are suspected .*start="):
        step.load.fn(opened, service, project.config())
    first = frame.index[600].to_pydatetime()
    assert len(step.load.fn(opened, service, project.config(start=first)).frame) == 1800


def test_a_service_begins_at_the_time_of_its_bars(project: Place) -> None:
    """Its yearly budget accrues in market time, so that a rehearsed year has one too."""
    opened, assignment = assigned(project)
    route = get_route(opened.registry.store, assignment.service.key)
    assert route is not None
    assert route.created_at == project.frame.index[-1] + assignment.dataset.step


def test_features_are_kept_under_the_base_path(project: Place) -> None:
    _, assignment = assigned(project)
    assert list((project.base / "features").glob("*.npy"))
    assert len(assignment.dataset) == BARS


def test_a_card_is_kept_with_the_run_and_under_the_reports(volatility: Studied) -> None:
    judgement, version = volatility.judged(), volatility.registered()
    path = step.draw_card.fn(
        volatility.project,
        volatility.assignment,
        study=volatility.study,
        judgement=judgement,
        version=version,
        run=volatility.run,
    )
    client = volatility.project.registry.tracking.client
    kept = {Path(file.path).name for file in client.list_artifacts(volatility.run.run_id)}
    assert path.parent == volatility.place.base / "reports"
    assert path.name in kept
