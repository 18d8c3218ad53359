"""A section on an A/B test: its verdict as a sentence, the confidence sequence, regimes, gaps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from mlops.ab_testing.decision import EQUIVALENCE_SHARE
from mlops.ab_testing.loss_sequence import count_first_pairs
from mlops.reports import figures
from mlops.reports.page import AbTestSection, Page, Picture, Regime, render
from mlops.service import Service
from mlops.store import Verdict
from mlops.store.ab_tests import AbLook, AbTest

FOLDER = "ab_tests"
"""Where reports lie: under the reports folder, and in the challenger's MLflow run."""

RUNNING = "The test runs, and no outcome is due yet."


def ab_test_section(test: AbTest, looks: Sequence[AbLook]) -> AbTestSection:
    """Make the section of a test from its looks, oldest first."""
    last = looks[-1] if looks else None
    ended = "running" if test.verdict is None else str(test.verdict)
    known = RUNNING if last is None else str(last.detail.get("text", ""))
    return AbTestSection(
        title=f"{test.name or test.id}: {test.challenger_id} against {test.champion_id}",
        verdict=test.verdict_text or known,
        passed=test.verdict not in (Verdict.WORSE, Verdict.INVALID),
        facts=_list_facts(test, last, ended),
        regimes=_list_regimes(last),
        gaps=_list_gaps(last),
        pictures=_draw_pictures(test, looks, ended),
    )


def is_drawn(test: AbTest, directory: Path) -> bool:
    """Whether the report of a test has been drawn since the test ended."""
    path = _report_path(test, directory)
    if test.ended_at is None or not path.exists():
        return False
    return datetime.fromtimestamp(path.stat().st_mtime, UTC) >= test.ended_at


def save_report(test: AbTest, looks: Sequence[AbLook], directory: Path) -> Path:
    """Write the section as an HTML page of its own under ``directory``; returns its path."""
    section = ab_test_section(test, looks)
    path = _report_path(test, directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    page = Page(title=f"A/B test {test.id}", subtitle=test.service, sections=(), tests=(section,))
    path.write_text(render(page), encoding="utf-8")
    return path


def _report_path(test: AbTest, directory: Path) -> Path:
    return directory / FOLDER / f"{test.id}.html"


def _list_facts(test: AbTest, last: AbLook | None, ended: str) -> dict[str, str]:
    facts = {
        "test": test.id,
        "state": ended,
        "champion": test.champion_id,
        "challenger": test.challenger_id,
        "bars": f"{test.since_bar:%Y-%m-%d %H:%M} to {test.until_bar:%Y-%m-%d %H:%M} UTC",
        "asked for by": f"{test.requested_by}: {test.requested_why}",
        "may err": f"{test.alpha:.1%}, however often it is looked at",
    }
    if last is None:
        return facts
    return facts | {
        "pairs": f"{last.pairs:,}",
        "evidence": f"p = {last.p:.3g}",
        "gain of the challenger": _describe_bounds(last),
        "bars without any forecast": f"{last.holes:,}",
        "requests": _describe_split(last),
    }


def _describe_bounds(last: AbLook) -> str:
    if last.relative_low is None or last.relative_high is None:
        return "not known yet"
    return f"{last.relative_low:+.1%} to {last.relative_high:+.1%} of the champion's loss"


def _describe_split(last: AbLook) -> str:
    split = last.detail.get("split", {})
    dealt = sum(last.dealt.values())
    if not dealt:
        return "none were dealt; the verdict does not need any"
    got, planned = last.dealt["challenger"] / dealt, split.get("planned", 0.0)
    odd = "" if split.get("as_planned", True) else "; split not as planned"
    return f"{dealt:,} keys, {got:.0%} of them to the challenger ({planned:.0%} planned){odd}"


def _list_regimes(last: AbLook | None) -> list[Regime]:
    rows = [] if last is None else last.detail.get("regimes", [])
    return [
        Regime(
            name=row["regime"],
            pairs=row["pairs"],
            champion_loss=row["champion_loss"],
            challenger_loss=row["challenger_loss"],
            gain=row["gain"],
        )
        for row in rows
    ]


def _list_gaps(last: AbLook | None) -> list[tuple[str, str, int]]:
    if last is None:
        return []
    return [
        (arm, reason.replace("_", " "), bars)
        for arm, reasons in last.missing.items()
        for reason, bars in sorted(reasons.items())
    ]


def _draw_pictures(test: AbTest, looks: Sequence[AbLook], ended: str) -> list[Picture]:
    drawn = [look for look in looks if look.mean is not None and look.detail.get("champion_loss")]
    if not drawn:
        return []
    uri = figures.draw_confidence_sequence(
        np.array([look.pairs for look in drawn], dtype=np.float64),
        np.array([_share(look.mean, look) for look in drawn]),
        # Not the bounds of the ratio: while the champion's loss is uncertain there are none.
        np.array([_share(look.low, look) for look in drawn]),
        np.array([_share(look.high, look) for look in drawn]),
        zone=EQUIVALENCE_SHARE,
        first=count_first_pairs(Service.parse(test.service).horizon),
        verdict=ended,
    )
    caption = (
        "Above zero the challenger is better. The band of the mean difference, in units of the "
        "champion's loss so far, holds at every look at once; the dotted line is the first look "
        "that counts, the shaded zone is what counts as equivalent."
    )
    return [Picture("Confidence sequence", uri, caption)]


def _share(difference: float | None, look: AbLook) -> float:
    return math.nan if difference is None else difference / float(look.detail["champion_loss"])
