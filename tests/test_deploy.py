"""A deploy: everything is replaced, one process after the other, under readers who must not notice."""

import asyncio
import random
import re
import signal
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.audit import Turn
from tests.chaos.readers import Way
from tests.chaos.talks import COMPLETED, Result, Talk, expect, said_all
from tests.chaos.world import World, world
from tests.support.system import Node, Process

SESSIONS, READERS = 40, 5
DRAIN_S, GRACE_S = 1.0, 0.5
SETTINGS = {"HOLDFAST_DRAIN_S": str(DRAIN_S), "HOLDFAST_WORKER_GRACE_S": str(GRACE_S)}
"""The lease is as it is by default: a worker that hands over is not waited for."""
LEAVES_S = 10.0
"""On top of what it was told: a busy machine."""


class Crowded(Talk):
    """An answer of some seconds that several people read, each in another way."""

    async def converse(self) -> None:
        options, self.text = self.speech()
        answer = await self.world.post("/v1/sessions", {"input": "hello", "options": options})
        self.course.sid, self.course.last = expect(answer, 201)["id"], "g1"
        for way in random.Random(self.rng.random()).sample(list(Way), READERS):
            self.read(way)

    def check(self, turns: Sequence[Turn]) -> list[str]:
        return said_all(turns[0], self.text)


async def test_a_deploy_under_readers(tmp_path: Path) -> None:
    """Both nodes and both workers are told to go and started again, one after the other, under 200 readers: nothing is
    lost, nothing comes twice, no generation fails, no request has to be repeated, and each process leaves in time."""
    deployed = asyncio.Event()
    async with world(tmp_path, SETTINGS) as running:
        async with asyncio.TaskGroup() as everything:
            slots = [everything.create_task(_keep_talking(running, n, deployed)) for n in range(SESSIONS)]
            await _readers(running, SESSIONS * READERS)
            for node in running.nodes:
                await _replaced(node, DRAIN_S)
                await node.ready()
                await _asked_again(running, node)
            for worker in running.workers:
                await _replaced(worker, GRACE_S)
                await _readers(running, SESSIONS * READERS)
            deployed.set()
        results = [result for slot in slots for result in slot.result()]
        retries = running.retries
    assert [result for result in results if not result.clean] == []
    assert {end for result in results for end in result.ends} == {COMPLETED}
    assert retries == []
    assert sum(result.readers for result in results) >= SESSIONS * READERS
    assert sum(result.attempts for result in results) > len(results), "nothing was handed over"
    assert sum(result.connections for result in results) > sum(result.readers for result in results)


async def _keep_talking(running: World, number: int, deployed: asyncio.Event) -> list[Result]:
    """One session after the other, the last of them begun before the deploy was over."""
    rng = random.Random(number)
    results = []
    while not deployed.is_set():
        results.append(await Crowded(running, random.Random(rng.random())).run())
    return results


async def _readers(running: World, count: int) -> None:
    """Until so many are connected at once. (Some are between two sessions at any moment.)"""
    async with asyncio.timeout(30):
        while sum(reader.sever is not None for reader in running.readers) < count * 0.9:
            await asyncio.sleep(0.05)


async def _asked_again(running: World, node: Node) -> None:
    """Until nginx has had a whole answer from the node: it was found away, and before that only one request every three
    seconds is given to it."""
    begun = len(running.front.accesses)
    answered = re.compile(rf"127\.0\.0\.1:{node.port} [2-4]\d\d$")
    async with asyncio.timeout(60):
        while not any(answered.search(line) for line in running.front.accesses[begun:]):
            await asyncio.sleep(0.1)


async def _replaced(process: Node | Process, leaves_s: float) -> None:
    process.signal(signal.SIGTERM)
    assert await process.ended(leaves_s + LEAVES_S) == 0
    process.start()
