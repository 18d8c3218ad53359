"""Which fault strikes where: from the points that a scene comes by, in the order it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tests.faults.armed import AFTER, BEFORE, Fault
from tests.faults.notes import Visit
from tests.faults.scenes import SCENES, STRATEGIES
from tests.faults.stage import Stage

IN_ORDER = (
    "leases.acquire_lease",
    "controller._renew_and_prune",
    "controller._take_arrow[loading]",
    "controller._take_arrow[gate]",
    "controller._take_arrow[step",
    "controller._take_arrow[promoted]",
    "controller._take_arrow[reverted]",
    "controller._take_arrow[rollback]",
    "controller._take_arrow[done]",
    "controller._take_arrow[failed]",
)
"""A rollout comes by its points in this order; what is not named here comes last."""

MID_ROLLOUT = ("leases.acquire_lease", "controller._renew_and_prune")
"""Points of every tick: the fault strikes at the third, when a rollout is under way."""

ENDING = ("replicas.remove_replica", "socket[", "request_counts.write_traffic")
"""Points that a process comes by when it is told to end; traffic is written every 30 s as well."""


GAPS = "ab_tests.record_gaps"
"""A replica comes by it where a version has failed on a bar."""


def controller_faults(stage: Stage, scene: str) -> list[Fault]:
    """Of a strategy all that its controller comes by, of other scenes what no strategy does."""
    points = _points(stage, scene, "controller")
    if scene not in STRATEGIES:
        points -= set().union(*(_points(stage, one, "controller") for one in STRATEGIES))
    return _kills(points)


def asker_faults(stage: Stage) -> list[Fault]:
    """Everything that a process which asks for something commits."""
    return _kills(_everywhere(stage, "asker"))


def load_faults(stage: Stage) -> list[Fault]:
    """Every stage of a load."""
    return _kills(filter(_is_load, _everywhere(stage, "replica")))


def ending_faults(stage: Stage) -> list[Fault]:
    """Every point of a replica that was told to end."""
    return _kills(filter(_is_ending, _everywhere(stage, "replica")))


def gap_faults(stage: Stage) -> list[Fault]:
    """What a replica commits where a version has failed on a bar."""
    return _kills({GAPS} & _everywhere(stage, "replica"))


def serving_faults(stage: Stage) -> list[Fault]:
    """What a replica commits and writes while it serves versions that do not fail."""
    others = (_is_load, _is_ending, _is_carried, GAPS.__eq__)
    points = _everywhere(stage, "replica")
    return _kills(one for one in points if not any(other(one) for other in others))


def carrying_faults(stage: Stage) -> list[Fault]:
    """What a replica commits as controller."""
    return _kills(filter(_is_carried, _everywhere(stage, "replica")))


def every_fault(stage: Stage) -> set[tuple[str, str]]:
    """All of the above, as role and point."""
    of_replicas: tuple[Callable[[Stage], list[Fault]], ...] = (
        load_faults, ending_faults, serving_faults, carrying_faults, gap_faults,
    )  # fmt: skip
    found = {("replica", fault.point) for faults in of_replicas for fault in faults(stage)}
    found |= {("asker", fault.point) for fault in asker_faults(stage)}
    return found | {
        ("controller", fault.point) for scene in SCENES for fault in controller_faults(stage, scene)
    }


def _kills(points: Iterable[str]) -> list[Fault]:
    """Before and after each, in the order of a rollout."""
    return [
        Fault(point, when, nth=3 if point.startswith(MID_ROLLOUT) else 1)
        for point in sorted(points, key=lambda point: (_rank(point), point))
        for when in (BEFORE, AFTER)
    ]


def _rank(point: str) -> int:
    found = (rank for rank, prefix in enumerate(IN_ORDER) if point.startswith(prefix))
    return next(found, len(IN_ORDER))


def _points(stage: Stage, scene: str, role: str) -> set[str]:
    visits: set[Visit] = stage.rehearsed(scene)[role]
    return {visit.point for visit in visits}


def _everywhere(stage: Stage, role: str) -> set[str]:
    return set().union(*(_points(stage, scene, role) for scene in SCENES))


def _is_load(point: str) -> bool:
    return point.startswith("load[")


def _is_ending(point: str) -> bool:
    return point.startswith(ENDING)


def _is_carried(point: str) -> bool:
    return point.startswith(("controller.", "leases."))
