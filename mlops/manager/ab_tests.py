"""A/B tests: champion against challenger on the same coming bars."""

from __future__ import annotations

import asyncio

from mlops.ab_testing import answers
from mlops.ab_testing.answers import AbTestAnswer
from mlops.ab_testing.preflight import Preflight
from mlops.ab_testing.requests import AbTestRequest, OnShortPlan, parse_short_plan
from mlops.manager.opened import Opened, why_of
from mlops.store import AbLook, get_test, list_looks
from mlops.store.pages import Page, Position


class AbTests(Opened):
    """Starts, looks at and ends A/B tests."""

    async def start_ab_test(
        self,
        model_a_id: str,
        model_b_id: str,
        test_name: str = "",
        traffic_split: float = 0.5,
        duration_hours: float = 48.0,
        *,
        promote: bool = True,
        on_short_plan: OnShortPlan | str = OnShortPlan.ACCEPT,
        end_test: bool = False,
        request_key: str | None = None,
        request_digest: str | None = None,
        actor: str = "",
        reason: str = "",
    ) -> AbTestAnswer:
        """Compare the champion with another version on the same coming bars, bar by bar.

        Args:
            traffic_split: The share of the requests that model B answers; it does not enter the
                comparison. The one of the two that is not live gets 0 to 0.95.
            duration_hours: In market time. ``plan`` of the answer says how long a verdict takes.
            promote: Whether a challenger that is better goes live.
            on_short_plan: ``accept``, ``refuse`` or ``extend`` a test that cannot decide.
            end_test: Whether a running test of the service is stopped for this one.
            request_key: A repeated request with the same key returns the first one's test.
            request_digest: SHA-256 of what the request asks for; under one key it is the same.

        Raises:
            RequestKeyReused: when the key is that of a request for something else.
            AbTestRefused, RolloutRefused: when the test may not begin, with what to do.
            VersionNotFound: when there is no such version.
        """
        request = AbTestRequest(
            model_a_id=model_a_id,
            model_b_id=model_b_id,
            name=test_name,
            traffic_split=traffic_split,
            duration_hours=duration_hours,
            promote=promote,
            on_short_plan=parse_short_plan(on_short_plan),
            end_test=end_test,
            request_key=request_key,
            request_digest=request_digest,
        )
        testing, why = self.installation.open_ab_testing(), why_of(actor, reason)
        return await asyncio.to_thread(answers.start_test, testing, request, why)

    def plan_ab_test(
        self,
        model_a_id: str,
        model_b_id: str,
        traffic_split: float = 0.5,
        duration_hours: float = 48.0,
    ) -> Preflight:
        """What an A/B test could see, without beginning it; arguments as in `start_ab_test`.

        Raises:
            AbTestRefused: when such a test may not begin.
            VersionNotFound: when there is no such version.
        """
        request = AbTestRequest(
            model_a_id=model_a_id,
            model_b_id=model_b_id,
            traffic_split=traffic_split,
            duration_hours=duration_hours,
        )
        return self.installation.open_ab_testing().plan(request)

    def get_ab_test(self, test_id: str) -> AbTestAnswer:
        """An A/B test with its newest look.

        Raises:
            AbTestNotFound: when there is no such test.
        """
        return answers.read_answer(self.installation.open_ab_testing(), test_id)

    def ab_test_looks(self, test_id: str) -> tuple[AbLook, ...]:
        """The looks at an A/B test, oldest first, in the words of champion and challenger.

        Raises:
            AbTestNotFound: when there is no such test.
        """
        get_test(self.store, test_id)
        return list_looks(self.store, test_id)

    async def evaluate_ab_test(self, test_id: str) -> AbTestAnswer:
        """Look at an A/B test now; the same bar again gives the same figures.

        Raises:
            AbTestNotFound: when there is no such test.
        """
        testing = self.installation.open_ab_testing()
        return await asyncio.to_thread(answers.evaluate_test, testing, test_id)

    async def stop_ab_test(
        self, test_id: str, *, actor: str = "", reason: str = ""
    ) -> AbTestAnswer:
        """End an A/B test as stopped; the champion stays, and the challenger stays a challenger.

        Raises:
            AbTestNotFound: when there is no such test.
            RolloutError: when it has ended.
        """
        testing, why = self.installation.open_ab_testing(), why_of(actor, reason)
        return await asyncio.to_thread(answers.stop_test, testing, test_id, why)

    async def extend_ab_test(
        self, test_id: str, hours: float, *, actor: str = "", reason: str = ""
    ) -> AbTestAnswer:
        """Let an A/B test last longer by so many hours of trading, which cannot be undone.

        Raises:
            AbTestNotFound: when there is no such test.
            RolloutError: when it has ended, or the hours hold no bar.
        """
        testing, why = self.installation.open_ab_testing(), why_of(actor, reason)
        return await asyncio.to_thread(answers.extend_test, testing, test_id, hours, why)

    def ab_test_page(
        self, service: str | None = None, *, after: Position | None = None, limit: int
    ) -> Page[AbTestAnswer]:
        """A page of the A/B tests of one service or of all, newest first."""
        testing = self.installation.open_ab_testing()
        return answers.list_answer_page(testing, service=service, after=after, limit=limit)

    def ab_tests(self, service: str | None = None) -> tuple[AbTestAnswer, ...]:
        """The A/B tests of one service or of all, newest first, each with its newest look."""
        return answers.list_answers(self.installation.open_ab_testing(), service)
