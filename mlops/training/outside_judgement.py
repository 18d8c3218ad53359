"""Judges a version from elsewhere by the gates, as one more trial of its service.

    OutsideForecasts -> row in the ledger, level -> gates with the earlier trials -> report

The caller may have tried any number of versions before this one, and those that were judged here
are all known: each has a row in the ledger, and its forecasts are kept. Gate G2 compares the
version with those that forecast the same bars, at the level of `mlops.training.search_level`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import pandas as pd

from mlops.arrays import FloatArray
from mlops.errors import GateError
from mlops.registry.connection import Registry
from mlops.search.trial_archive import TrialArchive, studies_folder
from mlops.store import Store
from mlops.store.ledger import record_judged_trial
from mlops.training.outside_forecasts import OutsideForecasts
from mlops.training.search_level import judging_level, spend_level
from mlops.validation.evidence import Evidence, Integrity, Thresholds
from mlops.validation.gates import judge
from mlops.validation.report import GateReport

MOST_COMPARED = 100
"""Trials that gate G2 compares at most, so that a judgement takes seconds. The level allows for all
others, as for those that forecast other bars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgingRules:
    """By what a version from elsewhere is judged.

    Args:
        fee_bps: Costs of one turnover of the whole position, in basis points.
        yearly_alpha: The service's budget of false promotions.
    """

    thresholds: Thresholds
    fee_bps: float
    yearly_alpha: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class OutsideVerdict:
    """The gates' report on a version from elsewhere, and its place in the ledger.

    Args:
        study: The judgement's study in the ledger; ``place``: its number there.
        compared: Trials that gate G2 compared, this one included.
    """

    report: GateReport
    study: str
    place: int
    compared: int


def judge_outside_forecasts(
    store: Store,
    archive: TrialArchive,
    service: str,
    model_id: str,
    judged: OutsideForecasts,
    *,
    recipe_digest: str,
    rules: JudgingRules,
) -> OutsideVerdict:
    """Judge forecasts of a version from elsewhere; a second call with the same spends nothing.

    Args:
        archive: The kept forecasts of the service's trials; the judged ones are added.
        service: Key of the service.
        recipe_digest: Digest of the version's recipe.

    Raises:
        GateError: when there are too few forecasts to judge by; nothing is spent then.
    """
    require_enough(judged, model_id, rules.thresholds)
    rows = judged.rows
    study = f"judged-{model_id}-{judged.digest[:16]}"[-200:]
    # Counted before it is archived: a kill in between leaves a trial that is judged again under
    # its own row, never an uncounted one.
    trial = record_judged_trial(
        store,
        service,
        study=study,
        watermark=judged.bars_digest,
        recipe_digest=recipe_digest,
        at=pd.Timestamp(rows.made_at[-1], tz="UTC").to_pydatetime(),
        level=lambda place: spend_level(place, yearly=rules.yearly_alpha),
    )
    trials = {model_id: rows.forecast, **_read_other_trials(archive, study, model_id, judged)}
    archive.keep(study, model_id, rows.made_at, rows.forecast)
    alpha = judging_level(trial.alpha, compared=len(trials), own=1, yearly=rules.yearly_alpha)
    evidence = collect_evidence(model_id, judged, trials, alpha=alpha, fee_bps=rules.fee_bps)
    report = judge(evidence, rules.thresholds)
    return OutsideVerdict(report=report, study=study, place=trial.place, compared=len(trials))


def collect_evidence(
    model_id: str,
    judged: OutsideForecasts,
    trials: Mapping[str, FloatArray],
    *,
    alpha: float,
    fee_bps: float,
) -> Evidence:
    """What the gates judge of a version from elsewhere.

    The version was made before the bars, so the same rows serve as both records. The level allows
    for every trial that is not among ``trials``.

    Args:
        trials: Forecasts (n,) of the judged bars by name, the version's own included.
        alpha: The level of this judgement.
        fee_bps: Costs of one turnover of the whole position, in basis points.
    """
    return Evidence(
        candidate=model_id,
        walk_forward=judged.rows,
        holdout=judged.rows,
        winner=model_id,
        trials=trials,
        n_trials=len(trials),
        integrity=Integrity(
            gap_bars=judged.gap_bars,
            ordered=True,  # by the caller's word, which the report says, or by the record
            feature_schema_matches=True,  # a bundle computes its own features by name
            causality_proven=True,  # a proof that fails ends the judgement; a record needs none
            word=judged.word,
        ),
        bars_per_year=judged.bars_per_year,
        fee_bps=fee_bps,
        champion=judged.champion,
        refit=True,
        alpha=alpha,
        findings=judged.findings,
    )


def require_enough(judged: OutsideForecasts, model_id: str, thresholds: Thresholds) -> None:
    """Refuse to judge by fewer forecasts than gate G0 asks for.

    Raises:
        GateError: saying how many there are and where more come from.
    """
    n, needed = len(judged.rows), thresholds.min_test_bars
    if n >= needed:
        return
    raise GateError(
        f"{model_id} has {n:,} forecasts with an outcome to be judged by, at least {needed:,} are "
        f"needed; judge it again when {needed - n:,} more bars are known"
    )


def open_archive(registry: Registry, service: str) -> TrialArchive:
    """The kept forecasts of a service's trials."""
    return TrialArchive(studies_folder(registry.home, service))


def _read_other_trials(
    archive: TrialArchive, study: str, model_id: str, judged: OutsideForecasts
) -> Mapping[str, FloatArray]:
    """Forecasts (n,) of the judged bars by other versions and trials; no earlier ones by itself."""
    kept = archive.earlier(study, judged.rows.made_at)
    others = {name: made for name, made in kept.items() if name.rpartition("/")[2] != model_id}
    return dict(islice(others.items(), MOST_COMPARED - 1))
