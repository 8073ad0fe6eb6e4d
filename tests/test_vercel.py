"""`/api/chat`: what the AI SDK's default transport asks for, over two nodes whose log the test writes."""

import asyncio
import hashlib
import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from shared.events import EventType
from shared.ids import new_session_id
from tests.conformance.fixtures import *  # noqa: F403 - fixtures are found by name
from tests.conformance.scene import Scene, alive, call_a_tool, finish, keep, say, start, stopped, verdict
from tests.support.inprocess import LiveNode
from tests.support.sse import SSE, Severed

pytestmark = pytest.mark.asyncio(loop_scope="module")

WITHIN_S = 20


def user(text: str, id_: str | None = "u1", **more: Any) -> dict[str, Any]:
    return {"id": id_, "role": "user", "parts": [{"type": "text", "text": text}], **more}


def assistant(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": "a", "role": "assistant", "parts": [{"type": "step-start"}, *parts]}


class Chat:
    """One chat, whose requests alternate between the nodes."""

    def __init__(self, nodes: list[LiveNode], scene: Scene) -> None:
        self.scene = scene
        self.id = new_session_id()
        self.urls = [node.url for node in nodes]
        self._count = 0

    @property
    def url(self) -> str:
        self._count += 1
        return self.urls[self._count % 2]

    def post(self, *messages: dict[str, Any], headers: dict[str, str] | None = None, **more: Any) -> SSE:
        body = {"id": self.id, "messages": messages or [user("hello")], "trigger": "submit-message", **more}
        return SSE(
            self.url, "/api/chat", {"content-type": "application/json", **(headers or {})}, json.dumps(body).encode()
        )

    def get(self, query: str = "") -> SSE:
        return SSE(self.url, f"/api/chat/{quote(self.id, safe='')}/stream{query}")

    async def stop(self, **body: Any) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url) as client:
            return await client.post(f"/api/chat/{self.id}/stop", json=body or None)

    async def written(self, *texts: str) -> None:
        """The session is opened and its first answer under way."""
        async with self.post() as stream:
            assert stream.status == 200, stream.body
        self.scene.adopt(self.id)
        await start(self.scene)
        await say(*texts)(self.scene)

    async def asked(self) -> list[str]:
        events = await self.scene.log.events(self.id)
        return [event.value["content"] for event in events if event.type == EventType.MESSAGE]


@pytest.fixture
def chat(nodes: list[LiveNode], scene: Scene) -> Chat:
    return Chat(nodes, scene)


async def whole(stream: SSE) -> list[dict[str, Any]]:
    """Every chunk, to `[DONE]` and the clean end."""
    async with stream, asyncio.timeout(WITHIN_S):
        assert stream.status == 200, (stream.status, stream.body)
        async for _ in stream.chunks():
            pass
    *blocks, done, rest = stream.raw.replace(b": ka\n", b"").split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [json.loads(block.removeprefix(b"data: ")) for block in blocks]


async def until(stream: SSE, said: bytes) -> None:
    """The stream has said it; the connection stays."""
    async with asyncio.timeout(WITHIN_S):
        chunks = stream.chunks()
        while said not in stream.raw:
            await anext(chunks)


async def refused(stream: SSE) -> tuple[int, str, str]:
    async with stream:
        assert stream.headers["content-type"] == "text/plain; charset=utf-8"
        return stream.status, stream.headers["holdfast-error"], stream.body.decode()


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join([chunk["delta"] for chunk in chunks if chunk["type"] == "text-delta"])


# -- asking


async def test_the_first_message_opens_the_session_of_the_chat(chat: Chat) -> None:
    """The chat's id is the session's; the headers are those of the SDK, and name the session."""
    async with chat.post(user("hello"), model="demo/echo", pipeline="research", options={"rate": 0}) as stream:
        assert stream.status == 200
        assert stream.headers["x-vercel-ai-ui-message-stream"] == "v1"
        assert stream.headers["holdfast-session"] == chat.id
    view = await chat.scene.log.view(chat.id)
    assert view is not None
    assert (view.model, view.pipeline, view.options) == ("demo/echo", "research", '{"rate":0}')
    assert await chat.asked() == ["hello"]


async def test_a_chat_with_a_history_brings_it_along(chat: Chat) -> None:
    """System and assistant too; of their parts, the texts."""
    system = {"role": "system", "parts": [{"type": "text", "text": "Be brief."}]}
    spoken = assistant(
        {"type": "text", "text": "One."}, {"type": "tool-look", "state": "x"}, {"type": "text", "text": "Two."}
    )
    silent = assistant({"type": "data-chart", "data": 1})
    async with chat.post(system, user("a"), spoken, silent, user("b", "u2")):
        pass
    events = await chat.scene.log.events(chat.id)
    said = [(event.value["role"], event.value["content"]) for event in events]
    assert said == [("system", "Be brief."), ("user", "a"), ("assistant", "One.\nTwo."), ("user", "b")]


