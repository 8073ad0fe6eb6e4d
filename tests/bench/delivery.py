"""What a delivered event costs: readers that are live while deltas are said at a rate, server by server."""

import asyncio
import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import psutil

from tests.bench.child import Child, cpu_seconds, sids_of
from tests.bench.crowd import open_files
from tests.bench.report import percentile
from tests.bench.scale import Scale
from tests.bench.targets import Target, Unavailable

WARM_UP_S = 0.5
SAMPLES = 10
DRAIN_S = 30.0
"""How long a server that was overrun may take until everything is there."""


class Fallen(Exception):
    """A server, or its producer, ended under what was asked of it."""


@dataclass(frozen=True)
class Shape:
    """`sessions` with `readers` each, in each of which `rate` deltas a second are said."""

    sessions: int
    readers: int
    rate: float

    def scaled(self, scale: Scale) -> "Shape":
        """The larger of the two counts is what the scenario is about."""
        if self.sessions > self.readers:
            return replace(self, sessions=scale.of(self.sessions))
        return replace(self, readers=scale.of(self.readers))

    def __str__(self) -> str:
        return f"{self.sessions:,} session{'s' * (self.sessions > 1)} × {self.readers:,} × {self.rate:g} events/s"


@dataclass(frozen=True)
class Window:
    """One server for some seconds. Costs are CPU µs per delivered event."""

    per_s: float
    node_us: float
    node_share: float
    """Of a core."""
    redis_us: float
    producer_us: float
    load_share: float
    late_ms: float
    """How much the producer was behind its schedule, at worst."""


@dataclass
class Run:
    """Everything that was measured of one server."""

    target: Target
    windows: list[Window] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    said: list[int] = field(default_factory=list)
    """Deltas of each session so far."""
    base: list[int] = field(default_factory=list)
    """Of these, what had been said before the readers came, and they do not get."""
    missing: int = 0
    extra: int = 0
    broken: int = 0

    def median(self, name: str) -> float:
        values: list[float] = [getattr(window, name) for window in self.windows]
        return statistics.median(values)

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.latencies)

    @property
    def p99_ms(self) -> float:
        return percentile(self.latencies, 99)


class Stage:
    """One server with its readers, who are live, and wait."""

    def __init__(self, target: Target, shape: Shape, load: Child) -> None:
        self.run = Run(target)
        self.shape = shape
        self.load = load

    @classmethod
    async def open(cls, stack: AsyncExitStack, kind: type[Target], shape: Shape) -> "Stage":
        """Raises Unavailable."""
        sids = sids_of("bench", shape.sessions)
        target = await stack.enter_async_context(kind().running(sids))
        before = await target.filled(sids)
        load = await Child.start("tests.bench.load")
        stack.push_async_callback(load.stop)
        requests = [target.path(sid) for sid in sids for _ in range(shape.readers)]
        asked = {"address": ["127.0.0.1", target.port], "requests": requests, "until": target.until}
        await load.ask("open", samples=min(SAMPLES, len(requests)), **asked)
        stage = cls(target, shape, load)
        stage.run.base = before
        return stage

    async def window(self, seconds: float) -> None:
        """Measure while deltas are said, then wait until every reader has every one. Raises Fallen."""
        try:
            await self._window(seconds)
        except (EOFError, ProcessLookupError, psutil.NoSuchProcess, ConnectionError) as error:
            raise Fallen(f"fell over at {self.shape.rate:g} events/s for each of its readers") from error

    async def _window(self, seconds: float) -> None:
        saying = asyncio.create_task(
            self.run.target.producer.ask("say", rate=self.shape.rate, seconds=seconds + WARM_UP_S * 1.5)
        )
        try:
            await asyncio.sleep(WARM_UP_S)
            before = await self._mark()
            await asyncio.sleep(seconds)
            after = await self._mark()
            said = await saying
        finally:
            saying.cancel()
            await asyncio.wait([saying])
        taken = [b - a for a, b in zip(before, after, strict=True)]
        elapsed, total, node, redis, producer, load = taken
        micro = 1e6 / max(1.0, total)
        self.run.said = said["said"]
        self.run.windows.append(
            Window(
                per_s=total / elapsed, node_us=node * micro, node_share=node / elapsed, redis_us=redis * micro,
                producer_us=producer * micro, load_share=load / elapsed, late_ms=said["late_ms"],
            )
        )  # fmt: skip
        await self._settle()

    async def _mark(self) -> list[float]:
        """Time, delivered, then CPU seconds: of the node, Redis, the producer, and the load generator."""
        target, delivered = self.run.target, await self.load.ask("mark")
        return [
            time.monotonic(), delivered["total"], target.cpu(), cpu_seconds([target.redis.pid]),
            cpu_seconds([target.producer.pid]), delivered["cpu"],
        ]  # fmt: skip

    async def _settle(self) -> None:
        run = self.run
        counts = [n - before for n, before in zip(run.said, run.base, strict=True) for _ in range(self.shape.readers)]
        ended = await self.load.ask("reach", counts=counts, timeout=DRAIN_S)
        run.missing, run.extra = ended["missing"], ended["extra"]
        samples = await self.load.ask("samples")
        run.latencies += samples["ms"]
        run.broken = samples["broken"]


async def measure(
    kinds: Sequence[type[Target]], shape: Shape, scale: Scale
) -> tuple[dict[type[Target], Run], Mapping[str, str]]:
    """All of them are up at the same time, and take turns; gives what was measured, and who has no figures, and why."""
    absent: dict[str, str] = {}
    stages: dict[type[Target], Stage] = {}
    async with AsyncExitStack() as stack:
        stack.enter_context(open_files())
        for kind in kinds:
            with _unavailable(kind, absent):
                stages[kind] = await Stage.open(stack, kind, shape)
        for _ in range(scale.rounds):
            for kind, stage in list(stages.items()):
                try:
                    await stage.window(scale.seconds)
                except Fallen as how:
                    absent[kind.name] = str(how)
                    del stages[kind]
        return {kind: stage.run for kind, stage in stages.items()}, absent


@contextlib.contextmanager
def _unavailable(kind: type[Target], absent: dict[str, str]) -> Iterator[None]:
    try:
        yield
    except Unavailable as why:
        absent[kind.name] = f"not available here: {why}"
