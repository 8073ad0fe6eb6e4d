"""The Python client on bad networks: whatever cuts its connections, each event arrives once."""

import asyncio
import itertools
import random
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest

from shared import keys
from shared.client import (
    AnswerLost,
    AsyncClient,
    CaughtUp,
    Completed,
    Event,
    Gap,
    Gone,
    Overloaded,
    ProtocolError,
    Said,
    Started,
    TextDelta,
    Unreachable,
)
from shared.log import Log
from tests.support import sessions
from tests.support.canned import END, HEAD, SEVERED, answer, block, canned, piece
from tests.support.clients import CLIENTS, Connect, Waits
from tests.support.cutting import cutting
from tests.support.generations import piped
from tests.support.inprocess import LiveNode, live_node, live_worker
from tests.support.proxy import proxy
from tests.support.sessions import SID
from tests.support.system import system
from worker.pipelines import Run
from worker.providers.demo import lorem

WITHIN_S = 40.0
CUTS = 15
WORDS = 300
SEED = 7

STARTED = block("5-1", "generation.started", '{"generation":"g1","attempt":1,"model":"m","prev":"4-1"}')
SAYS_A = block("5-2", "text.delta", '{"text":"a"}')
SAYS_B = block("5-3", "text.delta", '{"text":"b"}')
OVER = block("5-4", "generation.completed", '{"generation":"g1","finish_reason":"stop"}')
QUICKLY = piece(b'retry: 20\nevent: caught_up\ndata: {"last_event_id":"5-1"}\n\n')


@pytest.fixture(params=CLIENTS)
def connect(request: pytest.FixtureRequest) -> Connect:
    return CLIENTS[request.param]


@pytest.fixture
async def nodes(redis_url: str) -> AsyncIterator[list[LiveNode]]:
    """Two, whose clients are to come back soon; and a worker that shares no event among deltas, as far as possible."""
    brisk: dict[str, Any] = {"retry_ms": 1, "keepalive_s": 0.2}
    async with (
        live_node(redis_url, **brisk) as one,
        live_node(redis_url, **brisk) as other,
        live_worker(redis_url, flush_ms=0, compact=False),
        asyncio.timeout(WITHIN_S),
    ):
        yield [one, other]


async def _speaks(run: Run) -> None:
    """Slowly enough to be cut off."""
    for word in lorem(WORDS, SEED):
        await run.text(word)
        await asyncio.sleep(0.002)


async def _waits(run: Run) -> None:
    await run.ask("Well?")


SPEAKS, WAITS = piped(_speaks), piped(_waits)


def _port(node: LiveNode) -> int:
    return int(node.url.rpartition(":")[2])


def _text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def _assert_exact(events: list[Event], log: Log, sid: str) -> None:
    """The log, event for event."""
    logged = [(str(event.id), event.type) for event in await log.events(sid)]
    assert [(event.id, event.type) for event in events if not isinstance(event, CaughtUp)] == logged


# -- cuts


async def test_cuts_at_random_points_on_alternating_nodes(connect: Connect, nodes: list[LiveNode], log: Log) -> None:
    """In the middle of heads, of blocks, of characters: nothing is missing, and nothing comes twice."""
    chance = random.Random(SEED)
    budgets = iter([chance.randint(1, 1500) for _ in range(CUTS)])
    ports = itertools.cycle([_port(node) for node in nodes])
    async with connect(nodes[0].url) as near, cutting(ports, budgets) as bad, connect(bad.url) as client:
        sid = (await near.create(input="hello", pipeline=SPEAKS)).id
        events = [event async for event in client.session(sid).events(merge=False)]
    assert bad.cuts == CUTS
    assert _text(events) == "".join(lorem(WORDS, SEED))
    await _assert_exact(events, log, sid)


