"""The main promise, over real processes and sockets: a reader that is cut off again and again misses nothing, and gets
nothing twice."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from itertools import cycle

import pytest

from shared.events import DELTAS, Event
from shared.log import Log
from tests.support.redis_server import redis_server
from tests.support.sse import SSE, Frame, Severed, events_path, parse, read_all, text_of
from tests.support.system import System, create, system

READERS = 20
CUTS = 50
TOKENS, RATE = 3000, 300


@pytest.fixture
async def two_nodes(redis_url: str) -> AsyncIterator[System]:
    async with system(redis_url, nodes=2, workers=1) as running:
        yield running


async def _until_cut(base: str, sid: str, got: list[Frame], at_bytes: int) -> bool:
    """Read on from what was got, and reset the connection at that byte; True if the stream ended before."""
    headers = {"Last-Event-ID": got[-1].id} if got else {}
    async with SSE(base, events_path(sid), headers) as stream:
        if stream.status == 204:
            return True
        assert stream.status == 200, stream.body
        buffer, seen = b"", 0
        async for chunk in stream.chunks():
            allowed = chunk[: at_bytes - seen]
            seen += len(chunk)
            *blocks, buffer = (buffer + allowed).split(b"\n\n")
            got += [frame for frame in map(parse, blocks) if frame.id]
            if seen >= at_bytes:
                return False
        return True


async def _restless(nodes: Iterator[str], sid: str, seed: int) -> tuple[list[Frame], int]:
    """Read to the end over connections that are cut at random bytes; gives the frames and the number of cuts."""
    chance = random.Random(seed)
    got: list[Frame] = []
    cuts = 0
    while True:
        at_bytes = chance.randint(1, 700) if cuts < CUTS else 1 << 40
        if await _until_cut(next(nodes), sid, got, at_bytes):
            return got, cuts
        cuts += 1


def _assert_exact(got: list[Frame], log: list[Event]) -> None:
    ids = [frame.event_id for frame in got]
    assert ids == sorted(set(ids)), "ids strictly increase"
    known = {event.id: event for event in log}
    assert set(ids) <= set(known), "each id is in the log"
    plain = [(frame.event_id, frame.type, frame.data) for frame in got if frame.type not in DELTAS]
    assert plain == [(e.id, e.type, e.value) for e in log if e.type not in DELTAS], "all else is there once"


async def test_cut_off_readers_end_with_the_text_of_one_that_never_left(two_nodes: System, log: Log) -> None:
    """20 readers, each cut 50 times at random bytes on alternating nodes, at 300 tokens/s: byte for byte the same."""
    sid = await create(two_nodes.url, options={"tokens": TOKENS, "rate": RATE, "seed": 7})
    urls = [node.url for node in two_nodes.nodes]
    steady = asyncio.create_task(read_all(urls[0], sid))
    restless = [_restless(cycle(urls[n % 2 :] + urls[: n % 2]), sid, seed=n) for n in range(READERS)]
    results = await asyncio.gather(*restless)
    whole = text_of(await steady)
    events = await log.events(sid)
    assert len(whole.split()) == TOKENS
    for got, cuts in results:
        assert cuts == CUTS
        assert text_of(got) == whole
        _assert_exact(got, events)


async def test_resuming_at_every_id_of_a_finished_session_gives_exactly_the_rest(two_nodes: System, log: Log) -> None:
    """At each event id, on either node: the rest of the text; unmerged, the very list of events; at the end, 204."""
    sid = await create(two_nodes.url, options={"tokens": 400, "rate": 1000, "seed": 3})
    await read_all(two_nodes.url, sid)
    events = await log.events(sid)
    nodes = cycle(node.url for node in two_nodes.nodes)
    for n, event in enumerate(events):
        rest = events[n + 1 :]
        unmerged = await read_all(next(nodes), sid, str(event.id), merge=0)
        assert [(f.event_id, f.type, f.data) for f in unmerged] == [(e.id, e.type, e.value) for e in rest]
        merged = await read_all(next(nodes), sid, str(event.id))
        assert text_of(merged) == "".join(e.value["text"] for e in rest if e.type == "text.delta")
        if rest:
            assert merged[-1].event_id == events[-1].id


async def test_a_severed_stream_is_seen_as_severed(redis_url: str) -> None:
    """A node that dies mid-answer leaves its clients with a broken response, never with a clean end."""
    async with system(redis_url, nodes=1, workers=1) as running:
        sid = await create(running.url, options={"tokens": 1000, "rate": 50})
        async with SSE(running.url, events_path(sid)) as stream:
            frames = stream.frames()
            await anext(frames)
            await running.nodes[0].kill()
            with pytest.raises(Severed):
                async for _ in frames:
                    pass


def test_the_embedded_redis_is_a_real_one() -> None:
    """What the other tests stand on."""
    with redis_server() as server, server.client() as client:
        assert client.info("server")["redis_version"] >= "6.2"
