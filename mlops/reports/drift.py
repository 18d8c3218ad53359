"""The drift report as an HTML page, whose columns Evidently draws.

The tests of Evidently assume independent rows and call nearly every window of a market drifted.
So a test is registered with it that returns the p-values of `mlops.monitoring.drift.report`.
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
"""The artifact folder of the pages in the MLflow run of a version."""

TEST = "window_null"
TEST_TITLE = "p-value of the window null"
_BODY = "<body>"
_EMPTY_PAGE = f"<!doctype html>\n<meta charset=utf-8>\n{_BODY}\n</body>\n"

_drawn_report: ContextVar[DriftReport] = ContextVar("drawn_report")


def keep_drift_report(
    registry: Registry,
    version: ModelVersion,
    bundle: Bundle,
    report: DriftReport,
    recent: pd.DataFrame,
    *,
    directory: Path,
) -> Path:
    """Write the page of a drift report of a version, and keep it with the version's run.

    The page is written before MLflow is reached, whose errors are raised.

    Args:
        recent: The rows that were checked: plain bars or the version's own columns.
        directory: Where the page is written.
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
    """The file name of a page: one for each newest row, by its time or its label."""
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
    """Write the page of a report.

    A column that was not tested, or of which a frame holds no value, is listed with the reason
    and not drawn.

    Args:
        reference: The columns of the report in the reference, one row a bar.
        current: The same columns now; the last ``report.window_bars`` rows are drawn.
    """
    window = current.iloc[len(current) - report.window_bars :]
    then, now = _finite(reference), _finite(window)
    # A column without values ends Evidently's whole report; an absent one goes without a word.
    drawn = [
        column.name
        for column in report.columns
        if column.status is ColumnStatus.TESTED
        and all(column.name in frame and frame[column.name].notna().any() for frame in (then, now))
    ]
    text = fill("drift.html", title=title, report=report, drawn=drawn)
    page = _draw_with_evidently(report, then[drawn], now[drawn]) if drawn else _EMPTY_PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page.replace(_BODY, f"{_BODY}\n{text}", 1), encoding="utf-8")
    return path


def _draw_with_evidently(report: DriftReport, reference: pd.DataFrame, window: pd.DataFrame) -> str:
    """The HTML page of Evidently, with the p-values of ``report``."""
    names = [str(name) for name in reference.columns]
    numbers = [name for name in names if pd.api.types.is_numeric_dtype(reference[name])]
    token = _drawn_report.set(report)
    try:
        with warnings.catch_warnings():
            # Evidently's own dependencies raise warnings that a reader can do nothing about.
            warnings.simplefilter("ignore")
            from evidently import DataDefinition, Dataset, Report
            from evidently.metrics import DriftedColumnsCount, ValueDrift

            _register_test()
            definition = DataDefinition(
                numerical_columns=numbers,
                categorical_columns=[name for name in names if name not in numbers],
            )
            then = Dataset.from_pandas(reference, data_definition=definition)
            now = Dataset.from_pandas(window, data_definition=definition)
            columns = [ValueDrift(column=name, method=TEST) for name in names]
            page = Report([DriftedColumnsCount(columns=names, method=TEST), *columns])
            html: str = page.run(now, then).get_html_str(as_iframe=False)
            return html
    finally:
        _drawn_report.reset(token)


@cache
def _register_test() -> None:
    """Register our test with Evidently, once in a process."""
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    kinds = [ColumnType.Numerical, ColumnType.Categorical]
    register_stattest(StatTest(TEST, TEST_TITLE, kinds), _look_up)


def _look_up(
    reference: pd.Series, current: pd.Series, kind: object, threshold: float
) -> tuple[float, bool]:
    """Our test as Evidently calls it: the p-value of a column, and whether it is drift."""
    report = _drawn_report.get()
    name = str(current.name)
    noticed = name in {*report.rejections.noticed, *report.behind}
    return report[name].p_value, noticed


def _finite(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame without infinities; of several columns with the same name the last."""
    plain: pd.DataFrame = frame.loc[:, ~frame.columns.duplicated(keep="last")]
    plain = plain.rename(columns=str).reset_index(drop=True)
    return plain.replace([np.inf, -np.inf], np.nan)
