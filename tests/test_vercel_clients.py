"""The AI SDK's own chats, of three versions, in Node: cut, resumed, stopped, refused; and its WebSocket transport."""

import asyncio
import random
from collections.abc import AsyncIterator
from itertools import cycle
from typing import Any

import pytest
import pytest_asyncio

from api.compat import vercel_socket
from shared.events import EventType
from shared.ids import new_session_id
from tests.conformance.fixtures import *  # noqa: F403 - fixtures are found by name
from tests.conformance.scene import Scene, call_a_tool, finish, say, start, stopped
from tests.support.cutting import cutting
from tests.support.inprocess import LiveNode, live_worker
from tests.support.ui_chat import Shown, UiChat, ui_chat
from tests.support.ws import WS, Closed, Message
from worker.providers.demo import lorem

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVERY_CLIENT = pytest.mark.parametrize(("version", "kind"), [(5, "http"), (6, "http"), (7, "http"), (7, "ws")])
PATH = "/api/chat/ws"
WORDS = lorem(50_000, 7)
CUTS = 10


def port_of(node: LiveNode) -> int:
    return int(node.url.rpartition(":")[2])


async def until(scene: Scene, sid: str, state: str = "queued", stop: str = "") -> None:
    """Somebody else brings the session there."""
    async with asyncio.timeout(20):
        while (view := await scene.log.view(sid)) is None or (view.state, view.stop) != (state, stop):
            await asyncio.sleep(0.005)


@pytest_asyncio.fixture(loop_scope="module")
async def worker(nodes: list[LiveNode], scene: Scene) -> AsyncIterator[None]:
    async with live_worker(nodes[0].node.settings.redis_url):
        yield


async def opened(chat: UiChat, scene: Scene, sid: str, *texts: str) -> "asyncio.Future[Shown]":
    """A message is sent, and the answer under way."""
    sending = chat.begin("send", "hello")
    await until(scene, sid)
    scene.adopt(sid)
    await start(scene)
    await say(*texts)(scene)
    return sending


# -- every client


@EVERY_CLIENT
async def test_cut_at_ten_random_points_the_message_is_whole(
    nodes: list[LiveNode], scene: Scene, version: int, kind: str
) -> None:
    """Each resume goes to the other node, and is cut too: in the end nothing is missing, and nothing is there twice."""
    source = random.Random(version * 10 + len(kind))
    budgets = iter([source.randrange(300, 3000) for _ in range(CUTS)])
    said: list[str] = []
    sid = new_session_id()

    async def go_on(until_over: "asyncio.Future[Shown]") -> Shown:
        """The answer is written on until the client is cut off."""
        while not until_over.done():
            said.append(WORDS[len(said)])
            await say(said[-1])(scene)
        return await until_over

    async with (
        cutting(cycle(map(port_of, nodes)), budgets) as net,
        ui_chat(net.url, sid, version, kind) as chat,
        asyncio.timeout(30),
    ):
        shown = await go_on(await opened(chat, scene, sid))
        while net.cuts < CUTS:
            assert (shown.status, shown.messages[0]["role"]) == ("error", "user")
            shown = await go_on(chat.begin("resume"))
        last = chat.begin("resume")
        await chat.call("said", len("".join(said)))
        await finish(scene)
        shown = await last
        assert (shown.status, shown.error) == ("ready", None)
        assert shown.texts == ["hello", "".join(said)]
        assert [message["id"] for message in shown.messages][1:] == [f"msg_{sid}_g1"]


@EVERY_CLIENT
async def test_what_a_generation_says_is_in_the_message(
    nodes: list[LiveNode], scene: Scene, version: int, kind: str
) -> None:
    """Reasoning, tools with their results, sources and data are parts of it."""
    sid = new_session_id()
    async with ui_chat(nodes[0].url, sid, version, kind) as chat, asyncio.timeout(30):
        sending = await opened(chat, scene, sid)
        await scene.append(EventType.REASONING, text="Hm.")
        await call_a_tool(scene)
        await scene.append(EventType.TOOL_RESULT, id="c1", output={"waves": 2}, error=None)
        await say("Two waves.")(scene)
        await scene.append(EventType.SOURCE, title="The sea", url="https://example.com/sea")
        await scene.append(EventType.DATA, name="height", value=3)
        await finish(scene)
        parts = {part["type"]: part for part in (await sending).messages[-1]["parts"]}
        tool = parts["tool-look"]
        assert (tool["state"], tool["input"], tool["output"]) == ("output-available", {"at": "the sea"}, {"waves": 2})
        assert parts["reasoning"]["text"] == "Hm."
        assert parts["source-url"]["title"] == "The sea"
        assert parts["data-height"]["data"] == 3
        assert (parts["text"]["text"], parts["text"]["state"]) == ("Two waves.", "done")


