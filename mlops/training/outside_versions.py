"""Puts a registered version from elsewhere before the gates, and writes the verdict.

    claims -> OutsideForecasts -> report -> status, figures and what they rest on

With enough of its own forecasts on record those alone are judged. Else the caller says until when
the version was trained, and it is judged on the bars after that.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import pandas as pd

from mlops.errors import GateError
from mlops.registry.connection import Registry
from mlops.settings import Settings
from mlops.store import ModelVersion, Why, get_version
from mlops.store.judgements import (
    EvidenceKind,
    JudgementBasis,
    is_from_elsewhere,
    require_judgeable,
    write_judgement,
)
from mlops.training.outside_evidence import (
    Subject,
    forecast_other_bars,
    forecast_own_bars,
    read_own_record,
    take_record,
)
from mlops.training.outside_forecasts import OutsideForecasts
from mlops.training.outside_judgement import (
    JudgingRules,
    OutsideVerdict,
    judge_outside_forecasts,
    open_archive,
)
from mlops.training.service_bars import load_service_bars
from mlops.validation.evaluation import Evaluation, evaluate
from mlops.validation.forecasts import Forecasts
from mlops.validation.report import GateReport


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class JudgedVersion:
    """A version from elsewhere after its judgement.

    Args:
        rows: The forecasts that were judged.
        evaluation: Their figures.
    """

    version: ModelVersion
    report: GateReport
    basis: JudgementBasis
    rows: Forecasts
    evaluation: Evaluation


def judge_version(
    registry: Registry,
    settings: Settings,
    model_id: str,
    *,
    trained_until: datetime | None,
    bars: pd.DataFrame | None,
    rules: JudgingRules,
    why: Why,
) -> JudgedVersion:
    """Judge a version from elsewhere, and write the verdict.

    Args:
        trained_until: The close of the last bar that it was trained on, by the caller's word; None
            where its forecasts on record are to be judged.
        bars: Bars of another origin; the version then stays `refused`, whatever the verdict.
        why: The author, the reason, and the wall time.

    Raises:
        VersionNotFound: when there is no such version.
        RegistryError: when it was trained here, or its verdict rests on more than this one would.
        GateError: when there is too little to judge by.
        DataError: when the bars cannot be loaded or used.
        ModelError: when the version cannot forecast them.
    """
    version = get_version(registry.store, model_id)
    _require_from_elsewhere(version)
    subject = Subject.open(registry, version)
    judged = _collect_forecasts(
        subject,
        settings,
        trained_until=trained_until,
        bars=bars,
        needed=rules.thresholds.min_test_bars,
        now=why.at,
    )
    require_judgeable(version, kind=judged.kind, own_bars=judged.own_bars)
    verdict = judge_outside_forecasts(
        registry.store,
        open_archive(registry, version.service),
        version.service,
        model_id,
        judged,
        recipe_digest=version.recipe_digest,
        rules=rules,
    )
    evaluation = evaluate(judged.rows, bars_per_year=judged.bars_per_year, fee_bps=rules.fee_bps)
    basis = _describe_basis(version, judged, verdict, why.at)
    written = write_judgement(
        registry.store,
        model_id,
        basis,
        passed=verdict.report.passed,
        report=verdict.report.to_dict(),
        metrics=evaluation.metrics.to_dict(),
        why=why,
    )
    return JudgedVersion(
        version=written,
        report=verdict.report,
        basis=basis,
        rows=judged.rows,
        evaluation=evaluation,
    )


def _require_from_elsewhere(version: ModelVersion) -> None:
    if not is_from_elsewhere(version):
        require_judgeable(version, kind=EvidenceKind.WORD, own_bars=True)


def _collect_forecasts(
    subject: Subject,
    settings: Settings,
    *,
    trained_until: datetime | None,
    bars: pd.DataFrame | None,
    needed: int,
    now: datetime,
) -> OutsideForecasts:
    """The forecasts to judge: those on record where they are enough, else those after the time."""
    if trained_until is not None:
        check_time(trained_until, now)
    if bars is not None:
        return forecast_other_bars(subject, bars, _require_time(subject, trained_until))
    recorded = read_own_record(subject)
    on_record = 0 if recorded is None else len(recorded)
    if recorded is not None and on_record >= needed:
        return take_record(subject, recorded)
    if trained_until is None:
        raise GateError(
            f"{subject.version.model_id} has {on_record:,} forecasts with an outcome on record, "
            f"{needed:,} are needed to judge it without a time. Pass trained_until=, the close of "
            "the last bar that it was trained on; or shadow it first: "
            "manager.deploy_model(model_id, 'shadow')"
        )
    dataset = load_service_bars(
        subject.registry.store,
        settings,
        subject.service,
        since=trained_until,
        history=subject.history,
        now=now,
    )
    return forecast_own_bars(subject, dataset, trained_until, recorded)


def _require_time(subject: Subject, trained_until: datetime | None) -> datetime:
    if trained_until is None:
        raise GateError(
            f"judging {subject.version.model_id} on other bars needs trained_until=, the close of "
            "the last bar that it was trained on"
        )
    return trained_until


def check_time(trained_until: datetime, now: datetime) -> None:
    """Refuse a time that no version can have been trained until.

    Raises:
        GateError: when it has no zone or lies after ``now``.
    """
    if trained_until.tzinfo is None:
        raise GateError(
            f"trained_until={trained_until.isoformat()} has no zone; pass an aware time, such as "
            f"{trained_until.isoformat()}+00:00"
        )
    if trained_until > now:
        raise GateError(
            f"trained_until={trained_until.isoformat()} lies in the future; pass the close of the "
            "last bar that the version was trained on"
        )


def _describe_basis(
    version: ModelVersion, judged: OutsideForecasts, verdict: OutsideVerdict, at: datetime
) -> JudgementBasis:
    earlier = JudgementBasis.of(version)
    return JudgementBasis(
        kind=judged.kind,
        trained_until=judged.trained_until,
        since=pd.Timestamp(judged.rows.made_at[0], tz="UTC").to_pydatetime(),
        until=pd.Timestamp(judged.rows.made_at[-1], tz="UTC").to_pydatetime(),
        bars=len(judged.rows),
        recorded=judged.recorded,
        live=judged.live,
        own_bars=judged.own_bars,
        origin=judged.origin,
        bars_digest=judged.bars_digest,
        study=verdict.study,
        place=verdict.place,
        compared=verdict.compared,
        claims=version.metrics if earlier is None else earlier.claims,
        judged_at=at,
    )
