"""What the rules of a rollout read: one rollout with its route, replicas, evidence and test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlops.rollout.analysis import Evidence, ShortRequests, Verdict, judge_challenger
from mlops.rollout.plan import RolloutPlan
from mlops.store import Replica, Rollout, Route, Status
from mlops.store import Verdict as TestVerdict
from mlops.store.replicas import ReplicaState


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that `decide` reads of one rollout at one moment.

    ``statuses`` are those of the versions involved, ``replicas`` the live processes,
    ``champion_failing`` is why the champion is no longer fit to serve, or None;
    ``short_requests`` are those of late with too few bars for the challenger. Of the A/B test
    that the rollout carries, ``verdict_of_test`` is the stored verdict, ``verdict_text`` the
    verdict as a sentence, and ``promotes_winner`` whether a better challenger is promoted.
    ``asked_by`` is a rollout that waits for this one to make room.
    """

    rollout: Rollout
    plan: RolloutPlan
    route: Route
    replicas: tuple[Replica, ...]
    evidence: Evidence
    statuses: Mapping[str, Status]
    champion_failing: str | None = None
    short_requests: ShortRequests = field(default_factory=ShortRequests)
    verdict_of_test: TestVerdict | None = None
    verdict_text: str = ""
    promotes_winner: bool = True
    asked_by: Rollout | None = None

    @property
    def waited_for(self) -> tuple[Replica, ...]:
        """The replicas that a rollout waits for: all but those that are draining."""
        return tuple(
            replica for replica in self.replicas if replica.state is not ReplicaState.DRAINING
        )

    @property
    def able(self) -> tuple[Replica, ...]:
        """The replicas that a rollout waits for and that have not failed to load its version."""
        version = self.rollout.to_version
        return tuple(one for one in self.waited_for if not one.failed_to_load(version))

    @property
    def verdict(self) -> Verdict:
        return judge_challenger(self.evidence, max_fault_rate=self.plan.max_fault_rate)