async def test_a_node_that_is_killed_is_replaced_by_another(connect: Connect, redis_url: str, log: Log) -> None:
    """Real processes, behind one address: the reader does not notice."""
    environment = {"HOLDFAST_RETRY_MS": "1", "HOLDFAST_COMPACT": "false"}
    waits = Waits()
    async with (
        system(redis_url, nodes=2, environment=environment) as running,
        proxy(running.nodes[0].port) as way,
        connect(way.url, on_wait=waits) as client,
        asyncio.timeout(WITHIN_S),
    ):
        options = {"tokens": 200, "rate": 100, "seed": SEED}
        session = await client.create(model="demo/lorem", input="hello", options=options)
        events: list[Event] = []
        async for event in session.events(merge=False):
            events.append(event)
            if len(events) == 5:
                way.target_port = running.nodes[1].port
                await running.nodes[0].kill()
    assert waits.seconds
    assert _text(events) == "".join(lorem(200, SEED))
    await _assert_exact(events, log, session.id)


async def test_a_connection_on_which_nothing_is_heard_is_replaced(
    connect: Connect, nodes: list[LiveNode], log: Log
) -> None:
    """Half open, as after a sleep: nobody says that it is dead, but keep-alives are overdue."""
    errors: list[Exception] = []
    async with proxy(_port(nodes[0])) as way, connect(nodes[0].url) as near:

        def again(_: float, error: Exception) -> None:
            errors.append(error)
            way.go_on()

        async with connect(way.url, silent_s=1.5, on_wait=again) as client:
            session = await near.create(input="hello", pipeline=SPEAKS)
            events: list[Event] = []
            async for event in client.session(session.id).events(merge=False):
                events.append(event)
                if isinstance(event, TextDelta) and not errors:
                    way.pause()
    assert any("ReadTimeout" in str(error) for error in errors)
    await _assert_exact(events, log, session.id)


async def test_keep_alives_keep_a_quiet_connection(connect: Connect, nodes: list[LiveNode]) -> None:
    """A model that thinks for longer than silence may last is no reason to connect again."""
    waits = Waits()
    async with connect(nodes[0].url, silent_s=2.0, on_wait=waits) as client:
        session = await client.create(input="hello", pipeline=WAITS)
        reading = asyncio.create_task(session.result())
        await asyncio.wait({reading}, timeout=3.0)
        assert not reading.done()
        await client.session(session.id).stop()
        with pytest.raises(Exception, match="stopped"):
            await reading
    assert waits.errors == []


async def test_another_process_goes_on_where_the_cursor_was(connect: Connect, nodes: list[LiveNode], log: Log) -> None:
    """With the id and the cursor alone, on another node; at the end there is nothing more to come."""
    first: list[Event] = []
    async with connect(nodes[0].url) as client:
        session = await client.create(input="hello", pipeline=SPEAKS)
        async with aclosing(session.events(merge=False)) as events:
            async for event in events:
                first.append(event)
                if len(first) == 20:
                    break
        stored = session.id, session.cursor
    async with connect(nodes[1].url) as client:
        later = client.session(stored[0], cursor=stored[1])
        rest = [event async for event in later.events(merge=False)]
        assert [event async for event in client.session(stored[0], cursor=later.cursor).events()] == []
    await _assert_exact([*first, *rest], log, stored[0])


async def test_streams_of_one_client_do_not_wait_for_each_other(nodes: list[LiveNode]) -> None:
    """More of them than httpx has connections by default; and there is one left to end them all."""
    async with AsyncClient(nodes[0].url) as client, AsyncExitStack() as stack:
        session = await client.create(input="hello", pipeline=WAITS)
        for _ in range(110):
            events = await stack.enter_async_context(aclosing(client.session(session.id).events()))
            assert isinstance(await anext(events), Said)
        assert (await session.stop()).state == "cancelled"


# -- ends that are none


@pytest.mark.parametrize("end", [END, SEVERED], ids=["clean", "severed"])
async def test_an_end_before_the_terminal_is_a_cut(connect: Connect, end: bytes) -> None:
    """Clean or not; and a block that was not finished does not count, nor does its id."""
    unfinished = piece(b'id: 5-3\nevent: text.delta\ndata: {"text":"b"}\n')
    async with (
        canned(HEAD + QUICKLY + STARTED + SAYS_A + unfinished + end, HEAD + SAYS_B + OVER + END) as server,
        connect(server.url) as client,
    ):
        session = client.session("s1")
        events = [event async for event in session.events()]
    assert [event.id for event in events] == [None, "5-1", "5-2", "5-3", "5-4"]
    assert server.header("last-event-id") == ["", "5-2"]
    assert session.cursor == "5-4"


