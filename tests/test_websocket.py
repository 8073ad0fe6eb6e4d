"""The WebSocket of a session: commands and their replies, several sockets at once, slow ones, and how it closes."""

import asyncio
import contextlib
import functools
import itertools
import json
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from api.commands import Commands
from api.dialects import packets
from api.server import server_config
from shared import keys
from shared.log import Log
from tests.support import inprocess, sessions
from tests.support.credentials import ALICE, BOB, bearer, settings_of_keys
from tests.support.inprocess import LiveNode, live_node, live_worker
from tests.support.sessions import HELLO, SID
from tests.support.sockets import Client, Raw, command, session, ws_path
from tests.support.sse import SSE, Severed, events_path
from tests.support.system import create, system
from tests.support.ws import Message

DELTAS = 2000
SOCKETS = 20
CUTS = 12


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[LiveNode]:
    async with live_node(redis_url) as running:
        yield running


@pytest.fixture
async def other(redis_url: str) -> AsyncIterator[LiveNode]:
    async with live_node(redis_url) as running:
        yield running


def _told(frames: list[Message]) -> list[tuple[str, str, Any]]:
    return [(frame["id"], frame["type"], frame["data"]) for frame in frames if "id" in frame]


async def _logged(log: Log, sid: str = SID) -> list[tuple[str, str, Any]]:
    return [(str(event.id), event.type, event.value) for event in await log.events(sid)]


# -- commands


REFS = ["a", "", "r" * 200, "Zoë 🐙", 0, -7, 2**53, 10**30, None]


async def test_what_comes_back_bears_the_ref_of_its_command(node: LiveNode, log: Log) -> None:
    """Any short text or integer, as it was; also where the command is refused."""
    await sessions.finished(log, "a")
    async with session(node.url, SID) as speaker:
        await speaker.event("caught_up")
        for ref in REFS:
            for kind, came in (("ping", "pong"), ("answer", "error"), ("nonsense", "error")):
                await speaker.send(type=kind, ref=ref, **({"question": "q", "text": "t"} if kind == "answer" else {}))
                await speaker.first(lambda frame: "ref" in frame, next(_counted(speaker)))
                assert (speaker.frames[-1]["type"], speaker.frames[-1]["ref"]) == (came, ref)


def _counted(speaker: Client) -> Iterator[int]:
    return itertools.count(1 + sum("ref" in frame for frame in speaker.frames))


async def test_replies_are_the_bodies_of_http(node: LiveNode, log: Log) -> None:
    """`message`, `stop` and `answer` are told what the same request would be told over HTTP."""
    held = await sessions.started(log)
    async with session(node.url, SID) as speaker, httpx.AsyncClient(base_url=node.url) as client:
        await sessions.say(log, held, 2, "a")
        await log.append(SID, held.token, held.epoch, 3, [sessions.question("q1")])
        answered = await speaker.call("answer", question="q1", text="red", key="k1")
        same = {"question": "q1", "text": "red"}
        over_http = await client.post(f"/v1/sessions/{SID}/answer", json=same, headers={"Idempotency-Key": "k1"})
        assert (answered["type"], answered["data"]) == ("reply", over_http.json())

        stopped = await speaker.call("stop", wait_s=0)
        assert stopped["data"] == (await client.post(f"/v1/sessions/{SID}/stop", json={"wait_s": 0})).json()
        assert stopped["data"]["state"] == "stopping"
        await sessions.finish(log, held, 4)

        opened = await speaker.call("message", input="and now", key="k2")
        again = await client.post(
            f"/v1/sessions/{SID}/messages", json={"input": "and now"}, headers={"Idempotency-Key": "k2"}
        )
        assert (opened["data"], again.status_code) == (again.json(), 201)
        assert opened["data"]["generation"] == "g2"


