"""How the cost of an event grows: with the sessions, with the readers, and with the length of the log."""

import statistics
from collections.abc import Sequence
from contextlib import AsyncExitStack

from shared import keys
from tests.bench.crowd import open_files
from tests.bench.delivery import Run, Shape, Stage
from tests.bench.report import Section
from tests.bench.scale import Scale
from tests.bench.targets import Holdfast
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
    shapes = {
        "sessions, one reader each": [Shape(count * times, 1, RATE / times) for times in TIMES],
        "readers of one session": [Shape(1, count * times, RATE / times) for times in TIMES],
    }
    sections = [
        await _grow(f"Growth: {name}", [(str(shape), Holdfast, shape) for shape in grown], scale)
        for name, grown in shapes.items()
    ]
    shape = Shape(1, scale.of(LENGTH_READERS), RATE)
    logs = [
        (f"{scale.of(LENGTH) * times:,} events in the log", _long(scale.of(LENGTH) * times), shape) for times in TIMES
    ]
    return [*sections, await _grow(f"Growth: length of the log, {shape}", logs, scale)]


def _long(events: int) -> type[Long]:
    return type("Long", (Long,), {"length": events})


async def _grow(title: str, steps: Sequence[tuple[str, type[Holdfast], Shape]], scale: Scale) -> Section:
    """All steps are there at the same time, each with a node of its own, and take turns."""
    async with AsyncExitStack() as stack:
        stack.enter_context(open_files())
        stages = [await Stage.open(stack, kind, shape) for _, kind, shape in steps]
        for _ in range(scale.rounds):
            for stage in stages:
                await stage.window(scale.seconds)
    return _section(title, [name for name, _, _ in steps], [stage.run for stage in stages])


def _section(title: str, names: Sequence[str], runs: Sequence[Run]) -> Section:
    section = Section(
        title,
        ["what", "node µs/event", "of 1×", "events/s", "Redis µs/event", "p50 ms", "p99 ms", "missing", "doubled"],
    )
    grown = 0.0
    for name, run in zip(names, runs, strict=True):
        pairs = zip(run.windows, runs[0].windows, strict=True)
        grown = statistics.median(own.node_us / first.node_us for own, first in pairs)
        section.rows.append(
            [
                name, f"{run.median('node_us'):.1f}", f"{grown:.2f}", f"{run.median('per_s'):,.0f}",
                f"{run.median('redis_us'):.1f}", f"{run.p50_ms:.1f}", f"{run.p99_ms:.1f}", f"{run.missing}",
                f"{run.extra}",
            ]
        )  # fmt: skip
    verdict = "PASS" if grown <= 1 + GOAL else "MISS"
    section.remarks.append(f"{verdict}: at {TIMES[-1]}× an event costs {grown:.2f} × as much, goal ≤ {1 + GOAL:g}")
    return section
