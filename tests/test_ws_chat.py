"""`/ws/chat`: text goes in, frames come out, and whoever was cut off comes back to the same conversation."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.conformance.fixtures import *  # noqa: F403 - fixtures are found by name
from tests.conformance.scene import Scene, ask, finish, say, start, stopped, take_the_answer
from tests.support.generations import piped
from tests.support.inprocess import LiveNode, live_node, live_worker
from tests.support.sessions import field
from tests.support.ws import WS, Closed, Message
from worker.pipelines import Run

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(30)]

CHAT = "/ws/chat"


async def _colour(run: Run) -> None:
    await run.text("You like " + await run.ask("Which colour?", choices=("red", "blue")))


async def _broken(run: Run) -> None:
    await run.text("So")
    raise ValueError("not my day")


COLOUR, BROKEN = piped(_colour), piped(_broken)


@pytest_asyncio.fixture(loop_scope="module")
async def worker(scene: Scene, nodes: list[LiveNode]) -> AsyncIterator[None]:
    async with live_worker(nodes[0].node.settings.redis_url):
        yield


@pytest.fixture
def url(nodes: list[LiveNode], scene: Scene) -> str:
    return nodes[0].url


@pytest.fixture
def elsewhere(nodes: list[LiveNode]) -> str:
    return nodes[1].url


def of(frames: list[Message], kind: str) -> list[Message]:
    return [frame for frame in frames if frame["type"] == kind]


def types(frames: list[Message]) -> list[str]:
    """Without neighbouring repeats."""
    found = [frame["type"] for frame in frames]
    return [kind for n, kind in enumerate(found) if n == 0 or found[n - 1] != kind]


def text_of(frames: list[Message]) -> str:
    return "".join(frame["text"] for frame in of(frames, "chunk"))


def without_id(frame: Message) -> dict[str, Any]:
    return {name: value for name, value in frame.items() if name != "id"}


async def opened(socket: WS, scene: Scene, text: str = "Hello", generation: str = "g1") -> None:
    """Ask, and leave it to the test to answer."""
    await socket.text(text)
    frame = (await socket.until("session"))[-1]
    assert frame["generation"] == generation
    scene.adopt(frame["session"], generation)


# -- asking


@pytest.mark.usefixtures("worker")
async def test_text_is_answered_in_chunks(url: str, scene: Scene) -> None:
    """Its session first, then what the log says, each with its id, to the end; and then the next turn."""
    async with WS(url, f"{CHAT}?model=demo/echo") as socket:
        await socket.text("Hello, sea")
        first = await socket.until("done")
        await socket.text("And again")
        second = await socket.until("done")
    sid = first[0]["session"]
    assert first[0] == {"type": "session", "session": sid, "generation": "g1"}
    assert [kind for kind in types(first) if kind not in ("caught_up", "chunk")] == [
        "session", "message", "started", "usage", "done",
    ]  # fmt: skip
    assert (text_of(first), text_of(second)) == ("Hello, sea", "And again")
    assert without_id(first[-1]) == {"type": "done", "generation": "g1", "finish_reason": "stop"}
    assert second[-1]["generation"] == of(second, "session")[0]["generation"] == "g2"
    ids = [frame["id"] for frame in first + second if "id" in frame]
    assert ids == [str(event.id) for event in await scene.log.events(sid)]


async def test_each_chunk_arrives_when_it_is_appended(url: str, scene: Scene) -> None:
    """Nothing waits for what comes after it."""
    async with WS(url, CHAT) as socket:
        await opened(socket, scene)
        await start(scene)
        await socket.until("started")
        for n in range(30):
            await say(f"{n} ")(scene)
            frame = (await socket.until("chunk"))[-1]
            assert frame == {"type": "chunk", "id": str(scene.last), "text": f"{n} "}


# -- interrupting


@pytest.mark.usefixtures("worker")
async def test_stop_ends_the_answer(url: str, scene: Scene) -> None:
    """`STOP`, with or without space around it: the provider is closed, and the next text asks again."""
    async with WS(url, CHAT) as socket:
        for generation, word in (("g1", "STOP"), ("g2", " STOP\n")):
            await socket.text("Tell me")
            said = await socket.until("chunk")
            (session,) = of(said, "session")
            await socket.text(word)
            said += await socket.until("stopped")
            assert without_id(said[-1]) == {
                "type": "stopped", "generation": generation, "by": "user", "confirmed": True,
            }  # fmt: skip
            assert of(said, "done") == of(said, "error") == []
        view = await scene.log.view(session["session"])
    assert view is not None
    assert (view.state, view.generation) == ("cancelled", "g2")


async def test_stop_of_what_is_queued_or_over_does_no_harm(url: str, scene: Scene) -> None:
    """Queued: stopped at once. Over: nothing happens, and the next text asks."""
    async with WS(url, CHAT) as socket:
        await opened(socket, scene)
        await socket.text("STOP")
        assert (await socket.until("stopped"))[-1]["generation"] == "g1"
        await socket.text("STOP")
        await opened(socket, scene, "And now", "g2")
        await start(scene)
        await finish(scene)
        await socket.until("done")
    assert await scene.generations() == ["g1", "g2"]


@pytest.mark.usefixtures("worker")
async def test_text_while_an_answer_is_written_interrupts_it(url: str, scene: Scene) -> None:
    """What was said stays, the turn ends as stopped, and right after it comes the next."""
    async with WS(url, CHAT) as socket:
        await socket.text("Tell me")
        frames = await socket.until("chunk")
        await socket.text("No, this")
        frames += await socket.until("stopped")
        frames += await socket.until("chunk")
    sid = frames[0]["session"]
    assert [frame["generation"] for frame in of(frames, "session")] == ["g1", "g2"]
    assert [frame["generation"] for frame in of(frames, "stopped")] == ["g1"]
    logged = [event.type for event in await scene.log.events(sid)]
    assert logged.count("generation.cancelled") == 1
    assert logged.index("generation.cancelled") == logged.index("message", 1) - 1
    assert [kind for kind in types(frames) if kind not in ("caught_up", "session")] == [
        "message", "started", "chunk", "stopped", "message", "started", "chunk",
    ]  # fmt: skip


# -- questions


@pytest.mark.usefixtures("worker")
async def test_text_answers_the_open_question(url: str) -> None:
    """Whatever it says; and the next text asks again."""
    async with WS(url, f"{CHAT}?pipeline={COLOUR}") as socket:
        await socket.text("Hello")
        question = (await socket.until("question"))[-1]
        assert question.keys() == {"type", "id", "question", "text", "choices", "expires_at"}
        assert (question["text"], question["choices"]) == ("Which colour?", ["red", "blue"])
        await socket.text("mauve 🐙")
        frames = await socket.until("done")
        answer = of(frames, "answer")[0]
        assert (answer["question"], answer["text"]) == (question["question"], "mauve 🐙")
        assert text_of(frames) == "You like mauve 🐙"
        await socket.text("Again")
        assert (await socket.until("question"))[-1]["question"] != question["question"]


@pytest.mark.parametrize("cursor", ["all of it", "before the question", "at the question"])
async def test_who_comes_back_to_a_question_answers_it(url: str, elsewhere: str, scene: Scene, cursor: str) -> None:
    """Wherever the client had got to: its text does not interrupt the generation that waits for it."""
    async with WS(url, CHAT) as socket:
        await opened(socket, scene)
        await start(scene)
        before = str(scene.last)
        await ask(scene)
        await socket.until("question")
    after = {"all of it": "", "before the question": f"&after={before}", "at the question": f"&after={scene.last}"}
    async with WS(elsewhere, f"{CHAT}?session={scene.sid}{after[cursor]}") as socket:
        await socket.until("caught_up")
        await socket.text("red")
        await socket.text("STOP")  # commands are carried out in order: the answer has been dealt with
        async with asyncio.timeout(10):
            while (view := await scene.log.view(scene.sid)) is None or not (view.stop or view.state != "waiting"):
                await asyncio.sleep(0.01)
    assert await scene.generations() == ["g1"]
    assert '"text":"red"' in view.answer


async def test_stop_while_a_question_is_open_stops(url: str, scene: Scene) -> None:
    """It is no answer."""
    async with WS(url, CHAT) as socket:
        await opened(socket, scene)
        await start(scene)
        await ask(scene)
        await socket.until("question")
        await socket.text("STOP")
        async with asyncio.timeout(10):
            while (view := await scene.log.view(scene.sid)) is None or not view.stop:
                await asyncio.sleep(0.01)
        assert view.answer == ""
        await stopped(scene)
        assert (await socket.until("stopped"))[-1]["generation"] == "g1"


# -- several sockets


@pytest.mark.usefixtures("worker")
async def test_two_sockets_on_one_session_see_the_same(url: str, elsewhere: str) -> None:
    """On two nodes: what one asks, answers or stops is what both are shown."""
    async with WS(url, f"{CHAT}?pipeline={COLOUR}") as one:
        await one.text("Hello")
        seen = await one.until("question")
        async with WS(elsewhere, f"{CHAT}?session={seen[0]['session']}") as two:
            also = await two.until("question")
            await two.text("blue")
            seen, also = seen + await one.until("done"), also + await two.until("done")
            await one.text("Again")
            seen, also = seen + await one.until("question"), also + await two.until("question")
            await two.text("STOP")
            seen, also = seen + await one.until("stopped"), also + await two.until("stopped")
    assert text_of(seen) == text_of(also) == "You like blue"
    mine, theirs = ([frame for frame in frames if "id" in frame] for frames in (seen, also))
    assert [f for f in mine if f["type"] != "chunk"] == [f for f in theirs if f["type"] != "chunk"]


async def test_the_first_of_two_answers_counts(url: str, elsewhere: str, scene: Scene) -> None:
    """The other one is told so in a frame, and its socket goes on."""
    async with WS(url, CHAT) as one:
        await opened(one, scene)
        async with WS(elsewhere, f"{CHAT}?session={scene.sid}") as two:
            await start(scene)
            await ask(scene)
            for socket in (one, two):
                await socket.until("question")
                await socket.text("red")
                async with asyncio.timeout(10):
                    while not await field(scene.redis, "answer", scene.sid):
                        await asyncio.sleep(0.005)
            error = (await two.until("error"))[-1]
            assert (error["code"], "id" in error) == ("question_gone", False)
            await take_the_answer(scene)
            await finish(scene)
            for socket in (one, two):
                assert (await socket.until("done"))[-1]["id"] == str(scene.last)
    assert await scene.generations() == ["g1"]


# -- coming back


@pytest.mark.usefixtures("worker")
async def test_who_was_cut_off_comes_back_to_the_conversation(url: str, elsewhere: str, scene: Scene) -> None:
    """With its session: all of it again. With the last id too: what it missed. Neither asks anything."""
    async with WS(url, f"{CHAT}?model=demo/echo") as socket:
        await socket.text("one two three four five six seven")
        begun = await socket.until("chunk")
    sid, last = begun[0]["session"], begun[-1]["id"]
    async with WS(elsewhere, f"{CHAT}?session={sid}&after={last}") as socket:
        rest = await socket.until("done")
    async with WS(elsewhere, f"{CHAT}?session={sid}") as socket:
        again = await socket.until("caught_up")
        await socket.text("eight")
        assert text_of(await socket.until("done")) == "eight"
    assert text_of(begun) + text_of(rest) == text_of(again) == "one two three four five six seven"
    assert types(again) == ["message", "started", "chunk", "usage", "done", "caught_up"]
    scene.adopt(sid)
    assert await scene.generations() == ["g1", "g2"]


async def test_a_conversation_that_cannot_go_on_closes_for_good(url: str, scene: Scene) -> None:
    """Unknown 4404, malformed 4400: with the code of the same refusal over HTTP."""
    await scene.open()
    for query, code, reason in (
        ("session=nobody", 4404, "session_not_found"),
        ("session=no%20id", 4404, "session_not_found"),
        (f"session={scene.sid}&after=nonsense", 4400, "invalid_last_event_id"),
    ):
        async with WS(url, f"{CHAT}?{query}") as socket:
            with pytest.raises(Closed) as closed:
                await socket.get()
        assert (closed.value.code, closed.value.reason) == (code, reason)


# -- errors


async def test_what_cannot_be_done_is_told_in_a_frame(url: str, scene: Scene) -> None:
    """The socket stays, and the next text is asked."""
    async with WS(url, CHAT) as socket:
        await socket.text("STOP")
        assert await socket.get() == {
            "type": "error", "code": "invalid_request", "message": "there is nothing to stop yet: send text to ask",
        }  # fmt: skip
        await socket.text("")
        assert (await socket.get())["code"] == "invalid_request"
        await socket.text("x" * 200_001)
        assert (await socket.get())["code"] == "invalid_request"
        assert await scene.sessions() == 0
        await opened(socket, scene)
    assert await scene.generations() == ["g1"]


async def test_an_unknown_model_is_told_in_a_frame(url: str, scene: Scene) -> None:
    """Each time, on a socket that stays; nothing is started."""
    for query, code in (("model=nobody/nothing", "unknown_model"), ("pipeline=no%20name", "invalid_request")):
        async with WS(url, f"{CHAT}?{query}") as socket:
            for _ in range(2):
                await socket.text("Hello")
                error = await socket.get()
                assert (error["type"], error["code"]) == ("error", code)
            await socket.ping()
    assert await scene.sessions() == 0


@pytest.mark.usefixtures("worker")
async def test_a_generation_that_fails_says_so(url: str) -> None:
    """An error with an id and the generation it ended; the next text asks."""
    async with WS(url, f"{CHAT}?pipeline={BROKEN}") as socket:
        for generation in ("g1", "g2"):
            await socket.text("Hello")
            error = (await socket.until("error"))[-1]
            assert error.keys() == {"type", "id", "generation", "code", "message", "retryable"}
            assert (error["generation"], error["code"]) == (generation, "internal")


async def test_a_client_that_vanishes_leaves_its_generation_alone(
    url: str, nodes: list[LiveNode], scene: Scene
) -> None:
    """The node forgets the socket; nobody asked for a stop."""
    async with WS(url, CHAT) as socket:
        await opened(socket, scene)
        await start(scene)
        await socket.until("started")
    async with asyncio.timeout(10):
        while nodes[0].node.hub.readers:
            await asyncio.sleep(0.01)
    await say("still here")(scene)
    view = await scene.log.view(scene.sid)
    assert view is not None
    assert (view.state, view.stop) == ("running", "")


async def test_a_quiet_socket_is_kept_alive(url: str, nodes: list[LiveNode], scene: Scene) -> None:
    """While an answer is long in coming, frames say that the node is there."""
    async with live_node(nodes[0].node.settings.redis_url, keepalive_s=0.05) as node:
        await scene.open()
        async with WS(node.url, f"{CHAT}?session={scene.sid}") as socket:
            for _ in range(2):
                assert (await socket.until("keep_alive"))[-1] == {"type": "keep_alive"}