@EVERY_CLIENT
async def test_a_failed_generation_is_an_error(nodes: list[LiveNode], scene: Scene, version: int, kind: str) -> None:
    """With the provider's words; what was said before stays."""
    sid = new_session_id()
    async with ui_chat(nodes[0].url, sid, version, kind) as chat, asyncio.timeout(30):
        sending = await opened(chat, scene, sid, "Hal")
        await scene.end(EventType.FAILED, code="overloaded", message="Try later", retryable=True)
        shown = await sending
        assert (shown.status, shown.error, shown.texts[-1]) == ("error", "Try later", "Hal")


@EVERY_CLIENT
async def test_a_refusal_is_an_error(nodes: list[LiveNode], scene: Scene, version: int, kind: str) -> None:
    """Its message is what the user reads."""
    sid = new_session_id()
    async with ui_chat(nodes[0].url, sid, version, kind) as chat, asyncio.timeout(30):
        shown = await chat.call("send", "hello", {"model": "nobody/x"})
        assert shown.status == "error"
        assert shown.error is not None
        assert shown.error.startswith("unknown model 'nobody/x'")


@EVERY_CLIENT
@pytest.mark.usefixtures("worker")
async def test_a_conversation_goes_on_over_turns(nodes: list[LiveNode], version: int, kind: str) -> None:
    """By a real worker; a message answers the last one, and to regenerate asks it again."""
    sid = new_session_id()
    async with ui_chat(nodes[0].url, sid, version, kind) as chat:
        body = {"model": "demo/echo", "options": {"rate": 0}}
        await chat.call("send", "one", body)
        shown = await chat.call("send", "two", body)
        assert (shown.status, shown.texts) == ("ready", ["one", "one", "two", "two"])
        shown = await chat.call("regenerate", {"model": "demo/lorem", "options": {"tokens": 3}})
        assert (shown.status, shown.texts) == ("ready", ["one", "one", "two", "".join(lorem(3, 0))])
        assert [message["id"] for message in shown.messages if message["role"] == "assistant"] == [
            f"msg_{sid}_g1",
            f"msg_{sid}_g3",
        ]


@pytest.mark.parametrize("version", [5, 6, 7])
async def test_over_http_stop_alone_stops_nothing(nodes: list[LiveNode], scene: Scene, version: int) -> None:
    """It closes the connection: the answer goes on, and can be resumed."""
    sid = new_session_id()
    async with ui_chat(nodes[0].url, sid, version) as chat, asyncio.timeout(30):
        sending = await opened(chat, scene, sid, "Hal")
        await chat.call("said", 3)
        await chat.call("stop")
        assert (await sending).status == "ready"
        await say("lo")(scene)
        resuming = chat.begin("resume")
        await chat.call("said", 5)
        await finish(scene)
        assert (await resuming).texts == ["hello", "Hallo"]


async def test_what_ended_meanwhile_can_be_had_whole(nodes: list[LiveNode], scene: Scene) -> None:
    """By `?finished=true` in the URL of the reconnect; without it a cut-off message would look complete."""
    sid = new_session_id()
    async with (
        cutting(cycle(map(port_of, nodes)), iter([1000])) as net,
        ui_chat(net.url, sid, query="?finished=true") as chat,
        asyncio.timeout(30),
    ):
        shown = await (await opened(chat, scene, sid, *WORDS[:50]))
        assert shown.status == "error"
        await finish(scene)
        shown = await chat.call("resume")
        assert (shown.status, shown.texts) == ("ready", ["hello", "".join(WORDS[:50])])


# -- the WebSocket transport


async def test_over_a_socket_stop_stops_the_generation(nodes: list[LiveNode], scene: Scene) -> None:
    """The transport says `abort`."""
    sid = new_session_id()
    async with ui_chat(nodes[0].url, sid, kind="ws") as chat, asyncio.timeout(30):
        sending = await opened(chat, scene, sid, "Hal")
        await chat.call("said", 3)
        await chat.call("stop")
        assert (await sending).status == "ready"
        await until(scene, sid, "running", stop="g1")
        await stopped(scene)
        assert (await chat.call("resume")).texts == ["hello", "Hal"]


async def test_over_a_socket_another_attempt_begins_anew(nodes: list[LiveNode], scene: Scene) -> None:
    """In the same stream: what the first one said is gone, and nothing was cut."""
    sid = new_session_id()
    async with ui_chat(nodes[0].url, sid, kind="ws") as chat, asyncio.timeout(30):
        sending = await opened(chat, scene, sid, "Void")
        await chat.call("said", 4)
        await scene.crash()
        await start(scene)
        await say("Valid")(scene)
        await finish(scene)
        shown = await sending
        assert (shown.status, shown.texts) == ("ready", ["hello", "Valid"])


