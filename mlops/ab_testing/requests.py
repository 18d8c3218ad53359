"""The request for an A/B test, and which of its two models is the champion.

A caller speaks of model A and model B, in any order. Everything behind this module speaks of
champion and challenger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from mlops.errors import AbTestMalformed, AbTestRefused
from mlops.rollout.plan import EVERYTHING_BP
from mlops.store import ModelVersion, Route

MOST_SPLIT_BP = 9_500
"""The largest share of a challenger: the champion answers some requests to be compared with."""

MOST_NAME, MOST_KEY = 200, 200
LONGEST_HOURS = 5 * 365 * 24.0


class OnShortPlan(StrEnum):
    """What becomes of a test whose duration brings too few pairs for a verdict.

    ``accept``: it begins, and says so. ``refuse``: it does not begin. ``extend``: it begins and
    lasts as long as a verdict needs.
    """

    ACCEPT = "accept"
    REFUSE = "refuse"
    EXTEND = "extend"


@dataclass(frozen=True, slots=True, kw_only=True)
class AbTestRequest:
    """What a caller asks for.

    Attributes:
        traffic_split: The share of the requests that model B answers.
        duration_hours: In market time.
        promote: Whether a challenger that is better goes live.
        end_test: Whether a running test of the service is ended for this one.
        request_key: Names the request: a repeated one returns the test of the first.
        request_digest: SHA-256 of what was asked for, in hex; a repeat has the same.
    """

    model_a_id: str
    model_b_id: str
    name: str = ""
    traffic_split: float = 0.5
    duration_hours: float = 48.0
    promote: bool = True
    on_short_plan: OnShortPlan = OnShortPlan.ACCEPT
    end_test: bool = False
    request_key: str | None = None
    request_digest: str | None = None

    def check(self) -> None:
        """Refuse what no state of the service would allow.

        Raises:
            AbTestMalformed: naming the value, and what is allowed.
        """
        if self.model_a_id == self.model_b_id:
            raise AbTestMalformed(
                f"model A and model B are both {self.model_a_id}; name two versions of a service"
            )
        if not (_is_number(self.traffic_split) and 0.0 <= self.traffic_split <= 1.0):
            raise AbTestMalformed(
                f"traffic_split={self.traffic_split!r} is not the share of model B, 0 to 1"
            )
        hours = self.duration_hours
        if not (_is_number(hours) and 0.0 < hours <= LONGEST_HOURS):
            raise AbTestMalformed(
                f"duration_hours={hours!r} is not a number of hours above 0 and up to "
                f"{LONGEST_HOURS:,.0f}, five years"
            )
        for field, text, most in (
            ("test_name", self.name, MOST_NAME),
            ("request_key", self.request_key or "", MOST_KEY),
        ):
            if len(text) > most:
                raise AbTestMalformed(f"{field} has {len(text)} characters; give it at most {most}")


def parse_short_plan(text: str) -> OnShortPlan:
    """What becomes of a plan that cannot decide, from its name.

    Raises:
        AbTestMalformed: for another name.
    """
    try:
        return OnShortPlan(text)
    except ValueError as error:
        raise AbTestMalformed(
            f"on_short_plan={text!r} is not one of {', '.join(OnShortPlan)}"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Who is who in a test.

    Attributes:
        champion_is: The caller's name for the champion, ``a`` or ``b``.
        split_bp: The challenger's share of the requests in basis points.
    """

    champion: ModelVersion
    challenger: ModelVersion
    champion_is: str
    split_bp: int


def assign_sides(
    request: AbTestRequest, model_a: ModelVersion, model_b: ModelVersion, route: Route | None
) -> Sides:
    """Find out which model is the champion, and translate the split into the challenger's share.

    Raises:
        AbTestMalformed: when the versions are of two services, or the challenger's share is not
            0 to 0.95.
        AbTestRefused: when neither is live.
    """
    if model_a.service != model_b.service:
        raise AbTestMalformed(
            f"{model_a.model_id} forecasts {model_a.service} and {model_b.model_id} forecasts "
            f"{model_b.service}; test two versions of one service"
        )
    champion = None if route is None else route.champion
    if champion not in (model_a.model_id, model_b.model_id):
        raise AbTestRefused(
            f"neither {model_a.model_id} nor {model_b.model_id} is live on {model_a.service} "
            f"({champion or 'nothing'} is); deploy one first, or compare them on past bars with "
            "manager.compare"
        )
    a_is_champion = champion == model_a.model_id
    share = request.traffic_split if a_is_champion else 1.0 - request.traffic_split
    split_bp = round(share * EVERYTHING_BP)
    if not 0 <= split_bp <= MOST_SPLIT_BP:
        challenger = model_b if a_is_champion else model_a
        raise AbTestMalformed(
            f"traffic_split={request.traffic_split:g} gives the challenger {challenger.model_id} "
            f"{share:.0%} of the requests; 0 to {MOST_SPLIT_BP / EVERYTHING_BP:.0%} is allowed. "
            "traffic_split is the share of model B"
        )
    return Sides(
        champion=model_a if a_is_champion else model_b,
        challenger=model_b if a_is_champion else model_a,
        champion_is="a" if a_is_champion else "b",
        split_bp=split_bp,
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
