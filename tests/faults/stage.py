"""What all scenarios of a session share: the zygote, the template, databases, and the count."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from tests.faults.cast import import_everything
from tests.faults.notes import Note, Visit, visits_of
from tests.faults.scenes import SCENES, begin
from tests.faults.template import Template, make_template
from tests.faults.world import World, open_world
from tests.postgres import Server
from tests.zygote import Zygote

MIGRATED = "migrated"
ROLES = ("controller", "replica", "asker")


class Stage:
    """Thread-safe; scenarios run beside one another."""

    def __init__(self, root: Path, postgres: Server | None) -> None:
        self.root = root
        self.zygote = Zygote(root / "zygote.log", import_everything)
        folder = root / "template"
        folder.mkdir()
        self.template: Template = make_template(folder)
        self._postgres = postgres
        self._lock = threading.Lock()
        self._rehearsed: Future[Mapping[str, Mapping[str, set[Visit]]]] | None = None
        self.outcomes: dict[str, Future[None]] = {}
        self.points: set[str] = set()
        self.struck: set[str] = set()
        self.totals: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def world(self, name: str, database: str = "sqlite") -> Iterator[World]:
        """A scenario of its own; what it counted is added up when it ends."""
        folder = self.root / f"{name}-{database}-{uuid.uuid4().hex[:6]}"
        folder.mkdir()
        began = time.monotonic()
        with (
            self._database(folder, database) as url,
            open_world(self.zygote, self.template, folder, url) as world,
        ):
            yield world
            self.seconds[folder.name] = time.monotonic() - began
            self.count(world)

    def count(self, world: World) -> None:
        """Add what a scenario saw to the session's figures."""
        notes = world.notes()
        with self._lock:
            self.points |= {note.text for note in notes if note.kind == "visit"}
            struck = [note.text for note in notes if note.kind == "struck"]
            self.struck |= set(struck)
            self.totals["faults"] += len(struck) + len(world.killed) + len(world.ended)
            self.totals["sent"] += world.counted.sent
            self.totals["allowed"] += world.counted.allowed
            self.totals["broken"] += len(world.counted.broken)

    def rehearsed(self, scene: str) -> Mapping[str, set[Visit]]:
        """The points that each role comes by in a scene where nothing dies; played once."""
        with self._lock:
            mine = self._rehearsed is None
            future = self._rehearsed = self._rehearsed or Future()
        if mine:
            try:
                future.set_result(self._rehearse())
            except BaseException as error:
                future.set_exception(error)
        return future.result()[scene]

    def visited(self, scene: str) -> set[Visit]:
        """As `rehearsed`, by any role."""
        return set().union(*self.rehearsed(scene).values())

    def _rehearse(self) -> Mapping[str, Mapping[str, set[Visit]]]:
        ends = {}
        with self.world("rehearsal") as world:
            begin(world)
            world.controller()
            for name, play in SCENES.items():
                play(world)
                world.until(world.idle, f"{name} is over")
                ends[name] = time.monotonic()
            count = world.check()
            assert count.allowed == 0, "nobody was killed"
            return dict(zip(ends, _by_scene(world.notes(), list(ends.values())), strict=True))

    @contextmanager
    def _database(self, folder: Path, database: str) -> Iterator[str]:
        if database == "sqlite":
            yield f"sqlite:///{folder / 'store.db'}"
            return
        server = self._postgres
        assert server is not None, "no test of this session names Postgres"
        name = f"faults_{uuid.uuid4().hex}"
        with self._lock:
            server.create(name, template=MIGRATED)
        try:
            yield server.url(name)
        finally:
            server.drop(name)

    def close(self) -> None:
        self.zygote.close()

    def summary(self) -> list[str]:
        """What a session did, in a few lines."""
        return [
            f"points visited: {len({text.partition(' ')[2] for text in self.points})}, "
            f"at {len(self.points)} moments",
            f"different faults injected: {len(self.struck)}, in all {self.totals['faults']}",
            f"requests sent: {self.totals['sent']:,}",
            f"requests that failed once, in a killed process, and were answered by one retry: "
            f"{self.totals['allowed']}",
            f"requests that failed and may not: {self.totals['broken']}",
            f"scenarios: {len(self.seconds)}, of {sum(self.seconds.values()):,.0f} s in all, "
            f"the longest of {max(self.seconds.values(), default=0.0):.0f} s",
        ]


def _by_scene(notes: Sequence[Note], ends: Sequence[float]) -> list[Mapping[str, set[Visit]]]:
    """The visits of each role between one scene's end and the next one's."""
    found = []
    for since, until in pairwise([0.0, *ends]):
        own = [note for note in notes if since < note.at <= until]
        found.append({role: visits_of(own, role) for role in ROLES})
    return found