async def test_over_a_socket_a_lost_round_of_tools_cuts(nodes: list[LiveNode], scene: Scene) -> None:
    """Earlier steps cannot be taken back: the connection is lost, and what is resumed is the new attempt alone."""
    sid = new_session_id()
    async with ui_chat(nodes[0].url, sid, kind="ws") as chat, asyncio.timeout(30):
        sending = await opened(chat, scene, sid)
        await call_a_tool(scene)
        await scene.append(EventType.TOOL_RESULT, id="c1", output=2, error=None)
        await say("Void")(scene)
        await chat.call("said", 4)
        await scene.crash()
        await start(scene)
        await say("Valid")(scene)
        shown = await sending
        assert (shown.status, shown.disconnected) == ("error", True)
        resuming = chat.begin("resume")
        await chat.call("said", 5)
        await finish(scene)
        resumed = await resuming
        assert (resumed.status, resumed.texts) == ("ready", ["hello", "Valid"])
        assert [part["type"] for part in resumed.messages[-1]["parts"]] == ["step-start", "text"]


async def test_a_request_id_in_use_closes_the_socket(nodes: list[LiveNode]) -> None:
    """The transport could not tell the two streams apart."""
    async with WS(nodes[0].url, PATH) as socket, asyncio.timeout(20):
        for _ in range(2):
            await socket.send(**send("r1", new_session_id()))
        with pytest.raises(Closed) as closed:
            await socket.until("end")
        assert closed.value.code == 4400


async def test_requests_of_one_socket_do_not_wait_for_each_other(nodes: list[LiveNode], scene: Scene) -> None:
    """Two chats over one socket: the second is answered while the first still runs."""
    one, two = new_session_id(), new_session_id()
    async with WS(nodes[0].url, PATH) as socket, asyncio.timeout(20):
        for request, sid in (("r1", one), ("r2", two)):
            await socket.send(**send(request, sid))
            assert await socket.get() == {"type": "start", "requestId": request}
        scene.adopt(two)
        await start(scene)
        await say("Hi")(scene)
        await finish(scene)
        frames = await socket.until("end")
        assert {frame["requestId"] for frame in frames} == {"r2"}
        assert [frame["sequence"] for frame in frames[:-1]] == list(range(len(frames) - 1))


async def test_requests_of_one_socket_are_bounded(nodes: list[LiveNode], monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is refused, and the others go on."""
    monkeypatch.setattr(vercel_socket, "MOST", 2)
    async with WS(nodes[0].url, PATH) as socket, asyncio.timeout(20):
        for n in range(3):
            await socket.send(**send(f"r{n}", new_session_id()))
        frames = [await socket.get() for _ in range(3)]
        assert {(f["type"], f["requestId"]) for f in frames} == {("start", "r0"), ("start", "r1"), ("error", "r2")}


async def test_where_nothing_runs_there_is_no_active_stream(nodes: list[LiveNode]) -> None:
    """For a chat nobody knows; and an abort of what is not there is no error."""
    async with WS(nodes[0].url, PATH) as socket, asyncio.timeout(20):
        await socket.send(type="abort", requestId="r0")
        await socket.send(type="resume", requestId="r1", id=new_session_id(), headers={}, body={})
        assert await socket.get() == {"type": "no-active", "requestId": "r1"}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"type":"send"}', '{"type":"x","requestId":"r"}', "\u2028"])
async def test_a_frame_that_is_none_closes_the_socket(nodes: list[LiveNode], text: str) -> None:
    """The transport knows no answer to it."""
    async with WS(nodes[0].url, PATH) as socket, asyncio.timeout(20):
        await socket.text(text)
        with pytest.raises(Closed) as closed:
            await socket.get()
        assert closed.value.code == 4400


async def test_a_request_that_is_refused_leaves_the_socket_open(nodes: list[LiveNode]) -> None:
    """The error bears its requestId."""
    async with WS(nodes[0].url, PATH) as socket, asyncio.timeout(20):
        await socket.send(**{**send("r1", new_session_id()), "messages": [{"role": "user"}]})
        frame = await socket.get()
        assert (frame["type"], frame["requestId"]) == ("error", "r1")
        assert "parts" in frame["errorText"]
        await socket.send(**send("r2", new_session_id()))
        assert (await socket.get())["type"] == "start"


async def test_who_closes_the_socket_stops_nothing(nodes: list[LiveNode], scene: Scene) -> None:
    """Going away is no abort."""
    sid = new_session_id()
    async with WS(nodes[0].url, PATH) as socket:
        await socket.send(**send("r1", sid))
        await socket.get()
        await socket.close()
    async with WS(nodes[1].url, PATH) as socket, asyncio.timeout(20):
        await socket.send(type="resume", requestId="r2", id=sid, headers={}, body={})
        assert await socket.get() == {"type": "start", "requestId": "r2"}
    view = await scene.log.view(sid)
    assert view is not None
    assert (view.state, view.stop) == ("queued", "")


def send(request: str, sid: str, **body: Any) -> Message:
    messages = [{"id": "u1", "role": "user", "parts": [{"type": "text", "text": "hello"}]}]
    return {
        "type": "send", "requestId": request, "id": sid, "trigger": "submit-message", "messages": messages,
        "headers": {}, "body": body,
    }  # fmt: skip