REFUSED: list[tuple[str, str]] = [
    ("", "invalid_json"),
    ("{", "invalid_json"),
    ("nul", "invalid_json"),
    ('{"type":"ping"}{', "invalid_json"),
    ('{"type":"ping","ref":"\\ud800"}', "invalid_json"),
    ("[]", "invalid_request"),
    ('"ping"', "invalid_request"),
    ("null", "invalid_request"),
    ("{}", "invalid_request"),
    ('{"type":7}', "invalid_request"),
    ('{"type":null}', "invalid_request"),
    ('{"type":"pong"}', "unknown_type"),
    ('{"type":""}', "unknown_type"),
    ('{"type":"Ping"}', "unknown_type"),
    ('{"type":"ping","ref":{}}', "invalid_request"),
    ('{"type":"ping","ref":1.5}', "invalid_request"),
    (json.dumps({"type": "ping", "ref": "r" * 201}), "invalid_request"),
    ('{"type":"message","input":"x","key":""}', "invalid_request"),
    (json.dumps({"type": "message", "input": "x", "key": "k" * 256}), "invalid_request"),
    ('{"type":"message"}', "invalid_request"),
    ('{"type":"message","input":""}', "invalid_request"),
    ('{"type":"message","input":7}', "invalid_request"),
    ('{"type":"message","input":"x","inptu":"y"}', "invalid_request"),
    ('{"type":"message","input":"x","interrupt":"perhaps"}', "invalid_request"),
    ('{"type":"message","input":"x","options":[]}', "invalid_request"),
    ('{"type":"message","input":"x","model":"nobody/m"}', "unknown_model"),
    (json.dumps({"type": "message", "input": "x" * 200_001}), "invalid_request"),
    ('{"type":"message","input":"x"}', "generation_running"),
    ('{"type":"stop","wait_s":31}', "invalid_request"),
    ('{"type":"stop","wait_s":"long"}', "invalid_request"),
    ('{"type":"stop","generation":7}', "invalid_request"),
    ('{"type":"stop","generation":"first"}', "invalid_request"),
    ('{"type":"stop","generation":"g2"}', "other_generation"),
    ('{"type":"stop","input":"x"}', "invalid_request"),
    ('{"type":"answer","text":"x"}', "invalid_request"),
    ('{"type":"answer","question":"q","text":""}', "invalid_request"),
    ('{"type":"answer","question":"q","text":"x"}', "question_gone"),
]


async def test_what_cannot_be_done_is_an_error_frame_and_the_socket_lives(node: LiveNode, log: Log) -> None:
    """Every wrong command has its code and is followed by more; nothing of it is in the log."""
    await sessions.started(log)
    before = await _logged(log)
    async with session(node.url, SID) as speaker:
        for n, (text, code) in enumerate(REFUSED, 1):
            await speaker.text(text)
            error = await speaker.event("error", n)
            assert (error["data"]["code"], error["ref"]) == (code, None), text
            assert error["data"]["message"]
            assert (await speaker.call("ping"))["type"] == "pong"
    assert await _logged(log) == before


async def test_a_wrong_command_is_told_by_its_ref(node: LiveNode, log: Log) -> None:
    """Also where something else in it is wrong: the client must learn which of its commands failed."""
    await sessions.started(log)
    async with session(node.url, SID) as speaker:
        assert (await speaker.call("message"))["data"]["code"] == "invalid_request"
        assert (await speaker.call("message", input="x", key=7))["data"]["code"] == "invalid_request"
        assert (await speaker.call("stop", generation="g9"))["data"]["code"] == "other_generation"


async def test_commands_are_carried_out_in_their_order(node: LiveNode, log: Log) -> None:
    """What follows a stop waits until the generation is over, and then finds it over."""
    held = await sessions.started(log)
    async with session(node.url, SID) as speaker:
        await speaker.send(type="stop", ref=1, wait_s=30)
        await speaker.send(type="message", ref=2, input="and now")
        await speaker.send(type="ping", ref=3)
        async with asyncio.timeout(10):
            while not (view := await log.view(SID)) or not view.stop:
                await asyncio.sleep(0.002)
        assert not [frame for frame in speaker.frames if "ref" in frame]
        await sessions.finish(log, held, 2)
        await speaker.answer(3)
        came = [(frame["type"], frame["ref"]) for frame in speaker.frames if "ref" in frame]
    assert came == [("reply", 1), ("reply", 2), ("pong", 3)]


async def test_a_key_makes_a_message_that_was_cut_off_safe_to_repeat(node: LiveNode, other: LiveNode, log: Log) -> None:
    """Cut before its reply, and said again over another node: the same generation, and no second message."""
    generation = 0
    held = await sessions.finished(log, "a")
    for n in range(CUTS):
        turn = {"input": f"turn {n}", "key": f"k{n}"}
        async with session(node.url, SID) as speaker:
            await speaker.send(type="message", ref=1, **turn)
            for _ in range(n * 3):  # from at once to well after the reply
                await asyncio.sleep(0)
        async with session(other.url, SID) as speaker:
            first, again = await speaker.call("message", **turn), await speaker.call("message", **turn)
            reused = await speaker.call("message", **{**turn, "input": "something else"})
        generation = n + 2
        assert first["data"]["generation"] == again["data"]["generation"] == f"g{generation}"
        assert reused["data"]["code"] == "idempotency_key_reused"
        held = await sessions.claim(log, generation=f"g{generation}")
        await sessions.finish(log, held, 2, generation=f"g{generation}")
    said = [event.value["content"] for event in await log.events(SID) if event.type == "message"]
    assert said == [HELLO["content"], *(f"turn {n}" for n in range(CUTS))]


