"""`/api/chat/stream`: session and stream in one call, which may be repeated, and cut, without asking twice."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_asyncio

from shared import keys
from shared.errors import SessionNotFound
from shared.events import EventType
from shared.log import Log
from tests.conformance.fixtures import *  # noqa: F403 - fixtures are found by name
from tests.conformance.scene import Scene, start
from tests.conformance.transports import CHAT
from tests.support.inprocess import LiveNode, live_worker
from tests.support.sse import SSE, Frame, Severed, read_all, text_of
from tests.support.system import create
from tests.support.workers import job_ids
from worker.providers.demo import lorem

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = {"message": "Hello"}
NOWHERE = "0" * 24
WITHIN_S = 20


class Asked:
    """Requests to the one-call forms, alternating between the nodes."""

    def __init__(self, nodes: list[LiveNode], scene: Scene) -> None:
        self.log: Log = scene.log
        self.scene = scene
        self._urls = [node.url for node in nodes]
        self._count = 0

    @property
    def url(self) -> str:
        self._count += 1
        return self._urls[self._count % 2]

    def get(self, headers: dict[str, str] | None = None, **query: str) -> SSE:
        return SSE(self.url, f"{CHAT}?{urlencode(query)}", headers)

    def post(self, body: Any, headers: dict[str, str] | None = None, **query: str) -> SSE:
        return SSE(self.url, f"{CHAT}?{urlencode(query)}", headers, post=json.dumps(body).encode())

    async def runs(self) -> int:
        """Generations that were ever asked for, of all sessions."""
        redis, count = self.scene.redis, 0
        async for key in redis.scan_iter(keys.session("*"), count=1000):
            count += int((await redis.hget(key, "generation") or b"g0")[1:])
        return count


@pytest.fixture
def asked(nodes: list[LiveNode], scene: Scene) -> Asked:
    return Asked(nodes, scene)


@pytest_asyncio.fixture(loop_scope="module")
async def worker(asked: Asked, nodes: list[LiveNode]) -> AsyncIterator[None]:
    async with live_worker(nodes[0].node.settings.redis_url):
        yield


def session_of(stream: SSE) -> str:
    assert stream.status == 200, (stream.status, stream.body)
    return stream.headers["holdfast-session"]


async def whole(stream: SSE) -> list[Frame]:
    """Every frame to the clean end; closes the connection."""
    async with stream, asyncio.timeout(WITHIN_S):
        assert stream.status == 200, (stream.status, stream.body)
        return [frame async for frame in stream.frames()]


async def refused(stream: SSE) -> tuple[int, str]:
    async with stream:
        assert "holdfast-session" not in stream.headers
        return stream.status, json.loads(stream.body)["error"]["code"]


def ids(frames: list[Frame]) -> list[str]:
    return [frame.id for frame in frames if frame.id]


# -- asking


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("form", ["GET", "POST"])
async def test_one_call_asks_and_streams_the_answer(asked: Asked, form: str) -> None:
    """The events of a new session from its first on, as over SSE; ids and a header name it."""
    model = "demo/echo"
    stream = (
        asked.get(message="Hello", model=model)
        if form == "GET"
        else asked.post({**HELLO, "model": model, "options": {"rate": 0}})
    )
    frames = await whole(stream)
    sid = session_of(stream)
    log = await asked.log.events(sid)
    assert log[0].value["content"] == "Hello"
    native = await read_all(asked.url, sid)
    assert text_of(frames) == text_of(native) != ""
    assert {frame.id.rpartition("/")[0] for frame in frames if frame.id} == {sid}
    assert frames[-1].id == f"{sid}/{log[-1].id}"
    assert [f.type for f in frames if f.type not in ("text.delta", "caught_up")] == [
        f.type for f in native if f.type != "text.delta"
    ]
    assert await asked.runs() == 1


async def test_a_post_may_say_its_message_in_the_url(asked: Asked) -> None:
    """Without a body, as `curl -X POST` sends it."""
    async with asked.post(None, message="Hello") as stream:
        frame = await anext(stream.frames())
    assert (frame.id.partition("/")[0], frame.data["content"]) == (session_of(stream), "Hello")


@pytest.mark.usefixtures("worker")
async def test_what_is_asked_with_is_what_runs(asked: Asked) -> None:
    """Model, options and pipeline of a JSON body are those of the session."""
    frames = await whole(asked.post({**HELLO, "model": "demo/lorem", "options": {"tokens": 7, "seed": 5}}))
    assert text_of(frames) == "".join(lorem(7, 5))


async def test_a_post_takes_everything_by_url_too(asked: Asked) -> None:
    """The same as a GET; but not two questions at once."""
    async with asked.post(None, message="Hello", model="demo/echo", pipeline="research") as stream:
        view = await asked.log.view(session_of(stream))
    assert view is not None
    assert (view.model, view.pipeline) == ("demo/echo", "research")
    assert await refused(asked.post(HELLO, message="Hello")) == (400, "invalid_request")
    assert await asked.runs() == 1


async def test_each_event_arrives_when_it_is_appended(asked: Asked) -> None:
    """Nothing waits for what comes after it: the next event is appended only once this one has been read."""
    async with asked.get(message="Hello") as stream, asyncio.timeout(WITHIN_S):
        scene, frames = asked.scene, stream.frames()
        scene.sid = session_of(stream)
        assert (await anext(frames)).type == "message"
        assert (await anext(frames)).type == "caught_up"
        await start(scene)
        for n in range(50):
            assert (await anext(frames)).id == f"{scene.sid}/{scene.last}"
            await scene.append(EventType.TEXT, text=f"{n} ")
        assert (await anext(frames)).data == {"text": "49 "}
        await scene.end(EventType.COMPLETED, finish_reason="stop")
        assert [frame.type async for frame in frames] == ["generation.completed"]


@pytest.mark.usefixtures("worker")
async def test_a_client_that_goes_does_not_stop_its_generation(asked: Asked) -> None:
    """It vanishes after the first word; the answer is completed to the last."""
    async with asked.post({**HELLO, "options": {"tokens": 60, "rate": 150}}) as stream:
        sid = session_of(stream)
        async for frame in stream.frames():
            if frame.type == "text.delta":
                break
    assert (await asked.log.events(sid))[-1].type != "generation.completed"
    frames = await read_all(asked.url, sid)
    assert (frames[-1].type, text_of(frames)) == ("generation.completed", "".join(lorem(60)))


# -- coming back


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("form", ["GET", "POST"])
@pytest.mark.parametrize("by", ["header", "after"])
async def test_coming_back_with_the_last_id_asks_nothing(asked: Asked, form: str, by: str) -> None:
    """The same request with a cursor, again and again, on either node: the rest of one answer; then 204 for good."""
    got: list[Frame] = []
    opening = {**HELLO, "options": {"tokens": 60, "rate": 150}}
    stream = asked.post(opening)
    over = False
    async with asyncio.timeout(WITHIN_S):
        while not over:
            async with stream:
                assert stream.status in (200, 204)
                over = stream.status == 204
                if not over:
                    got += [frame async for frame in some(stream, 3)]
            cursor = ids(got)[-1]
            headers = {"Last-Event-ID": cursor} if by == "header" else {}
            query = {"after": cursor} if by == "after" else {}
            stream = (
                asked.get(headers, message="Hello", **query) if form == "GET" else asked.post(opening, headers, **query)
            )
    assert text_of(got) == "".join(lorem(60))
    assert len(set(ids(got))) == len(ids(got))
    assert await asked.runs() == 1


async def some(stream: SSE, most: int) -> AsyncIterator[Frame]:
    """The first frames; fewer where the stream ends."""
    async for frame in stream.frames():
        yield frame
        most -= 1
        if not most:
            return


CURSORS = {
    "malformed": ("{sid}/nonsense", 400, "invalid_last_event_id"),
    "without the session": ("1-1", 400, "invalid_last_event_id"),
    "empty": ("", 400, "invalid_last_event_id"),
    "of an unknown session": (f"{NOWHERE}/1-1", 404, "session_not_found"),
    "of an expired one": ("{sid}/1-1", 410, "session_expired"),
    "of a deleted one": ("{sid}/1-1", 404, "session_not_found"),
}


@pytest.mark.parametrize("which", CURSORS)
@pytest.mark.parametrize("form", ["GET", "POST"])
@pytest.mark.parametrize("by", ["header", "after"])
async def test_a_cursor_that_leads_nowhere_asks_nothing(asked: Asked, which: str, form: str, by: str) -> None:
    """It is refused, though the request says a message and a key too; no generation is there that was not before."""
    scene = asked.scene
    await scene.open()
    await start(scene)
    await scene.end(EventType.COMPLETED, finish_reason="stop")
    if "expired" in which:
        await scene.expire()
    if "deleted" in which:
        await scene.delete()
    before = (await asked.runs(), await scene.sessions())
    template, status, code = CURSORS[which]
    cursor = template.format(sid=scene.sid)
    headers = {"Last-Event-ID": cursor} if by == "header" else {}
    query = {"after": cursor} if by == "after" else {}
    stream = (
        asked.get(headers, message="Hello", key="k", **query) if form == "GET" else asked.post(HELLO, headers, **query)
    )
    assert await refused(stream) == (status, code)
    assert (await asked.runs(), await scene.sessions()) == before
    assert await job_ids(scene.redis) == []


async def test_the_header_wins_over_after(asked: Asked) -> None:
    """An EventSource keeps its URL: the newer cursor is in the header."""
    await asked.scene.open()
    await start(asked.scene)
    await asked.scene.end(EventType.COMPLETED, finish_reason="stop")
    sid, last = asked.scene.sid, asked.scene.last
    frames = await whole(asked.get({"Last-Event-ID": f"{sid}/{last.epoch}-1"}, message="Hello", after=f"{sid}/0-0"))
    assert ids(frames) == [f"{sid}/{last}"]


async def test_a_cursor_of_another_session_resumes_that_one(asked: Asked) -> None:
    """The cursor names the session, whatever the rest of the request says."""
    other = await create(asked.url)
    await asked.scene.open()
    cursor = f"{asked.scene.sid}/0-0"
    async with asked.get({"Last-Event-ID": cursor}, message="Hello", session=other) as stream:
        assert session_of(stream) == asked.scene.sid
        assert (await anext(stream.frames())).id == f"{asked.scene.sid}/{asked.scene.last}"
    assert await asked.runs() == 2


# -- keys


@pytest.mark.parametrize("form", ["GET ?key=", "POST ?key=", "GET Idempotency-Key", "POST Idempotency-Key"])
async def test_repeats_with_one_key_ask_once(asked: Asked, form: str) -> None:
    """Ten at once, on both nodes, and one later: one session and one job; each gets all of it."""

    def again() -> SSE:
        if form == "GET ?key=":
            return asked.get(message="Hello", key="k1")
        if form == "POST ?key=":
            return asked.post(None, message="Hello", key="k1")
        headers = {"Idempotency-Key": "k1"}
        return asked.get(headers, message="Hello") if form.startswith("GET") else asked.post(HELLO, headers)

    streams = await asyncio.gather(*(again().open() for _ in range(10)))
    (asked.scene.sid,) = {session_of(stream) for stream in streams}
    assert len(await job_ids(asked.scene.redis)) == await asked.runs() == 1
    await start(asked.scene)
    await asked.scene.append(EventType.TEXT, text="so")
    streams.append(await again().open())
    await asked.scene.end(EventType.COMPLETED, finish_reason="stop")
    streams.append(await again().open())
    async with asyncio.timeout(WITHIN_S):
        for stream in streams:
            frames = [frame async for frame in stream.frames() if frame.id]
            stream.kill()
            assert ([frame.type for frame in frames], text_of(frames)) == (
                ["message", "generation.started", "text.delta", "generation.completed"],
                "so",
            )
    assert await asked.runs() == 1


async def test_another_message_with_the_same_key_is_refused(asked: Asked) -> None:
    """422, and what the key stands for is left alone."""
    async with asked.get(message="Hello", key="k1") as stream:
        sid = session_of(stream)
    for stream in (
        asked.get(message="Goodbye", key="k1"),
        asked.get(message="Hello", key="k1", model="demo/echo"),
        asked.post({"message": "Goodbye"}, {"Idempotency-Key": "k1"}),
    ):
        assert await refused(stream) == (422, "idempotency_key_reused")
    assert await asked.runs() == 1
    assert [event.value["content"] for event in await asked.log.events(sid)] == ["Hello"]


async def test_without_a_key_each_call_asks(asked: Asked) -> None:
    """Two calls, two sessions: nothing else is a key."""
    found = set()
    for _ in range(2):
        async with asked.get(message="Hello") as stream:
            found.add(session_of(stream))
    assert len(found) == await asked.runs() == 2


async def test_a_repeat_with_the_key_of_a_deleted_session_does_not_bring_it_back(asked: Asked) -> None:
    """410; and nothing runs."""
    async with asked.get(message="Hello", key="k1") as stream:
        sid = session_of(stream)
    await asked.log.delete(sid)
    assert await refused(asked.get(message="Hello", key="k1")) == (410, "session_deleted")
    with pytest.raises(SessionNotFound):
        await asked.log.stop(sid, "user", "")


# -- the next turn


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("form", ["GET", "POST"])
async def test_the_next_turn_is_asked_in_its_session(asked: Asked, form: str) -> None:
    """Only that turn is streamed; a cut in it resumes it; a repeat with its key gets it again."""
    first = asked.post({**HELLO, "model": "demo/echo", "options": {"rate": 0}})
    await whole(first)
    sid = session_of(first)

    def again(headers: dict[str, str]) -> SSE:
        if form == "GET":
            return asked.get(headers, message="And now", session=sid, key="k2")
        return asked.post({"message": "And now", "session": sid}, {"Idempotency-Key": "k2", **headers})

    once, twice = await whole(again({})), await whole(again({}))
    for frames in (once, twice):
        assert text_of(frames) == "And now"
        assert frames[-1].data["generation"] == "g2"
    assert ids(once)[-1] == ids(twice)[-1]
    rest = await whole(again({"Last-Event-ID": ids(once)[0]}))
    assert ids(rest)[-1] == ids(once)[-1]
    assert await asked.runs() == 2


async def test_the_next_turn_waits_its_turn_or_interrupts(asked: Asked) -> None:
    """While an answer is being written: 422; with `interrupt` that one ends, and this one begins."""
    scene = asked.scene
    await scene.open()
    await start(scene)
    body = {"message": "And now", "session": scene.sid}
    assert await refused(asked.post(body)) == (422, "generation_running")
    assert await refused(asked.get(message="And now", session=scene.sid)) == (422, "generation_running")
    async with asked.post({**body, "interrupt": True}) as stream:
        assert session_of(stream) == scene.sid
        types = [event.type for event in await asked.log.events(scene.sid)]
    assert types == ["message", "generation.started", "generation.cancelled", "message"]
    assert await asked.runs() == 2


async def test_the_next_turn_needs_a_session_that_is_there(asked: Asked) -> None:
    """Unknown 404, expired 410; asking starts no other one."""
    await asked.scene.open()
    await start(asked.scene)
    await asked.scene.end(EventType.COMPLETED, finish_reason="stop")
    await asked.scene.expire()
    for sid, answer in ((NOWHERE, (404, "session_not_found")), (asked.scene.sid, (410, "session_expired"))):
        assert await refused(asked.get(message="And now", session=sid)) == answer
        assert await refused(asked.post({"message": "And now", "session": sid})) == answer
    assert await asked.runs() == 1


# -- what is refused


async def test_asking_nothing_is_refused(asked: Asked) -> None:
    """400 or 422 with a code, before any byte of a stream, and nothing is there afterwards."""
    for stream in (asked.get(), asked.post(None)):
        assert await refused(stream) == (400, "invalid_request")
    for stream in (
        asked.get(message=""), asked.post({}), asked.post({"message": ""}), asked.post({"message": "hi", "more": 1}),
        asked.get(message="hi", session="a b"), asked.get(message="hi", key="k" * 256),
    ):  # fmt: skip
        assert await refused(stream) == (422, "invalid_request")
    assert await asked.scene.sessions() == 0


async def test_an_unknown_model_is_refused_before_any_byte_of_a_stream(asked: Asked) -> None:
    """422 with its code, and no session."""
    assert await refused(asked.get(message="Hello", model="nobody/nothing")) == (422, "unknown_model")
    assert await refused(asked.post({**HELLO, "model": "nobody/nothing"})) == (422, "unknown_model")
    assert await asked.scene.sessions() == 0


async def test_a_stream_whose_session_is_deleted_is_no_clean_end(asked: Asked) -> None:
    """Cut, so that it does not look complete; the client comes back with its cursor, and is told 404."""
    async with asked.get(message="Hello") as stream, asyncio.timeout(WITHIN_S):
        frames = stream.frames()
        last = (await anext(frames)).id
        assert (await anext(frames)).type == "caught_up"
        await asked.log.delete(session_of(stream))
        with pytest.raises(Severed):
            await anext(frames)
    assert await refused(asked.get({"Last-Event-ID": last}, message="Hello")) == (404, "session_not_found")
    assert await asked.runs() == 0
