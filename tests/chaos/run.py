"""One run: sessions that come and go, faults among them, and the account at the end."""

import asyncio
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos import talks
from tests.chaos.faults import Fault, Misbehaved, Target, drawn
from tests.chaos.talks import Canary, Result, Talk
from tests.chaos.world import LEASE_S, World, world

MOVES_ON_S = 60.0
"""After a fault: a system that has not moved on by then hangs."""
LANES = 3
"""Faults that may overlap."""
LOOK_S = 0.1


@dataclass
class Struck:
    """One fault that happened, in seconds."""

    fault: Fault
    lasted_s: float
    """Until what was broken was there again."""
    recovered_s: float
    """From its beginning until every session had moved on and a new one was through."""


@dataclass
class Report:
    seed: int
    sessions: int
    struck: list[Struck] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """What was wrong outside of any session."""
    retries: int = 0
    took_s: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.complaints and all(result.clean for result in self.results)

    def count(self, name: str) -> int:
        """Sessions with something in this list."""
        return sum(bool(getattr(result, name)) for result in self.results)


class Run:
    def __init__(self, running: World, seed: int, sessions: int, *, loud: bool) -> None:
        self._world = running
        self._sessions = sessions
        self._seed = seed
        self._loud = loud
        self._under_way: set[Talk] = set()
        self._enough = False
        self.report = Report(seed, sessions)

    async def run(self, faults: list[Fault]) -> Report:
        started = time.monotonic()
        async with asyncio.TaskGroup() as everything:
            for n in range(self._sessions):
                everything.create_task(self._slot(n))
            left = iter(faults)
            async with asyncio.TaskGroup() as lanes:
                for _ in range(LANES):
                    lanes.create_task(self._lane(left))
            self._enough = True
        self.report.retries = len(self._world.retries)
        self.report.took_s = time.monotonic() - started
        return self.report

    # -- sessions

    async def _slot(self, number: int) -> None:
        """One session after the other."""
        rng = random.Random(f"{self._seed}/slot {number}")
        await asyncio.sleep(rng.uniform(0, 3))  # not all of them in step
        while not self._enough:
            make = rng.choice(talks.KINDS)
            await self._talked(make(self._world, random.Random(rng.random())))

    async def _talked(self, talk: Talk) -> Result:
        self._under_way.add(talk)
        try:
            result = await talk.run()
        finally:
            self._under_way.discard(talk)
        self.report.results.append(result)
        if not result.clean:
            self._say(f"!! {result}")
        return result

    # -- faults

    async def _lane(self, left: Any) -> None:
        for fault in left:
            async with self._world.lock("redis" if fault.target is Target.REDIS else fault.victim):
                began = time.monotonic()
                lasted_s = await self._strike(fault)
                if fault.target is Target.REDIS:
                    # the next one waits until all is well: a worker judges nobody for a lease after its contact with
                    # Redis broke, so that a Redis that breaks all the time would keep lost workers from being found
                    await self._recovered(fault)
            if fault.target is not Target.REDIS:
                await self._recovered(fault)
            self._well_again(Struck(fault, lasted_s, time.monotonic() - began))

    async def _strike(self, fault: Fault) -> float:
        """Gives the seconds it lasted."""
        began = time.monotonic()
        try:
            await fault.happen(self._world)
        except Misbehaved as wrong:
            self._complain(f"{fault}: {wrong}")
        return time.monotonic() - began

    async def _recovered(self, fault: Fault) -> None:
        try:
            async with asyncio.timeout(MOVES_ON_S):
                await self._moved_on()
        except TimeoutError:
            self._complain(f"{fault}: the system had not moved on after {MOVES_ON_S:g} s")

    def _well_again(self, struck: Struck) -> None:
        self.report.struck.append(struck)
        self._say(
            f"{len(self.report.struck):4} {struck.fault.kind:45} {struck.lasted_s:5.1f} s, all well after"
            f" {struck.recovered_s:5.1f} s"
        )

    async def _moved_on(self) -> None:
        """Every session that is there has said more, or is over; and a new one was through."""
        canary = asyncio.create_task(self._talked(Canary(self._world, random.Random(0))))
        sids = [talk.course.sid for talk in self._under_way if talk.course.sid]
        waiting = dict(zip(sids, await self._heads(sids), strict=True))
        while waiting:
            await asyncio.sleep(LOOK_S)
            now = await self._heads(list(waiting))
            heads = zip(waiting.items(), now, strict=True)
            waiting = {sid: then for (sid, then), head in heads if head and head[0] and head == then}
        await canary

    async def _heads(self, sids: list[str]) -> list[Any]:
        return list(await self._world.asked(lambda: self._world.log.heads(sids))) if sids else []

    # -- both

    def _complain(self, words: str) -> None:
        self.report.complaints.append(words)
        self._say(f"!! {words}")

    def _say(self, words: str) -> None:
        if self._loud:
            print(words, file=sys.stderr, flush=True)


async def chaos(place: Path, *, seed: int, faults: int, sessions: int, only: str = "", loud: bool = False) -> Report:
    """A whole run; `place`: where Redis keeps its log, and the processes what they print."""
    async with world(place) as running:
        return await Run(running, seed, sessions, loud=loud).run(drawn(seed, faults, only))


def table(report: Report) -> str:
    lines = [
        f"| fault (leases of {LEASE_S:g} s instead of 6, up to {LANES} faults at a time) "
        "| times | lasted, at most | all well again, at the latest |",
        "|---|---:|---:|---:|",
    ]
    for name in sorted({struck.fault.kind for struck in report.struck}):
        of = [struck for struck in report.struck if struck.fault.kind == name]
        lasted, recovered = max(s.lasted_s for s in of), max(s.recovered_s for s in of)
        lines.append(f"| {name} | {len(of)} | {lasted:.1f} s | {recovered:.1f} s |")
    slowest = max((struck.recovered_s for struck in report.struck), default=0.0)
    lines.append(f"| **all** | **{len(report.struck)}** | | **{slowest:.1f} s** |")
    return "\n".join(lines)


def totals(report: Report) -> str:
    results = report.results
    ends = Counter(end.removeprefix("generation.") for result in results for end in result.ends)
    kinds = Counter(result.kind for result in results)
    generations = sum(len(result.ends) for result in results)
    attempts = sum(result.attempts for result in results)
    lines = [
        f"seed {report.seed}, {report.took_s:.0f} s, {report.sessions} sessions at a time",
        f"sessions: {len(results)} ({', '.join(f'{n} {kind}' for kind, n in kinds.most_common())})",
        f"generations: {generations} ({', '.join(f'{n} {end}' for end, n in ends.most_common())}), {attempts} attempts",
        f"readers: {sum(r.readers for r in results)} on {sum(r.connections for r in results)} connections,"
        f" {sum(r.events for r in results)} events; {sum(r.silences for r in results)} given up for their silence",
        f"requests that had to be repeated: {report.retries}",
        f"lost {report.count('lost')}, doubled {report.count('doubled')}, hung {report.count('hung')},"
        f" otherwise wrong {report.count('wrong') + len(report.complaints)}",
    ]
    lines += [str(result) for result in results if not result.clean] + report.complaints
    return "\n".join([*lines, "PASS" if report.passed else "FAIL"])
