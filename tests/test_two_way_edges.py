"""Asking at the edges: what must not be started twice, or unseen, or at all; and what a word said too early means."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from api import chat_socket
from api.duplex import caller_behind
from shared import keys
from shared.events import State, encode
from shared.ids import START, EventId
from shared.log import Log
from shared.redis import RedisError
from tests.conformance.transports import CHAT
from tests.support import sessions
from tests.support.inprocess import LiveNode, live_node
from tests.support.sessions import HELLO, SID
from tests.support.sockets import Client, session
from tests.support.sse import SSE, Severed, events_path

WS_CHAT = "/ws/chat"
WITHIN_S = 20


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[LiveNode]:
    async with live_node(redis_url) as running:
        yield running


def asking(base: str, form: str, headers: dict[str, str] | None = None, **query: str) -> SSE:
    """`form` is GET or POST; without `message=`, hello is said."""
    said = {"message": "hello", **query}
    if form == "GET":
        return SSE(base, f"{CHAT}?{httpx.QueryParams(said)}", headers)
    key = {"key": said.pop("key")} if "key" in said else {}
    return SSE(base, f"{CHAT}?{httpx.QueryParams(key)}", headers, post=json.dumps(said).encode())


async def started(redis: Any) -> list[str]:
    """The newest generation of each session there is."""
    return [(await redis.hget(key, "generation")).decode() async for key in redis.scan_iter(keys.session("*"))]


async def refusal(stream: SSE) -> tuple[int, str]:
    async with stream:
        return stream.status, json.loads(stream.body)["error"]["code"]


# -- nothing is asked again for want of an id


@pytest.mark.parametrize("running", [False, True], ids=["after an end", "interrupting"])
async def test_the_next_turn_begins_with_its_own_message(node: LiveNode, log: Log, running: bool) -> None:
    """It bears an id: cut before any worker took the turn, the client resumes it, and does not ask again."""
    await (sessions.started(log) if running else sessions.finished(log, "a"))
    body = json.dumps({"session": SID, "message": "again", "interrupt": running}).encode()
    async with SSE(node.url, CHAT, post=body) as stream:
        first = await anext(stream.frames())
    assert (first.type, first.data["generation"], first.data["content"]) == ("message", "g2", "again")
    async with SSE(node.url, CHAT, {"Last-Event-ID": first.id}, post=body) as stream:
        frames = stream.frames()
        assert (await anext(frames)).type == "caught_up"
        held = await sessions.claim(log, generation="g2")
        await sessions.say(log, held, 2, "b")
        await sessions.finish(log, held, 3, generation="g2")
        rest = [frame.type async for frame in frames]
    assert rest == ["generation.started", "text.delta", "generation.completed"]
    assert (await log.events(SID))[-1].value["generation"] == "g2"


async def _leaves(node: LiveNode, patch: pytest.MonkeyPatch) -> None:
    create = node.node.log.create

    async def then_leave(*args: Any) -> Any:
        opened = await create(*args)
        node.node.hub.drain()
        return opened

    patch.setattr(node.node.log, "create", then_leave)


async def _hears_nothing(node: LiveNode, patch: pytest.MonkeyPatch) -> None:
    async def subscribe(_: str) -> None:
        raise TimeoutError

    patch.setattr(node.node.hub._subscriber, "subscribe", subscribe)


@pytest.mark.parametrize("form", ["GET", "POST"])
@pytest.mark.parametrize("trouble", [_leaves, _hears_nothing], ids=["a drain", "no subscription"])
async def test_who_is_cut_at_once_has_an_id_already(
    redis_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch, trouble: Callable[..., Awaitable[None]], form: str
) -> None:
    """What was asked stands in the log: before the cut comes a page of it, so that coming back resumes."""
    async with live_node(redis_url) as troubled, live_node(redis_url) as other:
        await trouble(troubled, monkeypatch)
        async with asking(troubled.url, form) as stream, asyncio.timeout(WITHIN_S):
            frames = stream.frames()
            first = await anext(frames)
            with pytest.raises(Severed):
                await anext(frames)
        assert (first.type, first.data["content"]) == ("message", "hello")
        async with asking(other.url, form, {"Last-Event-ID": first.id}) as back:
            assert (await anext(back.frames())).data == {"last_event_id": first.id}
    assert await started(redis) == ["g1"]


async def test_text_said_again_after_a_doubtful_end_asks_once(
    node: LiveNode, redis: Any, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis did it, and its reply was lost: the same text opens no second session, and no second turn."""
    once_in_doubt(monkeypatch, node.node.log, "create")
    once_in_doubt(monkeypatch, node.node.log, "message")
    async with Client(node.url, WS_CHAT) as speaker:
        for n, generation in enumerate(("g1", "g2"), 1):
            await speaker.text("hi")
            assert (await speaker.event("error", n))["code"] == "redis_unavailable"
            await speaker.text("hi")
            assert (await speaker.event("session", n))["generation"] == generation
            assert await started(redis) == [generation]
        await speaker.text("hi")
        assert (await speaker.event("session", 3))["generation"] == "g3"
        sid = speaker.of("session")[0]["session"]
    assert [event.value["content"] for event in await log.events(sid) if event.type == "message"] == ["hi"] * 3


