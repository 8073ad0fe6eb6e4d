"""The Python client: sessions, what is read of them, and how they are left."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from shared.client import (
    AsyncClient,
    BadRequest,
    Cancelled,
    CaughtUp,
    ClientClosed,
    Completed,
    Failed,
    GenerationCancelled,
    GenerationFailed,
    Gone,
    Question,
    Said,
    Started,
    TextDelta,
    Usage,
)
from tests.support.clients import CLIENTS, Connect, Waits
from tests.support.generations import piped
from tests.support.inprocess import LiveNode, live_node, live_worker
from tests.support.ports import free_port
from tests.support.proxy import proxy
from worker.pipelines import Run
from worker.providers.demo import lorem

WITHIN_S = 20.0
ENDLESS: dict[str, Any] = {"model": "demo/lorem", "input": "hello", "options": {"tokens": 100_000, "rate": 50}}


async def _asks(run: Run) -> None:
    await run.text(f"You like {await run.ask('Which colour?')}.")


async def _breaks(run: Run) -> None:
    await run.text("so far")
    raise RuntimeError("broken")


ASKS, BREAKS = piped(_asks), piped(_breaks)


@pytest.fixture(params=CLIENTS)
def connect(request: pytest.FixtureRequest) -> Connect:
    return CLIENTS[request.param]


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[LiveNode]:
    async with live_node(redis_url) as running, live_worker(redis_url), asyncio.timeout(WITHIN_S):
        yield running


async def _readers(node: LiveNode, count: int) -> None:
    """Until the node has so many."""
    while len(node.node.hub.readers) != count:
        await asyncio.sleep(0.01)


async def _collect(text: AsyncIterator[str], words: list[str]) -> None:
    """All that comes before it ends, or raises."""
    async for piece in text:
        words.append(piece)


# -- sessions


async def test_an_answer_is_followed_to_its_end(connect: Connect, node: LiveNode) -> None:
    """Typed, in order, each with an id of its own, and no more after the terminal."""
    async with connect(node.url) as client:
        session = await client.create(model="demo/lorem", input="hello", options={"tokens": 30, "seed": 4})
        events = [event async for event in session.events()]
        assert [event async for event in session.events()] == [], "all of it was handed out"
    logged = [event for event in events if not isinstance(event, CaughtUp)]
    assert isinstance(logged[0], Said)
    assert (logged[0].content, logged[0].generation) == ("hello", "g1")
    assert isinstance(logged[1], Started)
    assert (logged[1].attempt, logged[1].model) == (1, "demo/lorem")
    assert {type(event) for event in logged[2:-2]} == {TextDelta}
    assert isinstance(logged[-2], Usage)
    assert isinstance(logged[-1], Completed)
    assert "".join(event.text for event in logged if isinstance(event, TextDelta)) == "".join(lorem(30, 4))
    assert len({event.id for event in logged}) == len(logged)
    assert session.cursor == logged[-1].id


async def test_text_and_result_are_of_the_turn_that_was_asked_last(connect: Connect, node: LiveNode) -> None:
    """Also for who comes with the id alone, and reads older turns on the way."""
    async with connect(node.url) as client:
        session = await client.create(model="demo/echo", input="one")
        assert "".join([words async for words in session.text()]) == "one"
        await session.message("two")
        assert "".join([words async for words in session.text()]) == "two"
        later = client.session(session.id)
        assert "".join([words async for words in later.text()]) == "two"
        message = await client.session(session.id).result()
        assert (message.content, message.generation, message.state) == ("two", "g2", "completed")
        shown = await session.get()
        assert [message.content for message in shown.messages] == ["one", "one", "two", "two"]
        assert (shown.state, shown.last_event_id) == ("completed", session.cursor)


async def test_follow_stays_for_later_turns(connect: Connect, node: LiveNode) -> None:
    """What is said after the end of one turn arrives in the same loop."""
    async with connect(node.url) as client:
        session = await client.create(model="demo/echo", input="one")
        told: list[str] = []
        async with aclosing(session.events(follow=True)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    told.append(event.text)
                if isinstance(event, Completed) and event.generation == "g1":
                    await client.session(session.id).message("two")
                elif isinstance(event, Completed):
                    break
    assert told == ["one", "two"]
    assert session.generation == "g2"


async def test_a_stop_is_no_success(connect: Connect, node: LiveNode) -> None:
    """`text` and `result` raise, the event says by whom, what was said stays, and a second stop is no error."""
    async with connect(node.url) as client:
        session = await client.create(**ENDLESS)
        words: list[str] = []
        text = session.text()
        words.append(await anext(text))
        stopped = await client.session(session.id).stop()
        with pytest.raises(GenerationCancelled, match="g1"):
            await _collect(text, words)
        assert (stopped.state, stopped.confirmed) == ("cancelled", True)
        with pytest.raises(GenerationCancelled):
            await session.result()
        with pytest.raises(GenerationCancelled):
            assert [piece async for piece in session.text()] == []
        last = [event async for event in session.events("0-0")][-1]
        assert isinstance(last, Cancelled)
        assert last.by == "user"
        assert (await session.get()).messages[-1].content == "".join(words)
        assert (await session.stop()).state == "cancelled"


async def test_a_failure_is_an_event_and_raised_by_those_who_read_words(connect: Connect, node: LiveNode) -> None:
    """With the code and whether it may be tried again; also for who comes when all was read."""
    async with connect(node.url) as client:
        session = await client.create(input="hello", pipeline=BREAKS)
        words: list[str] = []
        with pytest.raises(GenerationFailed) as raised:
            await _collect(session.text(), words)
        assert words == ["so far"]
        for again in (session.text(), client.session(session.id, cursor=session.cursor).text()):
            with pytest.raises(GenerationFailed):
                assert [piece async for piece in again] == []
        with pytest.raises(GenerationFailed) as of_result:
            await session.result()
        failed = [event async for event in session.events("0-0")][-1]
        assert isinstance(failed, Failed)
        for error in (raised.value, of_result.value):
            assert (error.generation, error.code, error.retryable) == ("g1", failed.code, failed.retryable)


async def test_a_question_is_answered_once(connect: Connect, node: LiveNode) -> None:
    """The one who is late is told that it is gone."""
    async with connect(node.url) as client:
        session = await client.create(input="hello", pipeline=ASKS)
        text = ""
        async for event in session.events():
            match event:
                case Question(question=question, text=asked):
                    assert asked == "Which colour?"
                    await session.answer(question, "red")
                    with pytest.raises(Gone) as raised:
                        await session.answer(question, "blue")
                case TextDelta(text=words):
                    text += words
    assert text == "You like red."
    assert (raised.value.status, raised.value.code) == (410, "question_gone")


async def test_a_turn_while_one_is_written_is_refused_unless_it_interrupts(connect: Connect, node: LiveNode) -> None:
    """Then what is read is the end of the old turn, and all of the new one."""
    async with connect(node.url) as client:
        session = await client.create(**ENDLESS)
        with pytest.raises(BadRequest) as raised:
            await session.message("two")
        assert (raised.value.status, raised.value.code) == (422, "generation_running")
        await session.message("two", interrupt=True, model="demo/echo", options={})
        ends = [event async for event in session.events() if isinstance(event, Cancelled | Completed)]
        assert [(type(event), event.generation) for event in ends] == [(Cancelled, "g1"), (Completed, "g2")]


async def test_sessions_come_in_pages(connect: Connect, node: LiveNode) -> None:
    """All of them, the newest first, whatever fits a page; or those of one state."""
    async with connect(node.url) as client:
        ids = []
        for n in range(5):
            session = await client.create(model="demo/echo", input="hello", id=f"s{n}")
            await session.result()
            ids.append(session.id)
        running = await client.create(**ENDLESS)
        await anext(running.text())
        assert [summary.id async for summary in client.sessions(limit=2)] == [running.id, *reversed(ids)]
        assert [summary.id async for summary in client.sessions(state="running")] == [running.id]


# -- leaving


async def test_leaving_the_loop_closes_the_connection(connect: Connect, node: LiveNode) -> None:
    """At once, and the generation goes on."""
    async with connect(node.url) as client:
        session = await client.create(**ENDLESS)
        async with aclosing(session.events()) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    await _readers(node, 1)
                    break
        await _readers(node, 0)
        assert (await session.get()).state == "running"


async def test_closing_ends_whoever_waits(connect: Connect, node: LiveNode) -> None:
    """For an event, be it over a dead connection, or for the next try; later calls are told the same."""
    waits = Waits()
    async with (
        proxy(int(node.url.rpartition(":")[2])) as way,
        connect(way.url, silent_s=600.0) as client,
        connect(f"http://127.0.0.1:{free_port()}", patience_s=None, on_wait=waits) as lonely,
    ):
        session = await client.create(input="hello", pipeline=ASKS)
        reading = asyncio.create_task(session.result())
        trying = asyncio.create_task(lonely.session("s1").get())
        await _readers(node, 1)
        while len(waits.seconds) < 3:
            await asyncio.sleep(0.01)
        way.pause()
        await client.aclose()
        await lonely.aclose()
        for task in (reading, trying):
            with pytest.raises(ClientClosed):
                await task
        await _readers(node, 0)
        with pytest.raises(ClientClosed):
            await session.get()


async def test_cancelling_closes_the_connection(node: LiveNode) -> None:
    """Whatever it is waiting for; the client can be used further."""
    async with AsyncClient(node.url) as client:
        session = await client.create(input="hello", pipeline=ASKS)
        reading = asyncio.create_task(session.result())
        await _readers(node, 1)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await _readers(node, 0)
        assert (await session.get()).state == "waiting"