async def test_later_messages_are_turns_of_the_session(chat: Chat) -> None:
    """Of the history that comes along each time, the last one alone counts."""
    await chat.written("Hi")
    await finish(chat.scene)
    async with chat.post(user("forged"), assistant({"type": "text", "text": "forged"}), user("more", "u2")) as stream:
        chat.scene.adopt(chat.id, "g2")
        await start(chat.scene)
        await say("New")(chat.scene)
        await until(stream, b'"delta":"New"')
        assert b'"messageId":"msg_%b_g2"' % chat.id.encode() in stream.raw
        assert b"Hi" not in stream.raw
    assert await chat.asked() == ["hello", "more"]


async def test_a_name_as_the_providers_have_it_gets_its_provider(chat: Chat) -> None:
    """`claude-…` is Anthropic's; one that nobody has is refused."""
    async with chat.post(model="claude-sonnet-4-5"):
        pass
    view = await chat.scene.log.view(chat.id)
    assert view is not None
    assert view.model == "anthropic/claude-sonnet-4-5"
    chat.id = new_session_id()
    assert (await refused(chat.post(model="nobody/x")))[:2] == (422, "unknown_model")


@pytest.mark.parametrize("id_", ["with/slash", "ünicode", "x" * 65, "..a b"])
async def test_any_chat_id_has_a_session(chat: Chat, id_: str) -> None:
    """One that cannot be a session's id has one made of it; it is found again by it."""
    chat.id = id_
    sid = hashlib.sha256(id_.encode()).hexdigest()[:32]
    async with chat.post() as stream:
        assert stream.headers["holdfast-session"] == sid
    chat.scene.adopt(sid)
    await start(chat.scene)
    async with chat.get() as stream:
        await until(stream, b"msg_%b_g1" % sid.encode())


# -- repeats


async def test_the_same_message_again_starts_nothing(chat: Chat) -> None:
    """It gets the same answer, while it is written and afterwards, from either node, in the same bytes."""
    await chat.written("One", " two")
    async with chat.post() as again:
        await until(again, b"two")
        await finish(chat.scene)
        assert text_of(await whole(chat.post())) == "One two"
    sent = []
    for _ in range(4):
        stream = chat.post()
        await whole(stream)
        sent.append(stream.raw)
    assert len(set(sent)) == 1
    assert await chat.asked() == ["hello"]


async def test_an_old_message_again_gets_its_old_answer(chat: Chat) -> None:
    """Though the session has gone on."""
    await chat.written("Old")
    await finish(chat.scene)
    async with chat.post(user("more", "u2")):
        pass
    assert text_of(await whole(chat.post())) == "Old"
    assert await chat.asked() == ["hello", "more"]


async def test_an_edited_message_is_a_new_turn(chat: Chat) -> None:
    """The SDK keeps the id of a message that the user edits."""
    await chat.written("Hi")
    await finish(chat.scene)
    async with chat.post(user("hello, edited"), messageId="u1"):
        pass
    assert await chat.asked() == ["hello", "hello, edited"]


async def test_without_an_id_every_message_is_a_new_one(chat: Chat) -> None:
    """Unless a key says otherwise."""
    key = {"idempotency-key": "k1"}
    async with chat.post(user("a", None), headers=key):
        pass
    async with chat.post(user("a", None), headers=key) as again:
        assert again.status == 200
    assert await chat.asked() == ["a"]
    assert (await refused(chat.post(user("a", None))))[1] == "generation_running"


async def test_regenerating_asks_the_last_message_again(chat: Chat) -> None:
    """Once, however often that request is sent; and again when it is asked for after that."""
    await chat.written("Hi")
    await finish(chat.scene)
    for _ in range(2):
        async with chat.post(trigger="regenerate-message") as stream:
            assert stream.status == 200
    assert await chat.asked() == ["hello", "hello"]
    chat.scene.adopt(chat.id, "g2")
    await start(chat.scene)
    await finish(chat.scene)
    async with chat.post(trigger="regenerate-message"):
        pass
    assert await chat.asked() == ["hello"] * 3


async def test_two_first_messages_at_once_are_one_too_many(chat: Chat) -> None:
    """Of a chat in two tabs: one is asked, the others are told that it is being answered."""
    streams = [chat.post(user("hello", f"u{n}")) for n in range(6)]
    await asyncio.gather(*[stream.open() for stream in streams])
    for stream in streams:
        stream.kill()
    assert sorted(stream.status for stream in streams) == [200] + [422] * 5
    codes = {stream.headers["holdfast-error"] for stream in streams if stream.status == 422}
    assert codes == {"generation_running"}


