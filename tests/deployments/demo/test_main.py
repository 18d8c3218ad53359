"""`make demo`: it prints what README and docs show, offline, and leaves nothing running."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
TABLE_PAGE, MOMENTS_PAGE = ROOT / "README.md", ROOT / "docs" / "monitoring.md"
ROLLOUT_PAGES = (ROOT / "docs" / "operations.md", ROOT / "README.md")
"""Where the blocks of the three acts are shown: the rollout that succeeds, then the one undone."""

OFFLINE = """
import socket, sys

def refuse(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple):
        if args[1][0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"the demonstration reached for {args[1]}")

sys.addaudithook(refuse)
"""
PROCESSORS_DIFFER = 0.01
"""Networks are trained in the processor's own arithmetic: figures agree to a hundredth."""


class Row(NamedTuple):
    service: str
    version: str
    r2: float
    direction: float
    change: float
    verdict: str


def rows(text: str) -> dict[str, Row]:
    """The verdict table's rows by version."""
    number = r"([+-]?[\d.]+) (?:% )?\[[^\]]+\]"
    pattern = rf"^ *([a-z]+\.\d+) +(\S+) +{number} +{number} +{number} +(\w+)"
    found = re.findall(pattern, text, flags=re.MULTILINE)
    return {f[1]: Row(f[0], f[1], float(f[2]), float(f[3]), float(f[4]), f[5]) for f in found}


class Live(NamedTuple):
    phase: str
    asked: int
    failed: int


def rollouts(text: str) -> dict[str, Live]:
    """The rollouts by model type."""
    pattern = r"^(\w+?)_BTC\S*: canary, (\w+); clients asked ([\d,]+) times meanwhile, (\d+) failed"
    return {
        kind: Live(phase, int(asked.replace(",", "")), int(failed))
        for kind, phase, asked, failed in re.findall(pattern, text, flags=re.MULTILINE)
    }


class Moment(NamedTuple):
    at: str
    kind: str
    text: str


def moments(text: str) -> list[Moment]:
    """What happened in the third act."""
    pattern = r"^  (\d{4}-\d\d-\d\d \d\d:\d\d)  (\w+) +(.+)$"
    return [Moment(*one) for one in re.findall(pattern, text, flags=re.MULTILINE)]


def processes_naming(text: str) -> list[str]:
    """Command lines of running processes whose environment names ``text``."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            if text in (process / "environ").read_text(errors="replace"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue
    return found


class Demo(NamedTuple):
    quick: bool
    printed: str
    progress: str
    place: Path


@pytest.fixture(scope="module", params=["quick", "whole"])
def demo(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("demo")
    (place / "sitecustomize.py").write_text(OFFLINE)
    quick = ["--quick"] if request.param == "quick" else []
    done = subprocess.run(
        [sys.executable, "-m", "deployments.demo", "--home", str(place / "home"), *quick],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return Demo(bool(quick), done.stdout, done.stderr, place)


def test_the_volatility_models_reach_their_figures(demo):
    table = rows(demo.printed)
    assert (table["lstm_BTC"].r2 >= 0.75, table["lstm_BTC"].verdict) == (True, "challenger")
    if not demo.quick:
        best = table["ensemble_BTC"]
        assert (best.r2 >= 0.76, best.direction >= 0.62, best.change <= -12.0) == (True,) * 3
        assert best.verdict == "challenger"


def test_the_return_model_is_refused_by_the_count_of_its_trials(demo):
    refused = [row.verdict for row in rows(demo.printed).values() if row.service == "return.1"]
    assert refused == ([] if demo.quick else ["refused"])
    assert ("the best of 10 worthless trials" in demo.printed) != demo.quick


def test_the_readme_shows_what_was_printed(demo):
    shown, printed = rows(TABLE_PAGE.read_text()), rows(demo.printed)
    assert printed.keys() == ({"lstm_BTC"} if demo.quick else shown.keys())
    for version, row in printed.items():
        assert row.verdict == shown[version].verdict
        assert row.r2 == pytest.approx(shown[version].r2, abs=PROCESSORS_DIFFER)
        assert row.direction == pytest.approx(shown[version].direction, abs=PROCESSORS_DIFFER)


def test_what_passes_goes_live_and_a_sabotaged_version_is_undone_while_clients_ask(demo):
    live = rollouts(demo.printed)
    shown = rollouts("\n".join(page.read_text() for page in ROLLOUT_PAGES))
    assert [one.phase for one in live.values()] == ["done", "failed"]
    assert [one.phase for one in shown.values()] == ["done", "failed"]
    assert list(live) == (["lstm", "custom"] if demo.quick else list(shown))
    assert all(one.asked > 100 and one.failed == 0 for one in live.values())


def test_the_break_of_november_2018_is_alarmed_within_a_day_retrained_on_and_rolled_out(demo):
    printed, shown = moments(demo.printed), moments(MOMENTS_PAGE.read_text())
    if demo.quick:
        shown = [one for one in shown if one.at < "2018-11-16"]
    assert [one[:2] for one in printed] == [one[:2] for one in shown]
    alarm, answer, live = [one for one in printed if one.at > "2018-11-14 08:00"][:3]
    assert (alarm.kind, answer.kind, live.kind) == ("drift", "retrained", "live")
    assert alarm.at <= "2018-11-15 08:00"
    assert answer.text.endswith("is challenger")
    assert re.search(r"[\d,]+ forecasts met their outcomes: squared error -\d", demo.printed)


def test_an_ab_test_shows_its_plan_and_first_looks_without_a_verdict(demo):
    assert re.search(
        r"^ab-\w+: 2,160 hours bring 2,154 pairs; a verdict needs 120\.", demo.printed, re.M
    )
    looks = re.findall(r"^  (2019-\d\d-\d\d), (\w+): .* over ([\d,]+) pairs", demo.printed, re.M)
    assert looks == [("2019-03-02", "open", "162")]


def test_the_report_it_names_draws_the_models_who_answered_and_the_past(demo):
    named = re.search(r"^report +(\S+)$", demo.printed, flags=re.MULTILINE)
    report = (ROOT / named[1]).read_text()
    assert "lstm_BTC" in report
    assert report.count('alt="Who answered"') == 2
    assert report.count('alt="Price, forecasts and outcomes, alarms, who was live"') == 1
    assert report.count('alt="Confidence sequence"') == 1


def test_progress_is_shown(demo):
    assert "lstm on the holdout" in demo.progress


def test_nothing_is_left_running(demo):
    assert processes_naming(str(demo.place)) == []
