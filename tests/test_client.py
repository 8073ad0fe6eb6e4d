"""The Python client: what may be said with it, what it is told, and what it raises."""

import asyncio
import inspect
import json
import re
import sys
import textwrap
import traceback
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from pydantic import BaseModel

from api import schemas
from shared import client as holdfast
from shared.client import (
    AsyncClient,
    AsyncSession,
    BadRequest,
    Cancelled,
    CaughtUp,
    Client,
    ClientClosed,
    Completed,
    Failed,
    Forbidden,
    GenerationCancelled,
    GenerationFailed,
    Gone,
    NotFound,
    Overloaded,
    ProtocolError,
    Question,
    Said,
    Session,
    Started,
    TextDelta,
    Unauthorized,
    Unknown,
    Unreachable,
    Usage,
)
from shared.client.calls import Call
from shared.client.events import _CLASSES, parsed
from shared.client.patience import CAP_S, Patience, retry_after_s
from shared.credentials import digest, new_key
from shared.events import EventType
from tests.support.canned import answer, canned
from tests.support.clients import CLIENTS, Connect, Waits
from tests.support.generations import piped
from tests.support.inprocess import LiveNode, live_node, live_worker
from tests.support.ports import free_port
from tests.support.proxy import proxy
from tests.support.swallowing import swallowing
from tests.support.system import ROOT
from worker.pipelines import Run
from worker.providers.demo import DEFAULT_TOKENS, lorem

WITHIN_S = 20.0
OPENED = '{"id":"s1","generation":"g1","state":"queued","last_event_id":"5-1","stream_token":null}'
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


# -- refusals


async def test_what_cannot_be_is_raised_at_once(connect: Connect, node: LiveNode) -> None:
    """With status, code and words of the server, for calls and streams alike, and without a second try."""
    waits = Waits()
    async with connect(node.url, on_wait=waits) as client:
        for unknown in (client.session("nobody").get, client.session("nobody").stop, client.session("no/body").delete):
            with pytest.raises(NotFound) as missing:
                await unknown()
            assert missing.value.status == 404
        with pytest.raises(NotFound, match="session_not_found"):
            await anext(client.session("nobody").events())
        with pytest.raises(BadRequest) as wrong:
            await client.create(model="nobody/knows", input="hello")
        assert (wrong.value.status, wrong.value.code) == (422, "unknown_model")
        session = await client.create(model="demo/echo", input="hello")
        with pytest.raises(BadRequest, match="invalid_last_event_id"):
            await anext(session.events("yesterday"))
        await client.create(input="one", idempotency_key="k1")
        with pytest.raises(BadRequest, match="idempotency_key_reused"):
            await client.create(input="two", idempotency_key="k1")
        await session.result()
        await session.delete()
        with pytest.raises(NotFound):
            await session.delete()
    assert waits.errors == []


async def test_a_key_is_needed_and_never_shown(connect: Connect, redis_url: str) -> None:
    """Not by a refusal, not where nobody answers, not with the variables of every frame; a function may renew it."""
    key, wrong = new_key(), new_key()
    asked: list[str] = []

    def renewed() -> str:
        asked.append(key)
        return key

    async with live_node(redis_url, auth="keys", keys={"alice": (digest(key),)}, token_secret="s" * 32) as node:
        async with connect(node.url, key=wrong) as client:
            with pytest.raises(Unauthorized) as refused:
                await client.create(input="hello")
            with pytest.raises(Unauthorized):
                await anext(client.session("s1").events())
            shown = [repr(client), str(client.session("s1")), _all_of(refused.value)]
        async with connect(node.url, key=renewed) as client:
            session = await client.create(input="hello")
            assert session.stream_token
            assert session.stream_token not in repr(session)
            await session.get()
    assert len(asked) == 2
    async with connect(f"http://127.0.0.1:{free_port()}", key=wrong, patience_s=0.1) as client:
        with pytest.raises(Unreachable) as unreachable:
            await client.create(input="hello")
    assert wrong not in "".join([*shown, _all_of(unreachable.value)])


def _all_of(error: BaseException) -> str:
    """As a reporter that knows no mercy tells it, but for the variables of the test."""
    assert error.__traceback__ is not None
    frames = error.__traceback__.tb_next
    return "".join(traceback.TracebackException(type(error), error, frames, capture_locals=True).format())


@pytest.mark.parametrize("key", ["", "secret\nkey", "secret key", "sécret"])
def test_a_key_that_cannot_be_sent_is_refused_without_its_words(key: str) -> None:
    """A header that is refused further down is refused by words that show it."""
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="printable ASCII") as raised:
            kind(key=key)
        assert not key or key not in str(raised.value)