async def test_a_cut_right_after_the_terminal_is_asked_about_where_the_turn_is_not_known(connect: Connect) -> None:
    """204 says that there is nothing more."""
    said = HEAD + QUICKLY + STARTED + OVER + SEVERED
    async with canned(said, answer(204)) as server, connect(server.url) as client:
        events = [event async for event in client.session("s1").events()]
    assert isinstance(events[-1], Completed)
    assert server.header("last-event-id") == ["", "5-4"]


async def test_the_end_of_the_turn_that_was_asked_for_is_the_end(connect: Connect) -> None:
    """Whatever the connection does then, and whoever has begun the next one."""
    opened = '{"id":"s1","generation":"g1","state":"queued","last_event_id":"4-1"}'
    more = block("6-1", "message", '{"role":"user","content":"two","generation":"g2","prev":"5-4"}')
    async with (
        canned(answer(201, opened), HEAD + STARTED + SAYS_A + OVER + more + SEVERED) as server,
        connect(server.url) as client,
    ):
        session = await client.create(input="one")
        assert isinstance([event async for event in session.events()][-1], Completed)
    assert session.cursor == "5-4"


async def test_the_end_of_an_older_turn_is_not_the_end(connect: Connect) -> None:
    """A clean end there is a cut: the turn that was asked for is to come."""
    opened = '{"id":"s1","generation":"g2","state":"queued","last_event_id":"6-1"}'
    over = block("7-1", "generation.completed", '{"generation":"g2","finish_reason":"stop","prev":"5-4"}')
    async with (
        canned(answer(201, opened), HEAD + QUICKLY + STARTED + OVER + END, HEAD + over + END) as server,
        connect(server.url) as client,
    ):
        session = client.session("s1")
        await session.message("two")
        assert [event.id async for event in session.events()] == [None, "5-1", "5-4", "7-1"]


@pytest.mark.parametrize(
    ("trouble", "at_least_s"),
    [
        (answer(502, "<html>"), 0.0),
        (answer(500, '{"error":{"code":"internal","message":"the node failed"}}'), 0.0),
        (answer(200, "<html>", "Content-Type: text/html"), 0.0),
        (answer(503, "{}", "Retry-After: 1"), 1.0),
        (answer(429, '{"error":{"code":"too_many_streams","message":"later"}}', "Retry-After: 1"), 1.0),
    ],
    ids=["502", "500", "a page", "503", "429"],
)
async def test_trouble_of_a_server_is_waited_for(connect: Connect, trouble: bytes, at_least_s: float) -> None:
    """As long as it says, if it does, and with the cursor."""
    waits = Waits()
    async with (
        canned(HEAD + QUICKLY + STARTED + SEVERED, trouble, HEAD + SAYS_A + OVER + END) as server,
        connect(server.url, on_wait=waits) as client,
    ):
        events = [event async for event in client.session("s1").events()]
    assert _text(events) == "a"
    assert server.header("last-event-id") == ["", "5-1", "5-1"]
    assert waits.seconds[1] >= at_least_s
    assert isinstance(waits.errors[1], Overloaded | Unreachable)
    assert re.search("502|500|200|503|429", str(waits.errors[1])), "it says what was answered"


async def test_what_is_no_stream_is_let_go(connect: Connect) -> None:
    """Whatever is still to come of it: the connection is closed, and not kept beside the next one."""
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 99\r\n\r\n<html>"
    async with (
        canned(page, HEAD + STARTED + OVER + END) as server,
        connect(server.url) as client,
        aclosing(client.session("s1").events()) as events,
    ):
        assert isinstance(await anext(events), Started)
        while server.open > 1:
            await asyncio.sleep(0.01)