async def test_other_text_after_a_doubtful_end_is_another_question(
    node: LiveNode, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no repeat, and is not refused as one."""
    once_in_doubt(monkeypatch, node.node.log, "create")
    async with Client(node.url, WS_CHAT) as speaker:
        await speaker.text("hi")
        await speaker.event("error")
        await speaker.text("or rather")
        await speaker.event("session")
        assert (await speaker.event("message"))["content"] == "or rather"
    assert await started(redis) == ["g1", "g1"]


def once_in_doubt(patch: pytest.MonkeyPatch, log: Log, verb: str) -> None:
    """The next call is carried out, and its reply is lost."""
    real = getattr(log, verb)

    async def carried_out(*args: Any, **kwargs: Any) -> None:
        await real(*args, **kwargs)
        patch.setattr(log, verb, real)
        raise RedisError("the reply was lost")

    patch.setattr(log, verb, carried_out)


# -- nothing is started that nobody may watch, or asked for


@pytest.mark.parametrize("form", ["GET", "POST"])
async def test_one_stream_too_many_starts_nothing(redis_url: str, redis: Any, log: Log, form: str) -> None:
    """429, and neither a session nor a turn is there that nobody sees."""
    await sessions.finished(log, "a")
    async with live_node(redis_url, open_streams=1) as node, SSE(node.url, events_path(SID, follow=1)) as stream:
        await anext(stream.frames())
        assert await refusal(asking(node.url, form)) == (429, "too_many_streams")
        assert await refusal(asking(node.url, form, session=SID)) == (429, "too_many_streams")
    assert await started(redis) == ["g1"]


@pytest.mark.parametrize("path", [WS_CHAT, f"{WS_CHAT}?session={SID}"])
async def test_one_socket_too_many_starts_nothing(
    redis_url: str, redis: Any, log: Log, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """1013; also where its text is there before it is known whose socket it is. One that said nothing yet counts."""
    await sessions.finished(log, "a")
    async with live_node(redis_url, open_streams=1) as node, Client(node.url, WS_CHAT) as silent:
        await silent.ping()
        known = asyncio.Event()

        async def long_in_coming(*args: Any) -> str:
            await known.wait()
            return await caller_behind(*args)

        monkeypatch.setattr(chat_socket, "caller_behind", long_in_coming)
        async with Client(node.url, path) as second:
            await second.text("hello")
            await second.ping()
            known.set()
            assert await second.closed() == (1013, "too_many_streams")
        assert await started(redis) == ["g1"]
        await silent.text("hello")
        assert (await silent.event("session"))["generation"] == "g1"


@pytest.mark.parametrize("purpose", ["prefetch", "prefetch;prerender"])
async def test_a_prefetch_starts_nothing(node: LiveNode, redis: Any, purpose: str) -> None:
    """A browser that guesses what will be asked next has asked nothing."""
    assert await refusal(asking(node.url, "GET", {"Sec-Purpose": purpose})) == (400, "invalid_request")
    assert await started(redis) == []


@pytest.mark.parametrize("form", ["GET", "POST"])
async def test_an_empty_key_is_none_and_is_refused(node: LiveNode, redis: Any, form: str) -> None:
    """Whoever sends one relies on it: 422, and nothing is started."""
    assert await refusal(asking(node.url, form, key="")) == (422, "invalid_request")
    assert await refusal(asking(node.url, form, {"Idempotency-Key": ""})) == (422, "invalid_request")
    assert await started(redis) == []


async def test_a_cursor_without_its_session_is_refused(node: LiveNode, redis: Any) -> None:
    """4400: whoever comes back must not begin anew unawares."""
    for after in ("1-1", "nonsense", ""):
        async with Client(node.url, f"{WS_CHAT}?after={after}") as speaker:
            assert await speaker.closed() == (4400, "invalid_request")
    assert await started(redis) == []


# -- words that come while the log is still being told


@pytest.fixture
async def slowly(node: LiveNode, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Replay stops after its first page, and goes on at the end of the test."""
    read, on = node.node.log.page, asyncio.Event()

    async def page(sid: str, cursor: EventId, count: int, burst_bytes: int) -> Any:
        if cursor != START:
            await on.wait()
        return await read(sid, cursor, count, burst_bytes)

    monkeypatch.setattr(node.node.log, "page", page)
    yield
    on.set()


def statuses(count: int) -> list[tuple[str, bytes]]:
    return [("status", encode({"text": f"step {n}"})) for n in range(count)]


@pytest.mark.usefixtures("slowly")
async def test_what_is_said_early_answers_the_open_question(node: LiveNode, redis: Any, log: Log) -> None:
    """Though the client has not been told of the question yet: it does not interrupt whoever asked."""
    held = await sessions.started(log)
    await log.append(SID, held.token, held.epoch, 2, [*statuses(1000), sessions.question("q1")])
    async with Client(node.url, f"{WS_CHAT}?session={SID}") as speaker, asyncio.timeout(WITHIN_S):
        await speaker.event("started")
        await speaker.text("Lisbon")
        while not (answer := await sessions.field(redis, "answer")):
            assert not speaker.of("session"), "it was asked"
            await asyncio.sleep(0.005)
        assert not speaker.of("question")
    assert json.loads(answer)["text"] == "Lisbon"


@pytest.mark.usefixtures("slowly")
async def test_what_is_said_early_asks_where_the_question_was_answered(node: LiveNode, redis: Any, log: Log) -> None:
    """Though the client was told of the question alone, and not of its answer yet."""
    held = await sessions.started(log)
    answer = ("answer", encode({"id": "q1", "text": "red", "by": "u"}))
    await log.append(SID, held.token, held.epoch, 2, [sessions.question("q1")])
    await log.answer(SID, "nonce", "q1", "red", "anonymous")
    await log.append(SID, held.token, held.epoch, 3, [*statuses(1000), answer])
    async with Client(node.url, f"{WS_CHAT}?session={SID}") as speaker:
        await speaker.event("question")
        await speaker.text("Lisbon")
        await speaker.first(lambda came: came["type"] in ("session", "error"))
        assert not speaker.of("error")
        assert speaker.of("session")[0]["generation"] == "g2"


@pytest.mark.parametrize("transport", ["HTTP", "WebSocket", "chat"])
async def test_a_stop_without_a_name_does_not_hit_the_turn_that_slips_in(
    node: LiveNode, log: Log, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    """Between its look and its deed the generation ended and the next one began: that is done, and no error."""
    await sessions.started(log)
    stop = log.stop

    async def late(*args: Any) -> Any:
        await log.message(SID, "nonce", "body", HELLO, {}, interrupt_by="user")
        return await stop(*args)

    monkeypatch.setattr(node.node.log, "stop", late)
    told: dict[str, Any] = {}
    if transport == "HTTP":
        async with httpx.AsyncClient(base_url=node.url) as client:
            response = await client.post(f"/v1/sessions/{SID}/stop")
        assert response.status_code == 200
        told = response.json()
    elif transport == "WebSocket":
        async with session(node.url, SID) as speaker:
            told = (await speaker.call("stop"))["data"]
    else:
        async with Client(node.url, f"{WS_CHAT}?session={SID}") as speaker:
            await speaker.text("STOP")
            await speaker.event("stopped")
            await speaker.ping()
            assert not speaker.of("error")
    if told:
        assert (told["generation"], told["state"]) == ("g1", "cancelled")
    view = await log.view(SID)
    assert view is not None
    assert (view.generation, view.state, view.stop) == ("g2", State.QUEUED, "")