async def test_many_at_once_start_one_generation(chat: Chat) -> None:
    """The first message of a chat, ten times at the same moment."""
    streams = [chat.post() for _ in range(10)]
    await asyncio.gather(*[stream.open() for stream in streams])
    assert [stream.status for stream in streams] == [200] * 10
    for stream in streams:
        stream.kill()
    assert await chat.asked() == ["hello"]


# -- while it runs


async def test_a_message_during_an_answer_is_refused(chat: Chat) -> None:
    """With the message as the body, as the SDK shows it; unless it says that it interrupts."""
    await chat.written("Hi")
    status, code, message = await refused(chat.post(user("more", "u2")))
    assert (status, code) == (422, "generation_running")
    assert message == "g1 is still running; wait for its end or stop it first"
    async with chat.post(user("more", "u2"), interrupt=True) as stream:
        assert stream.status == 200
    assert await chat.asked() == ["hello", "more"]


async def test_stop_ends_the_answer(chat: Chat) -> None:
    """What was said stays; the stream says abort, and ends cleanly. Again it is no error."""
    await chat.written("Hi")
    async with chat.get() as stream:
        await until(stream, b"Hi")
        stopping = asyncio.create_task(chat.stop(activeStreamId="x"))
        while (await chat.scene.log.view(chat.id)).stop != "g1":  # type: ignore[union-attr] # it is there
            await asyncio.sleep(0)
        await stopped(chat.scene)
        assert (await stopping).json() == {"success": True}
        await until(stream, b'data: {"type":"abort"}')
    assert (await chat.stop()).json() == {"success": True}
    assert (await whole(chat.get("?finished=1")))[-2]["type"] == "abort"


async def test_a_late_stop_spares_the_next_answer(chat: Chat) -> None:
    """Where it names the message it meant."""
    await chat.written("Hi")
    await finish(chat.scene)
    async with chat.post(user("more", "u2")):
        pass
    assert (await chat.stop(assistantMessage={"id": f"msg_{chat.id}_g1", "parts": []})).json() == {"success": True}
    view = await chat.scene.log.view(chat.id)
    assert view is not None
    assert (view.state, view.generation) == ("queued", "g2")


# -- coming back


async def test_coming_back_replays_the_message_from_its_start(chat: Chat) -> None:
    """With the same id; what follows comes live. Both nodes send the same."""
    await chat.written("One", " two")
    async with chat.get() as one, chat.get() as other:
        for stream in (one, other):
            await until(stream, b"two")
        await say(" three")(chat.scene)
        await finish(chat.scene)
        for stream in (one, other):
            await until(stream, b"[DONE]")
        assert one.raw == other.raw
        assert one.raw.count(b'{"type":"start","messageId":"msg_%b_g1"}' % chat.id.encode()) == 1


async def test_where_nothing_runs_there_is_nothing_to_come_back_to(chat: Chat) -> None:
    """204: for a chat nobody knows, and after the end; with `finished` the whole answer after all."""
    async with chat.get() as stream:
        assert stream.status == 204
    await chat.written("Hi")
    await finish(chat.scene)
    async with chat.get() as stream:
        assert stream.status == 204
    assert text_of(await whole(chat.get("?finished=1"))) == "Hi"


async def test_of_a_long_session_only_the_answer_of_now_comes(chat: Chat) -> None:
    """Not the turns before it."""
    await chat.written("Old")
    await finish(chat.scene)
    async with chat.post(user("more", "u2")):
        pass
    chat.scene.adopt(chat.id, "g2")
    await start(chat.scene)
    await say("New")(chat.scene)
    async with chat.get() as stream:
        await until(stream, b"New")
        assert b"Old" not in stream.raw


async def test_coming_back_before_it_begins_waits_for_it(chat: Chat) -> None:
    """A generation that no worker has taken yet, and that is stopped before one does."""
    async with chat.post():
        pass
    async with chat.get() as stream:
        assert stream.status == 200
        assert (await chat.stop()).json() == {"success": True}
        await until(stream, b"[DONE]")
        assert b'"type":"abort"' in stream.raw


# -- another attempt


async def test_another_attempt_cuts_who_heard_the_first(chat: Chat) -> None:
    """Not a clean end: that would be success. Who comes back hears the new one alone, from its start."""
    await chat.written("Void")
    async with chat.get() as stream:
        await until(stream, b"Void")
        await chat.scene.crash()
        await start(chat.scene)
        await say("Valid")(chat.scene)
        with pytest.raises(Severed):
            await until(stream, b"[DONE]")
        assert b"Valid" not in stream.raw
    await call_a_tool(chat.scene)
    await finish(chat.scene)
    for replay in (chat.get("?finished=1"), chat.post()):
        chunks = await whole(replay)
        assert text_of(chunks) == "Valid"
        assert [chunk["type"] for chunk in chunks].count("start") == 1