@pytest.mark.parametrize("base", ["ftp://127.0.0.1", "127.0.0.1:8000", "http://user:secret@127.0.0.1"])
def test_a_base_that_cannot_be_is_refused_at_once(base: str) -> None:
    """And not after a minute of patience; credentials in it would be shown with it."""
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - its words differ
        Client(base)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("status", [403, 405, 307])
async def test_every_answer_that_is_no_trouble_is_final(connect: Connect, status: int) -> None:
    """Also one that somebody else has written; and nobody is followed elsewhere with the key."""
    said = answer(status, "<html>", "Location: http://127.0.0.1:9/")
    async with canned(said, said) as server, connect(server.url, key="secret") as client:
        for ask in (client.session("s1").get(), anext(client.session("s1").events())):
            with pytest.raises(Forbidden if status == 403 else BadRequest) as raised:
                await ask
            assert (raised.value.status, raised.value.code) == (status, "http_error")
    assert len(server.asked) == 2


# -- patience


async def test_a_session_whose_answer_was_lost_is_made_once(connect: Connect, node: LiveNode) -> None:
    """And so is a turn; an answer to a question; and a deletion that was carried out is no error."""
    async with (
        swallowing(int(node.url.rpartition(":")[2])) as lossy,
        proxy(lossy.port) as way,
        connect(way.url) as client,
    ):
        session = await _through(way, lossy, client, node, "create", model="demo/echo", input="one")
        await session.result()
        await _through(way, lossy, session, node, "message", input="two")
        await session.result()
        assert [m.content for m in (await session.get()).messages] == ["one", "one", "two", "two"]
        assert [summary.id async for summary in client.sessions()] == [session.id]
        asked = await client.create(input="hello", pipeline=ASKS)
        async for event in asked.events():
            if isinstance(event, Question):
                await _through(way, lossy, asked, node, "answer", question=event.question, text="red")
        assert (await asked.get()).messages[-1].content == "You like red."
        await _through(way, lossy, session, node, "delete")
    assert len(lossy.swallowed) == 4


async def _through(way: Any, lossy: Any, what: Any, node: LiveNode, method: str, **given: Any) -> Any:
    """Call a method whose first answer gets lost."""
    way.target_port, count = lossy.port, len(lossy.swallowed)
    await way.cut()  # no connection that is kept: it would lead to the node

    async def back() -> None:
        while len(lossy.swallowed) == count:
            await asyncio.sleep(0.01)
        way.target_port = int(node.url.rpartition(":")[2])

    switching = asyncio.create_task(back())
    result = await getattr(what, method)(**given)
    await switching
    return result


@pytest.mark.parametrize("status", [429, 503])
async def test_trouble_that_passes_is_waited_for_as_long_as_the_server_says(connect: Connect, status: int) -> None:
    """The same key is sent again."""
    waits = Waits()
    trouble = answer(status, '{"error":{"code":"busy","message":"later"}}', "Retry-After: 1")
    async with canned(trouble, answer(201, OPENED)) as server, connect(server.url, on_wait=waits) as client:
        assert (await client.create(input="hello")).id == "s1"
    assert waits.seconds[0] >= 1.0
    assert isinstance(waits.errors[0], Overloaded)
    assert (waits.errors[0].status, waits.errors[0].code) == (status, "busy")
    first, second = server.header("idempotency-key")
    assert first == second != ""
    assert [json.loads(body) for body in server.bodies] == [{"input": "hello"}] * 2


async def test_who_is_to_wait_longer_than_patience_lasts_is_told_at_once(connect: Connect) -> None:
    """Waiting would be for nothing."""
    async with canned(answer(429, "{}", "Retry-After: 3600")) as server, connect(server.url) as client:
        with pytest.raises(Overloaded) as raised:
            await client.create(input="hello")
    assert raised.value.status == 429


async def test_nobody_there_ends_with_patience(connect: Connect) -> None:
    """A stream too, where it was given an end."""
    async with connect(f"http://127.0.0.1:{free_port()}", patience_s=0.2, follow_patience_s=0.2) as client:
        with pytest.raises(Unreachable, match="ConnectError"):
            await client.create(input="hello")
        with pytest.raises(Unreachable, match="ConnectError"):
            await anext(client.session("s1").events())


def test_waits_grow_to_a_bound_with_jitter_and_begin_again_after_success() -> None:
    """Many clients must not come back in step, nor any of them in a circle."""
    for chance, factor in ((0.0, 0.75), (1.0, 1.25)):
        patience = Patience(None, 1.0, chance=lambda chance=chance: chance)  # type: ignore[misc]
        error = Unreachable("away")
        assert [patience.wait_s(error) / factor for _ in range(6)] == [1, 2, 4, 8, CAP_S, CAP_S]
        patience.renewed()
        assert patience.wait_s(error, at_least_s=3) == 3
        patience.base_s = 0.0
        patience.renewed()
        assert patience.wait_s(error) > 0


