"""The model card of a version: facts, verdict, gates, metrics and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mlops.arrays import FloatArray
from mlops.data.finding_texts import describe_findings
from mlops.reports import figures
from mlops.reports.page import (
    AbTestSection,
    HistorySection,
    MetricRow,
    Page,
    Picture,
    RolloutSection,
    Section,
    render,
)
from mlops.search.study import Study
from mlops.service import Target
from mlops.stats.trading import net_returns
from mlops.store import ModelVersion
from mlops.training.judgement import Judgement
from mlops.training.training_plan import TrainingPlan
from mlops.validation.forecasts import Forecasts

UNITS: Mapping[Target, str] = {
    Target.VOLATILITY: "log volatility per bar",
    Target.RETURN: "log return",
    Target.PRICE: "price",
    Target.DIRECTION: "probability of a rise",
}


def verdict_sentence(judgement: Judgement) -> str:
    """Whether a version passed its gates, and every reason where it was refused."""
    if judgement.report.passed:
        return "Passed every hard gate: it is the service's challenger."
    return "Refused. " + "; ".join(judgement.report.reasons) + "."


def card_section(
    plan: TrainingPlan, study: Study, judgement: Judgement, version: ModelVersion
) -> Section:
    """One version as a section of a page."""
    findings = plan.dataset.findings
    return Section(
        title=f"{version.model_id} — {version.service}",
        verdict=verdict_sentence(judgement),
        passed=judgement.report.passed,
        facts=card_facts(plan, study, version),
        gates=judgement.report.to_dict()["results"],
        metrics=[
            MetricRow(m.name, m.value, m.low, m.high, m.baseline)
            for m in judgement.evaluation.measures
        ],
        pictures=card_pictures(study, judgement),
        bars=[] if findings is None else list(describe_findings(findings)),
    )


def card_facts(plan: TrainingPlan, study: Study, version: ModelVersion) -> dict[str, str]:
    """What the version is, the data it was trained on and the code that trained it."""
    frame = plan.dataset.frame
    slices, source = study.slices, plan.dataset.provenance
    origin = "" if source is None else f"{source.label}, known {source.fetched_at:%Y-%m-%d}"
    return {
        "model": f"{version.model_type}, chosen from {len(study.trials)} trials",
        "recipe": json.dumps(study.winner.recipe.to_dict()),
        "bars": f"{len(frame):,}, {frame.index[0]:%Y-%m-%d} to {frame.index[-1]:%Y-%m-%d}",
        "from": origin or "unknown",
        "data watermark": version.watermark,
        "refits": f"{len(slices.development)} before the holdout, {len(slices.holdout)} through it",
        "leakage proof": f"{plan.proof.tests:,} tests, largest change "
        f"{plan.proof.largest_change:.1e}",
        "bundle digest": version.digest,
        "code": version.code_version,
        "MLflow run": version.run_id,
        "asked for": f"{plan.model_type} ({plan.reason})",
    }


def save_card(section: Section, directory: Path, model_id: str) -> Path:
    """Write a card as HTML, and as JSON from which `save_story` makes other pages."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{model_id}.html"
    path.write_text(render(Page(section.title, "model card", [section])), encoding="utf-8")
    path.with_suffix(".json").write_text(section.to_json(), encoding="utf-8")
    return path


def save_story(
    cards: Sequence[Path],
    path: Path,
    *,
    title: str,
    subtitle: str,
    rollouts: Sequence[RolloutSection] = (),
    history: Sequence[HistorySection] = (),
    tests: Sequence[AbTestSection] = (),
) -> Path:
    """Put saved cards, the rollouts that followed, history and A/B tests on one page."""
    sections = [
        Section.from_json(card.with_suffix(".json").read_text(encoding="utf-8")) for card in cards
    ]
    page = Page(title, subtitle, sections, rollouts, history, tests)
    path.write_text(render(page), encoding="utf-8")
    return path


def card_pictures(study: Study, judgement: Judgement) -> list[Picture]:
    """The five pictures of a card, all of rows that the model was not fitted on."""
    rows = judgement.holdout
    unit = UNITS[rows.target]
    fees = judgement.evaluation.fee_bps
    return [
        Picture(
            "Forecast against outcome",
            figures.forecast_against_outcome(
                rows.made_at, rows.y, rows.forecast, rows.baseline, unit=unit
            ),
            "The holdout, forecast once, beside the service's baseline.",
        ),
        Picture(
            "Skill by fold against each baseline",
            figures.skill_by_fold(*fold_skills(judgement)),
            "Share of each naive forecast's squared error that the model removes, for each refit.",
        ),
        Picture(
            "Equity and drawdown after costs",
            figures.equity_and_drawdown(
                rows.made_at, _net_returns(rows, fees), _net_returns(rows.of_baseline(), fees)
            ),
            f"Following the forecasts at {fees:g} bps per turnover of the whole position.",
        ),
        Picture(
            "Calibration",
            figures.calibration(rows.y, rows.forecast, unit=unit),
            "Mean outcome in each twelfth of the forecasts.",
        ),
        Picture(
            "Trials",
            figures.trials(list(study.ranks), list(study.ranks.values()), winner=study.winner.name),
            "Every recipe that was tried on the development slice; all of them count in gate G2.",
        ),
    ]


def fold_skills(judgement: Judgement) -> tuple[list[str], dict[str, list[float]]]:
    """Labels of the folds, and for each baseline the share of its squared error removed in each."""
    rows = judgement.holdout
    folds: Sequence[int] = [int(fold) for fold in np.unique(rows.fold)]
    labels = [f"refit {fold + 1}" for fold in folds]
    losses = (rows.y - rows.forecast) ** 2
    skills: dict[str, list[float]] = {}
    for name, naive in judgement.baselines.items():
        baseline_losses = (naive.y - naive.forecast) ** 2
        known = np.isfinite(baseline_losses)
        skills[name] = [
            float(1 - losses[here].mean() / baseline_losses[here].mean())
            for here in (known & (rows.fold == fold) for fold in folds)
        ]
    return labels, skills


def _net_returns(rows: Forecasts, fee_bps: float) -> FloatArray:
    return net_returns(rows.positions(), rows.next_return, fee_bps=fee_bps)
