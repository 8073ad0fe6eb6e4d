"""A client that is cut off again and again while the answer is being written ends with the text of the provider."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
import pytest_asyncio

from shared import keys
from shared.events import DELTAS, Event
from tests.conformance.scene import Scene
from tests.conformance.transports import FINAL, TRANSPORTS, Got, Reader, Transport
from tests.support.generations import piped
from tests.support.inprocess import LiveNode, live_worker
from tests.support.system import create
from worker.pipelines import Run
from worker.providers.base import Text
from worker.providers.demo import lorem

CUTS = 20
WORDS = 1000
AWAY = 20
"""Most words that are said before the client is back."""
SEED = 11
WITHIN_S = 60


class Mouth:
    """What a model may say so far."""

    def __init__(self) -> None:
        self.allowed = 0
        """Words."""
        self._left = asyncio.Semaphore(0)

    def allow(self, words: int) -> None:
        self.allowed += words
        for _ in range(words):
            self._left.release()

    async def open(self) -> None:
        await self._left.acquire()


_mouths: defaultdict[str, Mouth] = defaultdict(Mouth)
"""By session."""


async def _measured(run: Run) -> None:
    async for part in run.model(run.messages):
        if isinstance(part, Text):
            await _mouths[run.session_id].open()
        await run.emit(part)


MEASURED = piped(_measured)


@pytest_asyncio.fixture(loop_scope="module")
async def worker(scene: Scene, nodes: list[LiveNode]) -> AsyncIterator[None]:
    """Each word is an event of its own, as far as possible."""
    async with live_worker(nodes[0].node.settings.redis_url, flush_ms=0):
        yield


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("transport", TRANSPORTS.values(), ids=TRANSPORTS)
async def test_twenty_cuts_on_alternating_nodes_lose_and_repeat_nothing(
    transport: Transport, nodes: list[LiveNode], scene: Scene
) -> None:
    """Byte for byte the provider's text; each id once, in the log's order; and everything that is no delta, once."""
    chance = random.Random(SEED)
    sid = await create(nodes[0].url, pipeline=MEASURED, options={"tokens": WORDS, "seed": SEED})
    mouth = _mouths[sid]
    got: list[Got] = []
    async with asyncio.timeout(WITHIN_S):
        for cut in range(CUTS):
            async with transport.reader(nodes[cut % 2].url, sid, _cursor(got)) as reader:
                for _ in range(chance.randint(0, 6)):
                    mouth.allow(chance.randint(1, 5))
                    got.append(await _next_event(reader))
                reader.kill()
            mouth.allow(chance.randint(0, AWAY))
            await _until_said(scene, sid, mouth.allowed)
        assert _text(got) != "".join(lorem(WORDS, SEED)), "all cuts were made before the end"
        mouth.allow(WORDS)
        async with transport.reader(nodes[0].url, sid, _cursor(got)) as reader:
            while got[-1].type != "generation.completed":
                got.append(await _next_event(reader))
    _assert_exact(got, await scene.log.events(sid))


def _cursor(got: list[Got]) -> str:
    return got[-1].id if got else "0-0"


async def _until_said(scene: Scene, sid: str, words: int) -> None:
    """Wait until so many are in the log; woken by each append."""
    said = "".join(lorem(WORDS, SEED)[:words])
    while _logged_text(events := await scene.log.events(sid)) != said:
        await scene.redis.xread({keys.events(sid): str(events[-1].id)}, block=1000)


def _logged_text(events: list[Event]) -> str:
    return "".join(event.value["text"] for event in events if event.type == "text.delta")


async def _next_event(reader: Reader) -> Got:
    while not isinstance(seen := await reader.get(), Got):
        assert not isinstance(seen, FINAL), seen
    assert seen.type != "gap"
    return seen


def _text(got: list[Got]) -> str:
    return "".join(item.data["text"] for item in got if item.type == "text.delta")


def _assert_exact(got: list[Got], log: list[Event]) -> None:
    assert log[0].id.seq == 1
    assert all(after.follows(before.id) for before, after in pairwise(log)), "the log chains"
    places = {str(event.id): n for n, event in enumerate(log)}
    order = [places[item.id] for item in got]
    assert order == sorted(set(order)), "in the log's order, none twice"
    assert order[-1] == len(log) - 1
    plain = [(item.id, item.type) for item in got if item.type not in DELTAS]
    assert plain == [(str(event.id), event.type) for event in log if event.type not in DELTAS]
    assert _text(got) == "".join(lorem(WORDS, SEED))