async def test_between_two_attempts_nothing_void_is_told(chat: Chat) -> None:
    """Who comes back while the next worker is awaited."""
    await chat.written("Void")
    await chat.scene.crash()
    async with chat.get() as stream:
        assert stream.status == 200
        await start(chat.scene)
        await say("Valid")(chat.scene)
        await until(stream, b"Valid")
        assert b"Void" not in stream.raw


async def test_after_a_verdict_the_last_attempt_is_what_was_said(chat: Chat) -> None:
    """Both workers were lost: what the second one said, and the error."""
    await chat.written("Void")
    await chat.scene.crash()
    await start(chat.scene)
    await say("Valid")(chat.scene)
    await verdict(chat.scene)
    chunks = await whole(chat.get("?finished=1"))
    assert (text_of(chunks), chunks[-1]["type"]) == ("Valid", "error")


async def test_an_answer_that_never_began_is_not_the_one_before(chat: Chat) -> None:
    """Stopped while it waited for a worker."""
    await chat.written("Old")
    await finish(chat.scene)
    async with chat.post(user("more", "u2")):
        pass
    assert (await chat.stop()).json() == {"success": True}
    assert [chunk["type"] for chunk in await whole(chat.get("?finished=1"))][-2:] == ["abort", "finish"]
    assert text_of(await whole(chat.get("?finished=1"))) == ""


# -- ends that are none


async def test_a_failure_is_told_as_an_error(chat: Chat) -> None:
    """After what was said; never as a finish."""
    await chat.written("Hal")
    await chat.scene.end(EventType.FAILED, code="overloaded", message="Try later", retryable=True)
    chunks = await whole(chat.post())
    assert chunks[-1] == {"type": "error", "errorText": "Try later"}
    assert "finish" not in [chunk["type"] for chunk in chunks]


async def test_a_head_that_is_lost_cuts_the_stream(chat: Chat) -> None:
    """The message cannot be told from its start any more."""
    await chat.written("a", "b", "c")
    await alive(chat.scene)
    await keep(1)(chat.scene)
    async with chat.get() as stream:
        with pytest.raises(Severed):
            await until(stream, b"[DONE]")
        assert b'"finish"' not in stream.raw


# -- refusals

FILE = {"type": "file", "mediaType": "image/png", "url": "data:,"}


@pytest.mark.parametrize(
    ("messages", "more", "status", "names"),
    [
        ([user("x", parts=[FILE, {"type": "text", "text": "x"}])], {}, 400, "file"),
        ([user("x"), assistant()], {}, 400, "messages"),
        ([user("")], {}, 400, "messages"),
        ([user("\ud800")], {}, 400, "text"),
        ([user("x", "\ud800")], {}, 400, "id"),
        ([user("x", role="robot")], {}, 400, "role"),
        ([user("x")], {"tools": [{"name": "t"}]}, 400, "tools"),
        ([user("x")], {"system": "Be brief"}, 400, "system"),
        ([user("x")], {"trigger": "resume-stream"}, 400, "trigger"),
        ([user("x")], {"pipeline": "a b"}, 400, "pipeline"),
        ([user("x")], {"id": ""}, 400, "id"),
    ],
    ids=ascii,
)
async def test_what_cannot_be_followed_is_refused_by_name(
    chat: Chat, messages: list[dict[str, Any]], more: dict[str, Any], status: int, names: str
) -> None:
    """And nothing is started; what else an app sends along is its own business."""
    refusal = await refused(chat.post(*messages, **more))
    assert refusal[0] == status
    assert names in refusal[2]
    assert await chat.scene.sessions() == 0
    async with chat.post(userId=7, metadata={}) as stream:
        assert stream.status == 200


async def test_a_chat_keeps_its_pipeline(chat: Chat) -> None:
    """Another one is refused; the same one again is what a page sends each time."""
    async with chat.post(pipeline="research"):
        pass
    assert (await chat.stop()).status_code == 200
    assert (await refused(chat.post(user("more", "u2"), pipeline="trip")))[:2] == (400, "invalid_request")
    async with chat.post(user("more", "u2"), pipeline="research") as stream:
        assert stream.status == 200


async def test_an_expired_chat_is_said_to_be_expired(chat: Chat) -> None:
    """A message gets 410; to come back, there is nothing."""
    await chat.written("Hi")
    await finish(chat.scene)
    await chat.scene.expire()
    assert (await refused(chat.post(user("more", "u2"))))[:2] == (410, "session_expired")
    assert (await refused(chat.post()))[:2] == (410, "session_expired")
    for query in ("", "?finished=1"):
        async with chat.get(query) as stream:
            assert stream.status == 204


async def test_to_stop_a_chat_that_nobody_knows_is_an_error(chat: Chat) -> None:
    """404, as text."""
    response = await chat.stop()
    assert (response.status_code, response.headers["holdfast-error"]) == (404, "session_not_found")
