"""Report pages: everything that was measured is on them, and nothing can break out of a cell."""

import json
from dataclasses import replace

import pytest

from mlops.data.finding_texts import Finding
from mlops.reports.page import MetricRow, Page, Picture, Section, readable_number, render

GATE = {
    "title": "G2 skill",
    "severity": "hard",
    "passed": False,
    "value": 0.4312,
    "threshold": 0.05,
    "n": 5200,
    "reason": "the best of 6 trials has p = 0.43",
}
SECTION = Section(
    title="linear_BTC_20241205_120000",
    verdict="refused by G2",
    passed=False,
    facts={"service": "sample.btc-usd.1h.return.1"},
    gates=[GATE],
    metrics=[MetricRow("r2", -0.007, -0.02, 0.004, 0.0), MetricRow("sharpe", None, None, None, 1)],
    pictures=[Picture("Equity", "data:image/png;base64,AAAA", "after costs")],
)


def test_a_page_shows_verdict_gates_metrics_and_pictures():
    html = render(Page("Demo", "two services", [SECTION]))
    for text in ("refused by G2", "p = 0.43", "5,200", "-0.02 to 0.004", "AAAA", "after costs"):
        assert text in html


def test_text_from_outside_is_escaped():
    html = render(Page("<script>alert(1)</script>", "", []))
    assert "<script>alert" not in html


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "—"),
        (float("nan"), "—"),
        (1234567, "1,234,567"),
        (0.76543, "0.7654"),
        (-0.007, "-0.007"),
    ],
)
def test_numbers_are_readable(value, text):
    assert readable_number(value) == text


def test_a_section_is_read_back_equal():
    told = replace(SECTION, bars=[Finding("split", "1 of 9 bars", is_odd=True)])
    for section in (SECTION, told):
        assert Section.from_json(section.to_json()) == section


def test_a_page_shows_what_was_found_of_the_bars():
    found = [Finding("rows", "998 of 1,000 rows are bars"), Finding("split", "1 bar", is_odd=True)]
    html = render(Page("Demo", "", [replace(SECTION, bars=found)]))
    assert "<h3>Bars</h3>" in html
    assert "<th>rows</th><td>998 of 1,000 rows are bars</td>" in html
    assert '<th>split</th><td class="bad">1 bar</td>' in html


def test_a_section_that_was_saved_without_its_bars_has_no_table_of_them():
    saved = json.loads(SECTION.to_json())
    del saved["bars"]
    earlier = Section.from_json(json.dumps(saved))
    assert earlier == SECTION
    assert "<h3>Bars</h3>" not in render(Page("Demo", "", [earlier]))
