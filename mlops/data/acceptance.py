"""Whether bars may train a model: what was found of them is logged, and too much refuses them."""

from __future__ import annotations

import logging

from mlops.data.bars import Bars
from mlops.data.finding_texts import describe_doubt, describe_findings, describe_holes
from mlops.data.findings import MAX_DOUBTFUL_SHARE, MIN_COMPLETENESS, Findings
from mlops.errors import BarsError

_log = logging.getLogger(__name__)


def accept_bars(bars: Bars) -> Bars:
    """Bars for a training: what was found of them is logged, and too much refuses them.

    Raises:
        BarsError: when more than `MAX_DOUBTFUL_SHARE` of the rows are doubtful, or fewer than
            `MIN_COMPLETENESS` of the tradable bars are present.
    """
    findings = Findings.of(bars)
    for one in describe_findings(findings):
        level = logging.WARNING if one.is_odd else logging.INFO
        _log.log(level, "%s on %s: %s", bars.symbol, bars.venue, one.text)
    require_sound(findings, f"{bars.timeframe} bars of {bars.provenance.label}")
    return bars


def require_sound(findings: Findings, what: str) -> None:
    """Refuse bars of which too many are doubtful or missing.

    Args:
        what: The bars in words, with which the message begins.

    Raises:
        BarsError: as `accept_bars`.
    """
    told = describe_findings(findings)
    if findings.doubtful_share > MAX_DOUBTFUL_SHARE:
        odd = "; ".join(one.text for one in told if one.is_odd)
        raise BarsError(
            f"{what}: {describe_doubt(findings)}, at most {MAX_DOUBTFUL_SHARE:.0%} are accepted: "
            f"{odd}. Pass start= where the sound bars begin; decimal= or columns= if the numbers "
            "of a file are read wrongly; or bars_file= or venue= to take the bars from elsewhere"
        )
    if findings.completeness < MIN_COMPLETENESS:
        raise BarsError(
            f"{what}: {told[0].text}; {describe_holes(findings)}, at least "
            f"{MIN_COMPLETENESS:.0%} are needed. Pass timeframe= if the bars are longer, calendar= "
            "such as 'XNYS' if the market closes, or start= where the bars are complete"
        )