async def test_the_server_says_how_long_to_wait(connect: Connect) -> None:
    """`retry:` is the first wait, give or take a quarter; later ones in a row are longer."""
    waits = Waits()
    said = [HEAD + QUICKLY + STARTED + SEVERED, answer(502), HEAD + SAYS_A + OVER + END]
    async with canned(*said) as server, connect(server.url, on_wait=waits) as client:
        assert len([event async for event in client.session("s1").events()]) == 4
    first, second = waits.seconds
    assert 0.05 * 0.75 <= first <= 0.05 * 1.25, "no sooner than it is sensible"
    assert 0.1 * 0.75 <= second <= 0.1 * 1.25


async def test_a_stream_that_says_nonsense_is_given_up(connect: Connect) -> None:
    """It would say it again."""
    async with (
        canned(HEAD + block("5-1", "text.delta", "{") + SEVERED) as server,
        connect(server.url) as client,
    ):
        with pytest.raises(ProtocolError, match="5-1"):
            await anext(client.session("s1").events())


# -- holes


@pytest.mark.parametrize("kept", [1, 2])
async def test_a_gap_is_handed_out_with_its_transcript(
    connect: Connect, nodes: list[LiveNode], log: Log, redis: Any, kept: int
) -> None:
    """It is an event like others, and the end comes after it; but half an answer is never given as one."""
    await sessions.finished(log, "a", "b", "c")
    await redis.xtrim(keys.events(SID), maxlen=kept, approximate=False)
    async with connect(nodes[0].url) as client:
        session = client.session(SID)
        gap, end = [event async for event in session.events()]
        assert isinstance(gap, Gap)
        assert (gap.reason, gap.requested, gap.id) == ("trimmed", "0-0", gap.latest)
        assert [message.content for message in gap.transcript.messages] == ["c"] * (kept - 1)
        assert isinstance(end, Completed)
        with pytest.raises(AnswerLost):
            await anext(client.session(SID).text())
        with pytest.raises(AnswerLost):
            await client.session(SID).result()


async def test_a_gap_in_an_older_turn_is_none_in_this_one(
    connect: Connect, nodes: list[LiveNode], log: Log, redis: Any
) -> None:
    """Text and result are those of the turn that was asked for."""
    await sessions.finished(log, "a", "b", "c")
    await sessions.next_turn(log)
    again = await sessions.claim(log, generation="g2")
    await sessions.say(log, again, 2, "d")
    await sessions.finish(log, again, 3, generation="g2")
    await redis.xtrim(keys.events(SID), maxlen=6, approximate=False)
    async with connect(nodes[0].url) as client:
        assert any([isinstance(event, Gap) async for event in client.session(SID).events()])
        assert (await client.session(SID).result()).content == "d"
        assert [words async for words in client.session(SID).text()] == ["d"]
        cursor = str((await log.events(SID))[0].id)
        assert [words async for words in client.session(SID, cursor=cursor).text()] == ["d"]


async def test_a_log_that_is_gone_is_said_to_be(connect: Connect, nodes: list[LiveNode], log: Log, redis: Any) -> None:
    """By a stream, and by who wants the answer; the state is still known."""
    await sessions.finished(log, "a")
    async with connect(nodes[0].url) as client, connect(nodes[1].url) as elsewhere:
        read = client.session(SID)
        assert await read.result()
        await redis.delete(keys.events(SID))
        with pytest.raises(Gone, match="session_expired"):
            await anext(elsewhere.session(SID).events())
        with pytest.raises(Gone, match="session_expired"):
            await read.result()
        assert (await read.get()).expired


async def test_words_of_an_attempt_that_was_lost_do_not_count(
    connect: Connect, nodes: list[LiveNode], log: Log
) -> None:
    """An event says so; the result has none of them; and where they were handed out as text, that is no answer."""
    held = await sessions.started(log)
    await sessions.say(log, held, 2, "a")
    async with connect(nodes[0].url) as client:
        session = client.session(SID)
        text = session.text()
        assert await anext(text) == "a"
        assert await log.reap(SID, held.epoch, 2, 0)
        again = await sessions.claim(log)
        await sessions.say(log, again, 2, "B")
        await sessions.finish(log, again, 3)
        with pytest.raises(AnswerLost, match="attempt 2"):
            await anext(text)
        assert (await client.session(SID).result()).content == "B"
        attempts = [event.attempt async for event in session.events("0-0") if isinstance(event, Started)]
        assert attempts == [1, 2]
