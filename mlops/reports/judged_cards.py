"""The card of a version from elsewhere: the verdict, and what it rests on before anything else."""

from __future__ import annotations

import json

from mlops.reports import figures
from mlops.reports.cards import UNITS
from mlops.reports.page import MetricRow, Picture, Section
from mlops.stats.trading import net_returns
from mlops.store.judgements import EvidenceKind, JudgementBasis
from mlops.training.outside_versions import JudgedVersion


def judged_card_section(judged: JudgedVersion) -> Section:
    """A judged version from elsewhere as a section of a page."""
    version, report = judged.version, judged.report
    return Section(
        title=f"{version.model_id} — {version.service}",
        verdict=describe_verdict(judged),
        passed=report.passed,
        facts=describe_facts(judged),
        gates=report.to_dict()["results"],
        metrics=[
            MetricRow(m.name, m.value, m.low, m.high, m.baseline)
            for m in judged.evaluation.measures
        ],
        pictures=draw_pictures(judged),
    )


def describe_verdict(judged: JudgedVersion) -> str:
    """Whether it passed its gates, and by whose word."""
    report, basis = judged.report, judged.basis
    passed = "Passed every hard gate" if report.passed else "Refused"
    why = "" if report.passed else f" {'; '.join(report.reasons)}."
    if not basis.own_bars:
        return (
            f"{passed} on bars that its caller gave; the version stays refused, whatever they say."
            f"{why}"
        )
    grounds = "the caller's word" if basis.kind is EvidenceKind.WORD else "its own record"
    return f"{passed}, on {grounds}.{why}"


def describe_facts(judged: JudgedVersion) -> dict[str, str]:
    """What the version is, what was judged, and what its caller claims."""
    version, basis = judged.version, judged.basis
    return {
        "model": f"{version.model_type}, trained elsewhere",
        "trained until": _describe_word(basis),
        "judged": basis.text,
        "on record": f"{basis.recorded:,} of the judged forecasts",
        "bars from": basis.origin,
        "digest of the bars": basis.bars_digest,
        "ledger": f"study {basis.place} of the service, {basis.compared} compared on its bars, "
        f"judged at {judged.report.alpha:.3g}",
        "claimed": json.dumps(dict(basis.claims)),
        "bundle digest": version.digest,
        "code": version.code_version,
        "MLflow run": version.run_id,
    }


def draw_pictures(judged: JudgedVersion) -> list[Picture]:
    """Pictures of the judged forecasts, beside those of the service's baseline."""
    rows, fees = judged.rows, judged.evaluation.fee_bps
    unit = UNITS[rows.target]
    equity, naive = (
        net_returns(each.positions(), each.next_return, fee_bps=fees)
        for each in (rows, rows.of_baseline())
    )
    return [
        Picture(
            "Forecast against outcome",
            figures.forecast_against_outcome(
                rows.made_at, rows.y, rows.forecast, rows.baseline, unit=unit
            ),
            "The judged forecasts beside the service's baseline.",
        ),
        Picture(
            "Equity and drawdown after costs",
            figures.equity_and_drawdown(rows.made_at, equity, naive),
            f"Following the forecasts at {fees:g} bps per turnover of the whole position.",
        ),
        Picture(
            "Calibration",
            figures.calibration(rows.y, rows.forecast, unit=unit),
            "Mean outcome in each twelfth of the forecasts.",
        ),
    ]


def _describe_word(basis: JudgementBasis) -> str:
    if basis.trained_until is None:
        return "not known, and nothing rests on it"
    return f"{basis.trained_until:%Y-%m-%d %H:%M} UTC by the caller's word, which nobody checked"