async def test_a_command_outlives_its_socket(node: LiveNode, log: Log) -> None:
    """One that is under way when its client goes is carried out."""
    await sessions.finished(log, "a")
    async with session(node.url, SID) as speaker:
        await speaker.event("caught_up")
        await speaker.send(type="message", input="and now")
    async with session(node.url, SID) as speaker:
        assert (await speaker.event("message", 2))["data"]["content"] == "and now"


async def test_a_command_under_way_is_carried_out_before_the_node_closes(
    redis_url: str, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not torn in the middle, and its reply comes before the close."""
    await sessions.finished(log, "a")
    message, begun, go = Commands.message, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any) -> Any:
        begun.set()
        await go.wait()
        return await message(*args)

    monkeypatch.setattr(Commands, "message", slow)
    async with live_node(redis_url) as leaving, session(leaving.url, SID) as speaker:
        await speaker.event("caught_up")
        await speaker.send(type="message", ref=1, input="and now")
        await begun.wait()
        leaving.node.hub.drain()
        async with asyncio.timeout(10):
            while leaving.node.hub.readers:
                await asyncio.sleep(0.002)
        go.set()
        assert (await speaker.answer(1))["type"] == "reply"
        assert await speaker.closed() == (1012, "")
    assert [event.value["content"] for event in await log.events(SID) if event.type == "message"][1:] == ["and now"]


# -- following


async def test_it_follows_over_turns(node: LiveNode, log: Log) -> None:
    """An end closes nothing; each turn comes, once, as it stands in the log."""
    await sessions.finished(log, "a", "b")
    async with session(node.url, SID, merge=0) as reader:
        await reader.event("caught_up")
        for n in range(2, 6):
            await sessions.next_turn(log)
            held = await sessions.claim(log, generation=f"g{n}")
            await sessions.say(log, held, 2, f"text {n}", "more")
            await sessions.finish(log, held, 4, generation=f"g{n}")
            await reader.event("generation.completed", n)
        assert _told(reader.frames) == await _logged(log)
        assert len(reader.of("caught_up")) == 1


async def test_what_lies_before_the_cursor_does_not_come(node: LiveNode, log: Log) -> None:
    """From every id on, and from none: the rest, exactly."""
    await sessions.finished(log, "a", "b", "c")
    logged = await _logged(log)
    for n in range(len(logged) + 1):
        query = {"after": logged[n - 1][0]} if n else {}
        async with session(node.url, SID, merge=0, **query) as reader:
            await reader.event("caught_up")
            assert _told(reader.frames) == logged[n:]


async def test_sockets_on_two_nodes_see_the_same_and_either_may_act(
    redis_url: str, node: LiveNode, other: LiveNode
) -> None:
    """One answers, the other is refused and sees the answer; the other stops, and both see the end."""
    async with live_worker(redis_url):
        sid = await create(node.url, pipeline="trip", input="to the sea")
        async with session(node.url, sid, merge=0) as one, session(other.url, sid, merge=0) as two:
            question = (await two.event("question"))["data"]["id"]
            calls = (
                one.call("answer", question=question, text="one"),
                two.call("answer", question=question, text="two"),
            )
            told = await asyncio.gather(*calls)
            assert sorted(answer["type"] for answer in told) == ["error", "reply"]
            (refused,) = [answer for answer in told if answer["type"] == "error"]
            assert refused["data"]["code"] == "question_gone"
            winner = "one" if told[0]["type"] == "reply" else "two"
            for tab in (one, two):
                assert (await tab.event("answer"))["data"]["text"] == winner
            assert (await two.call("stop"))["data"]["state"] == "cancelled"
            for tab in (one, two):
                await tab.event("generation.cancelled")
            assert _told(one.frames) == _told(two.frames)


async def test_a_quiet_socket_is_kept_alive(redis_url: str, log: Log) -> None:
    """While nothing else is said, and without an id."""
    await sessions.started(log)
    async with live_node(redis_url, keepalive_s=0.05) as node, session(node.url, SID) as reader:
        await reader.event("keep_alive", 3)
        assert reader.frames[-1] == {"type": "keep_alive"}


@pytest.mark.parametrize("ring_bytes", [1 << 20, 1 << 26], ids=["off the ring", "on the ring"])
async def test_a_slow_socket_gets_merged_frames(redis_url: str, log: Log, ring_bytes: int) -> None:
    """Two thousand deltas while it does not read: it gets all of the text, in few frames; none was queued for it."""
    held = await sessions.started(log)
    texts = [f"{n:04} " + "kelp " * 60 for n in range(DELTAS)]
    last = f"{held.epoch}-{DELTAS + 1}"
    async with (
        live_node(redis_url, ring_bytes=ring_bytes, ring_events=2 * DELTAS) as node,
        Raw(node.url, ws_path(SID)) as slow,
    ):
        async with session(node.url, SID) as quick:
            for n in range(0, DELTAS, 10):
                await sessions.say(log, held, n + 2, *texts[n : n + 10])
            await quick.first(lambda frame: frame.get("id") == last)
        frames = await _until_id(slow, last)
    said = [frame for frame in frames if frame["type"] == "text.delta"]
    assert "".join(frame["data"]["text"] for frame in said) == "".join(texts)
    assert len(said) < DELTAS / 10


async def _until_id(raw: Raw, last: str) -> list[Message]:
    """Every frame up to the one with this id."""
    frames: list[Message] = []
    while not frames or frames[-1].get("id") != last:
        async with asyncio.timeout(10):
            frames.append(json.loads(await raw.text_frame()))
    return frames


# -- how it closes


def _closing(node: LiveNode, path: str, headers: dict[str, str] | None = None) -> Any:
    async def closed() -> tuple[int, str]:
        async with Client(node.url, path, headers) as client:
            return await client.closed()

    return closed()


FINAL = [
    (ws_path("unknown"), {}, (4404, "session_not_found")),
    (ws_path("a.b"), {}, (4404, "session_not_found")),
    (ws_path(SID, after="1-"), {}, (4400, "invalid_last_event_id")),
    (ws_path(SID, after=""), {}, (4400, "invalid_last_event_id")),
    (ws_path(SID), {"Origin": "https://elsewhere.example"}, (4403, "origin_not_allowed")),
    ("/ws/chat?session=unknown", {}, (4404, "session_not_found")),
    ("/ws/chat?session=a.b", {}, (4404, "session_not_found")),
    (f"/ws/chat?session={SID}&after=x", {}, (4400, "invalid_last_event_id")),
    ("/ws/chat", {"Origin": "https://elsewhere.example"}, (4403, "origin_not_allowed")),
]


@pytest.mark.parametrize(("path", "headers", "closed"), FINAL)
async def test_a_refusal_is_a_close_code_that_is_final(
    node: LiveNode, log: Log, path: str, headers: dict[str, str], closed: tuple[int, str]
) -> None:
    """4000 and the status the same refusal has over HTTP; the reason is the code of the error."""
    await sessions.finished(log, "a")
    assert await _closing(node, path, headers) == closed


async def test_an_expired_session_is_4410(node: LiveNode, log: Log, redis: Any) -> None:
    """Its log is gone, and known to be."""
    await sessions.finished(log, "a")
    await redis.delete(keys.events(SID))
    for path in (ws_path(SID), f"/ws/chat?session={SID}"):
        assert await _closing(node, path) == (4410, "session_expired")


async def test_callers_who_are_not_known_are_4401_and_strangers_4404(redis_url: str) -> None:
    """Without credentials; with those of somebody else, whose session it is not."""
    async with live_node(redis_url, **settings_of_keys()) as node, httpx.AsyncClient(base_url=node.url) as client:
        created = await client.post("/v1/sessions", json={"input": "hi"}, headers=bearer(ALICE))
        path = ws_path(created.json()["id"])
        for wrong in (None, bearer("hf_nobody")):
            assert await _closing(node, path, wrong) == (4401, "unauthorized")
            assert await _closing(node, "/ws/chat", wrong) == (4401, "unauthorized")
        assert await _closing(node, path, bearer(BOB)) == (4404, "session_not_found")
        async with Client(node.url, path, bearer(ALICE)) as owner:
            await owner.event("caught_up")


async def test_too_many_streams_may_come_back_later(redis_url: str, log: Log) -> None:
    """1013: what passes by itself is not final."""
    await sessions.started(log)
    async with live_node(redis_url, open_streams=1) as node, session(node.url, SID) as first:
        await first.event("caught_up")
        assert await _closing(node, ws_path(SID)) == (1013, "too_many_streams")
        await first.call("ping")


async def test_a_node_that_fails_says_1011(node: LiveNode, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug costs its socket, which may come back; in what is sent as in what is heard."""
    await sessions.started(log)

    def broken(*_: object) -> list[str]:
        raise LookupError("a bug")

    async with session(node.url, SID) as speaker:
        await speaker.event("caught_up")
        monkeypatch.setattr(packets, "pong", broken)
        await speaker.send(type="ping")
        assert await speaker.closed() == (1011, "internal")
    monkeypatch.setattr(packets, "encode_output", broken)
    assert await _closing(node, ws_path(SID)) == (1011, "internal")


async def test_who_answers_no_ping_is_closed_with_1011(
    redis_url: str, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keep-alive of the protocol is lost; also while a command is under way."""
    await sessions.started(log)
    with _pinging(monkeypatch):
        async with live_node(redis_url) as node, Raw(node.url, ws_path(SID)) as silent:
            await silent.write(command(type="stop", wait_s=30))
            assert await silent.close_code() == 1011


@contextlib.contextmanager
def _pinging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nodes that are started in here ping often, and wait shortly."""
    often = functools.partial(server_config, ws_ping_interval=0.1, ws_ping_timeout=0.1)
    with monkeypatch.context() as patched:
        patched.setattr(inprocess, "server_config", often)
        yield


async def test_a_deleted_session_closes_its_sockets(node: LiveNode, other: LiveNode, log: Log) -> None:
    """Those who come back are told that it is not there; so is who asks for a chat."""
    held = await sessions.started(log)
    await sessions.say(log, held, 2, "a")
    async with session(node.url, SID) as one, session(other.url, SID) as two:
        for reader in (one, two):
            await reader.event("caught_up")
        async with httpx.AsyncClient(base_url=other.url) as client:
            assert (await client.delete(f"/v1/sessions/{SID}")).status_code == 204
        for reader in (one, two):
            code, _ = await reader.closed()
            assert code == 1013
    assert await _closing(node, ws_path(SID)) == (4404, "session_not_found")
    assert await _closing(other, f"/ws/chat?session={SID}") == (4404, "session_not_found")


# -- a node that leaves


async def test_a_node_that_leaves_sends_its_sockets_elsewhere(redis_url: str, node: LiveNode, log: Log) -> None:
    """1012, not all at once; each goes on at another node, and has everything once."""
    held = await sessions.started(log)
    await sessions.say(log, held, 2, "a")
    async with live_node(redis_url, drain_s=2.0) as leaving, contextlib.AsyncExitStack() as stack:
        readers = [
            await stack.enter_async_context(session(leaving.url, SID, merge=0)) for _ in range(SOCKETS)
        ]  # fmt: skip
        for reader in readers:
            await reader.event("caught_up")
        leaving.node.hub.drain()
        seq = 2
        while any(not reader.over for reader in readers):
            seq += 1
            await sessions.say(log, held, seq, f"text {seq}")
            await asyncio.sleep(0.01)
        assert await _closing(leaving, ws_path(SID)) == (1012, "")
        assert {await reader.closed() for reader in readers} == {(1012, "")}
    await sessions.finish(log, held, seq + 1)
    logged = await _logged(log)
    assert len({len(reader.events) for reader in readers}) > SOCKETS / 4, "all at once"
    for reader in readers:
        async with session(node.url, SID, merge=0, after=reader.events[-1]["id"]) as back:
            await back.event("generation.completed")
        assert _told(reader.frames) + _told(back.frames) == logged


async def test_a_node_ends_on_sigterm_whatever_is_open(redis_url: str, log: Log) -> None:
    """Readers on both transports, one that does not read, and a command under way: it exits with 0, in time."""
    held = await sessions.started(log)
    async with system(redis_url, nodes=1, workers=0) as running, contextlib.AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(session(running.url, SID)) for _ in range(SOCKETS)]
        streams = [
            await stack.enter_async_context(SSE(running.url, events_path(SID, follow=1))) for _ in range(SOCKETS)
        ]
        deaf = await stack.enter_async_context(Raw(running.url, ws_path(SID)))
        await sessions.say(log, held, 2, *["kelp " * 20_000] * 5)
        for reader in sockets:
            await reader.event("caught_up")
        await sockets[0].send(type="stop", ref=1, wait_s=30)
        await deaf.write(command(type="ping"))
        running.nodes[0].signal(signal.SIGTERM)
        assert await running.nodes[0].ended(within_s=15) == 0
        assert {(await reader.closed())[0] for reader in sockets[1:]} == {1012}
        for stream in streams:
            with pytest.raises(Severed):
                async for _ in stream.chunks():
                    pass
