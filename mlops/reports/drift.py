"""The drift report as a page: Evidently draws the columns; the p-values and the verdict are ours.

Evidently's own tests take bars for independent draws and call nearly every window of a market
drifted. So it is given a test that looks up what `mlops.monitoring.drift.report` found.
"""

from __future__ import annotations

import warnings
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from mlops.models.bundle import Bundle
from mlops.monitoring.drift.column_test import ColumnStatus
from mlops.monitoring.drift.report import DriftReport
from mlops.monitoring.drift.version_drift import columns_of, reference_frame
from mlops.registry.connection import Registry
from mlops.registry.tracking import RunLog
from mlops.reports.page import fill
from mlops.store import ModelVersion

FOLDER = "drift"
"""Where a version's MLflow run keeps its pages."""

TEST = "window_null"
SHOWN_AS = "p-value of the window null"
_BODY = "<body>"
_PLAIN = f"<!doctype html>\n<meta charset=utf-8>\n{_BODY}\n</body>\n"

_shown: ContextVar[DriftReport] = ContextVar("shown")


def keep_drift_report(
    registry: Registry,
    version: ModelVersion,
    bundle: Bundle,
    report: DriftReport,
    recent: pd.DataFrame,
    *,
    directory: Path,
) -> Path:
    """Write the page of what a version's recent rows were found to be, and keep it with its run.

    ``recent`` are the rows that were checked: plain bars or the version's own columns. The page
    is there as well when MLflow, whose errors come through, is not.
    """
    frame = columns_of(bundle, recent)
    path = save_drift_report(
        report,
        reference_frame(bundle),
        frame,
        directory / page_name(version, frame),
        title=f"{version.model_id} — {version.service}",
    )
    RunLog(registry.tracking, version.run_id).log_artifact(path, FOLDER)
    return path


def page_name(version: ModelVersion, frame: pd.DataFrame) -> str:
    """One page for each newest row that was judged; rows may have no times."""
    last = frame.index[-1] if len(frame) else "nothing"
    stamp = f"{last:%Y%m%dT%H%M}" if isinstance(last, pd.Timestamp) else str(last)
    return f"{version.model_id}-{stamp}.html"


def save_drift_report(
    report: DriftReport,
    reference: pd.DataFrame,
    current: pd.DataFrame,
    path: Path,
    *,
    title: str,
) -> Path:
    """Write the page of a report; the frames hold its columns, one row a bar.

    Of ``current`` the last ``report.window_bars`` rows are drawn. A column that was not tested,
    or of which a frame holds no value, is listed with the reason and not drawn.
    """
    window = current.iloc[len(current) - report.window_bars :]
    then, now = _finite(reference), _finite(window)
    drawn = [
        column.name
        for column in report.columns
        if column.status is ColumnStatus.TESTED and _in_both(column.name, then, now)
    ]
    words = fill("drift.html", title=title, report=report, drawn=drawn)
    page = _drawn(report, then[drawn], now[drawn]) if drawn else _PLAIN
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page.replace(_BODY, f"{_BODY}\n{words}", 1), encoding="utf-8")
    return path


def _drawn(report: DriftReport, reference: pd.DataFrame, window: pd.DataFrame) -> str:
    """Evidently's page; it compares nothing itself."""
    token = _shown.set(report)
    try:
        with warnings.catch_warnings():
            # It warns about its own dependencies.
            warnings.simplefilter("ignore")
            return _by_evidently(reference, window)
    finally:
        _shown.reset(token)


def _by_evidently(reference: pd.DataFrame, window: pd.DataFrame) -> str:
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import DriftedColumnsCount, ValueDrift

    _register_test()
    names = [str(name) for name in reference.columns]
    numbers = [name for name in names if pd.api.types.is_numeric_dtype(reference[name])]
    definition = DataDefinition(
        numerical_columns=numbers,
        categorical_columns=[name for name in names if name not in numbers],
    )
    then = Dataset.from_pandas(reference, data_definition=definition)
    now = Dataset.from_pandas(window, data_definition=definition)
    columns = [ValueDrift(column=name, method=TEST) for name in names]
    report = Report([DriftedColumnsCount(columns=names, method=TEST), *columns])
    html: str = report.run(now, then).get_html_str(as_iframe=False)
    return html


@cache
def _register_test() -> None:
    """Tell Evidently of our test, once in a process."""
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    kinds = [ColumnType.Numerical, ColumnType.Categorical]
    register_stattest(StatTest(TEST, SHOWN_AS, kinds), _look_up)


def _look_up(
    reference: pd.Series, current: pd.Series, kind: object, threshold: float
) -> tuple[float, bool]:
    """The p-value of a column of the report that is being drawn, and whether it was noticed."""
    report = _shown.get()
    name = str(current.name)
    noticed = name in {*report.rejections.noticed, *report.behind}
    return report[name].p_value, noticed


def _finite(frame: pd.DataFrame) -> pd.DataFrame:
    """Without infinities, by column name; of several with one name the last."""
    plain: pd.DataFrame = frame.loc[:, ~frame.columns.duplicated(keep="last")]
    plain = plain.rename(columns=str).reset_index(drop=True)
    return plain.replace([np.inf, -np.inf], np.nan)


def _in_both(name: str, *frames: pd.DataFrame) -> bool:
    """A column without values ends Evidently's whole report; an absent one goes without a word."""
    return all(name in frame and bool(frame[name].notna().any()) for frame in frames)
