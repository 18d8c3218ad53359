"""Report pages: everything that was measured is on them, and nothing can break out of a cell."""

import pytest

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
    assert Section.from_json(SECTION.to_json()) == SECTION