def test_patience_counts_from_the_last_success() -> None:
    """And a wait that would end after it is not begun."""
    now = 100.0
    patience = Patience(10.0, 1.0, clock=lambda: now, chance=lambda: 0.5)
    now = 108.5
    assert patience.wait_s(Unreachable("away")) == 1.0
    with pytest.raises(Unreachable):
        patience.wait_s(Unreachable("away"))
    patience.renewed()
    now = 117.0
    assert patience.wait_s(Unreachable("away")) == 1.0


def test_retry_after_is_seconds_or_a_date() -> None:
    """Nonsense is no reason to wait."""
    assert retry_after_s({"retry-after": "7"}) == 7
    assert retry_after_s({"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT"}) > 1e6
    assert [retry_after_s({"retry-after": said}) for said in ("Thu, 01 Jan 1970 00:00:00 GMT", "soon", "-1", "²")] == [
        0, 0, 0, 0,
    ]  # fmt: skip
    assert retry_after_s({}) == 0


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
    """For an event, or for the next try; later calls are told the same."""
    waits = Waits()
    async with (
        connect(node.url) as client,
        connect(f"http://127.0.0.1:{free_port()}", patience_s=None, on_wait=waits) as lonely,
    ):
        session = await client.create(input="hello", pipeline=ASKS)
        reading = asyncio.create_task(session.result())
        trying = asyncio.create_task(lonely.session("s1").get())
        await _readers(node, 1)
        while len(waits.seconds) < 3:
            await asyncio.sleep(0.01)
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


# -- words


async def test_the_example_runs(node: LiveNode) -> None:
    """As it is, but for the address."""
    assert holdfast.__doc__ is not None
    code = textwrap.dedent("".join(re.findall(r"^(?:    .*)?\n", holdfast.__doc__, re.MULTILINE)))
    run = [sys.executable, "-W", "error", "-c", code.replace("http://127.0.0.1:8000", node.url)]
    process = await asyncio.create_subprocess_exec(*run, cwd=ROOT, stdout=PIPE, stderr=PIPE)
    out, complaints = await process.communicate()
    assert complaints == b""
    said = "".join(lorem(DEFAULT_TOKENS, 0))
    assert out.decode() == f"{said}{said}\n[]\n"


def test_both_clients_have_the_same_words() -> None:
    """Methods, what they are given, and what is said about them."""
    renamed = {"aclose": "close", "__aenter__": "__enter__", "__aexit__": "__exit__"}
    for one, other in ((AsyncClient, Client), (AsyncSession, Session)):
        words = {renamed.get(name, name): member for name, member in vars(one).items() if inspect.isfunction(member)}
        plain = {name: member for name, member in vars(other).items() if inspect.isfunction(member)}
        assert words.keys() == plain.keys()
        for name in words:
            assert _given(words[name]) == _given(plain[name]), name


def _given(function: Any) -> list[tuple[Any, ...]]:
    return [(given.name, given.kind, given.default) for given in inspect.signature(function).parameters.values()]


def test_answers_of_the_api_are_known_with_all_their_fields() -> None:
    """What the server's answer has, the client's has too, unless it is of no use there."""
    pairs: dict[type[BaseModel], type[BaseModel]] = {
        holdfast.Opened: schemas.SessionOpened,
        holdfast.Summary: schemas.SessionSummary,
        holdfast.Shown: schemas.SessionShown,
        holdfast.Stopped: schemas.Stopped,
    }
    for known, said in pairs.items():
        assert known.model_fields.keys() == said.model_fields.keys() - {"events_url"}


def test_every_type_of_event_has_a_class() -> None:
    """And what a later version says is not an error."""
    assert {*EventType, "caught_up", "gap"} == _CLASSES.keys()
    later = parsed("5-1", "text.sung", '{"id":"x","notes":[1]}')
    assert isinstance(later, Unknown)
    assert (later.id, later.type, later.data) == ("5-1", "text.sung", {"id": "x", "notes": [1]})


@pytest.mark.parametrize("data", ["", "{", "[]", "null", "{}", '{"text":1}'])
def test_what_is_no_event_is_said_to_be_none(data: str) -> None:
    """It would be no better on another connection."""
    with pytest.raises(ProtocolError, match=r"text\.delta"):
        parsed("5-1", "text.delta", data)


async def test_what_is_no_answer_is_said_to_be_none(connect: Connect) -> None:
    """Such as a page that a proxy gives with 200."""
    async with canned(answer(200, "<html>")) as server, connect(server.url) as client:
        with pytest.raises(ProtocolError, match="Shown"):
            await client.session("s1").get()


def test_a_session_is_one_part_of_a_path() -> None:
    """Whatever is in its name."""
    assert holdfast.calls.session_path("a/../b?c", "stop") == "/v1/sessions/a%2F..%2Fb%3Fc/stop"
    assert Call("GET", "/x", query={"a": None, "b": 1}).request()["params"] == {"b": 1}
