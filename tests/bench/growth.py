"""How the cost of an event grows: with the sessions, with the readers, and with the length of the log.

Beside the first two stands the floor: what the kernel takes more for more sockets is not the node's.
"""

import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

from shared import keys
from tests.bench.crowd import open_files
from tests.bench.delivery import Run, Shape, Stage
from tests.bench.report import Section
from tests.bench.scale import Scale
from tests.bench.targets import Floor, Holdfast, Target
from tests.support.sse import events_path

TIMES = (1, 2, 4, 8)
COUNT = 500
RATE = 20.0
"""At 1×; at 8× an eighth, so that as many events are delivered in all: what grows is the number alone."""
LENGTH = 10_000
LENGTH_READERS = 100
GOAL = 0.15


class Long(Holdfast):
    """Its sessions have long logs, whose ends are where the readers come in."""

    length = 0

    async def filled(self, sids: Sequence[str]) -> list[int]:
        said: list[int] = (await self.producer.ask("write", count=self.length, batch=500))["said"]
        self._ends = {sid: self.redis.ask("HGET", keys.session(sid), "last").decode() for sid in sids}
        return said

    def path(self, sid: str) -> str:
        return events_path(sid, after=self._ends[sid])


async def run(scale: Scale) -> list[Section]:
    count = scale.of(COUNT)
    sessions = [Shape(count * times, 1, RATE / times) for times in TIMES]
    readers = [Shape(1, count * times, RATE / times) for times in TIMES]
    logs = [_long(scale.of(LENGTH) * times) for times in TIMES]
    shape = Shape(1, scale.of(LENGTH_READERS), RATE)
    return [
        await _grow("sessions, one reader each", _both(sessions), scale, goal=GOAL),
        await _grow("readers of one session", _both(readers), scale),
        await _grow("length of the log", [[(log, shape) for log in logs]], scale, goal=GOAL),
    ]


Step = tuple[type[Target], Shape]


def _both(shapes: Sequence[Shape]) -> list[list[Step]]:
    return [[(kind, shape) for shape in shapes] for kind in (Holdfast, Floor)]


def _long(events: int) -> type[Long]:
    return type("Long", (Long,), {"length": events, "name": f"Holdfast, {events:,} events in the log"})


async def _grow(what: str, lines: Sequence[Sequence[Step]], scale: Scale, goal: float | None = None) -> Section:
    """Holdfast's line is the first. All steps of a line are there at the same time, and take turns."""
    section = Section(
        f"Growth: {what}",
        ["server", "what", "node µs/event", "of 1×", "events/s", "Redis µs/event", "p50 ms", "p99 ms", "missing",
         "doubled"],
    )  # fmt: skip
    grown = [_rows(section, [run async for run in _line(line, scale)]) for line in lines]
    found = f"at {TIMES[-1]}× an event costs {grown[0]:.2f} × as much"
    if goal is not None:
        found = f"{'PASS' if grown[0] <= 1 + goal else 'MISS'}: {found}, goal ≤ {1 + goal:g}"
    section.remarks.append(found)
    section.remarks += [f"The floor's own growth: {each:.2f} ×" for each in grown[1:]]
    return section


async def _line(steps: Sequence[Step], scale: Scale) -> AsyncIterator[tuple[Shape, Run]]:
    async with AsyncExitStack() as stack:
        stack.enter_context(open_files())
        stages = [await Stage.open(stack, kind, shape) for kind, shape in steps]
        for _ in range(scale.rounds):
            for stage in stages:
                await stage.window(scale.seconds)
    for stage in stages:
        yield stage.shape, stage.run


def _rows(section: Section, runs: Sequence[tuple[Shape, Run]]) -> float:
    """Gives the growth from the first to the last."""
    grown = 1.0
    for shape, run in runs:
        pairs = zip(run.windows, runs[0][1].windows, strict=True)
        grown = statistics.median(own.node_us / first.node_us for own, first in pairs)
        section.rows.append(
            [
                run.target.name, str(shape), f"{run.median('node_us'):.1f}", f"{grown:.2f}",
                f"{run.median('per_s'):,.0f}", f"{run.median('redis_us'):.1f}", f"{run.p50_ms:.1f}",
                f"{run.p99_ms:.1f}", f"{run.missing}", f"{run.extra}",
            ]
        )  # fmt: skip
    return grown
