"""The browser's client over WebSocket, in Node: nothing lost, nothing twice, every command carried out once."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator
from itertools import cycle

import httpx
import pytest
from websockets.asyncio.server import ServerConnection, serve

from shared.log import Log
from tests.support.credentials import ALICE, BOB, bearer, settings_of_keys
from tests.support.cutting import cutting
from tests.support.follower import Refused, follower
from tests.support.inprocess import live_node, live_worker
from tests.support.ports import free_port
from tests.support.system import create
from worker.providers.demo import lorem

CUTS = 30
TURNS = 8


@pytest.fixture
async def nodes(redis_url: str) -> AsyncIterator[list[str]]:
    """The URLs of two nodes. Their worker leaves the log as it was written, so that ids can be compared with it."""
    async with live_node(redis_url) as one, live_node(redis_url) as two, live_worker(redis_url, compact=False):
        yield [one.url, two.url]


def _ports(nodes: list[str]) -> Iterator[int]:
    return cycle([int(url.rpartition(":")[2]) for url in nodes])


@pytest.mark.parametrize("merge", [True, False])
async def test_random_cuts_lose_nothing_and_repeat_nothing(nodes: list[str], log: Log, merge: bool) -> None:
    """30 resets at random bytes, also within handshakes, on alternating nodes: the text of the log, each id once."""
    chance = random.Random(merge)
    sid = await create(nodes[0], options={"tokens": 1500, "rate": 300, "seed": 4})
    budgets = (chance.randint(1, 700) for _ in range(CUTS))
    options = {"transport": "websocket", "eager": True, "follow": False, "merge": merge}
    async with cutting(_ports(nodes), budgets) as network, follower(network.url, sid, **options) as reader:
        assert await reader.over() is None
    assert network.cuts == CUTS
    assert reader.text == "".join(lorem(1500, 4))
    known = [str(event.id) for event in await log.events(sid)]
    assert reader.ids == sorted(set(reader.ids), key=known.index), "in the log's order, none twice"
    assert merge or reader.ids == known
    assert reader.ids[-1] == known[-1]


async def test_a_message_is_said_once_however_often_its_socket_is_cut(nodes: list[str], log: Log) -> None:
    """Commands whose replies are cut off go again over the next socket: each turn is there once, in order."""
    chance = random.Random(8)
    sid = await create(nodes[0], model="demo/echo", input="turn 0")
    budgets = (chance.randint(150, 900) for _ in range(CUTS))
    async with (
        cutting(_ports(nodes), budgets) as network,
        follower(network.url, sid, transport="websocket", eager=True) as speaker,
    ):
        for n in range(1, TURNS):
            await speaker.until(lambda n=n: speaker.count("generation.completed") == n)  # type: ignore[misc]
            started = await speaker.call("send", f"turn {n}")
            assert started["generation"] == f"g{n + 1}"
        await speaker.until(lambda: speaker.count("generation.completed") == TURNS)
    assert network.cuts > TURNS
    said = [e.value["content"] for e in await log.events(sid) if e.type == "message"]
    assert said == [f"turn {n}" for n in range(TURNS)]


async def test_an_interruption_and_a_stop_travel_on_the_socket(nodes: list[str]) -> None:
    """Sending into a running answer is refused; with `interrupt` it cuts it off; a stop ends the next one."""
    sid = await create(nodes[0], options={"tokens": 5000, "rate": 50, "seed": 1})
    async with follower(nodes[0], sid, transport="websocket") as speaker:
        await speaker.until(lambda: bool(speaker.text))
        with pytest.raises(Refused) as refused:
            await speaker.call("send", "and?")
        assert refused.value.code == "generation_running"
        assert (await speaker.call("send", "and?", {"interrupt": True}))["generation"] == "g2"
        await speaker.until(lambda: speaker.count("generation.started") == 2)
        assert (await speaker.call("stop"))["state"] == "cancelled"
        await speaker.until(lambda: speaker.count("generation.cancelled") == 2)
        messages = [event for event in speaker.events if event["type"] in ("message", "generation.cancelled")]
        assert [event["data"]["generation"] for event in messages] == ["g1", "g1", "g2", "g2"]


async def test_a_late_stop_does_not_hit_the_next_turn(nodes: list[str]) -> None:
    """A stop of a generation that is over already is refused."""
    sid = await create(nodes[0], options={"tokens": 5000, "rate": 50})
    async with follower(nodes[0], sid, transport="websocket") as speaker:
        await speaker.until(lambda: bool(speaker.text))
        await speaker.call("send", "and?", {"interrupt": True})
        with pytest.raises(Refused) as refused:
            await speaker.call("stop", {"generation": "g1"})
        assert refused.value.code == "other_generation"


async def test_the_first_answer_wins(nodes: list[str]) -> None:
    """Two followers answer one question: the second is refused, and both see the answer that counts."""
    sid = await create(nodes[0], pipeline="trip", input="to the sea")
    one, two = nodes
    async with (
        follower(one, sid, transport="websocket") as first,
        follower(two, sid, transport="websocket") as second,
    ):
        await second.until(lambda: second.count("question") == 1)
        await first.until(lambda: first.count("question") == 1)
        question = next(event["data"]["id"] for event in first.events if event["type"] == "question")
        assert (await first.call("answer", question, "A week"))["question"] == question
        with pytest.raises(Refused) as refused:
            await second.call("answer", question, "A weekend")
        assert refused.value.code == "question_gone"
        for tab in (first, second):
            await tab.until(lambda tab=tab: tab.count("answer") == 1)  # type: ignore[misc]
            assert next(e["data"]["text"] for e in tab.events if e["type"] == "answer") == "A week"


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_not_following_ends_with_the_generation_of_its_arrival(nodes: list[str], transport: str) -> None:
    """Without `follow`: after two turns it ends with the second; at their end it ends at once, with nothing."""
    sid = await create(nodes[0], model="demo/echo", input="one")
    async with follower(nodes[0], sid, transport=transport, follow=False) as reader:
        assert await reader.over() is None
    async with httpx.AsyncClient(base_url=nodes[0]) as client:
        body = {"input": "two", "model": "demo/lorem", "options": {"tokens": 40, "rate": 40}}
        assert (await client.post(f"/v1/sessions/{sid}/messages", json=body)).status_code == 201
    async with follower(nodes[0], sid, transport=transport, follow=False) as reader:
        assert await reader.over() is None
    assert reader.count("generation.completed") == 2
    async with follower(nodes[0], sid, transport=transport, follow=False, after=reader.ids[-1]) as late:
        assert await late.over() is None
    assert late.ids == []


async def test_not_following_waits_where_the_answer_is_still_to_come(nodes: list[str]) -> None:
    """A cursor behind which nothing is said yet is not the end of the session."""
    sid = await create(nodes[0], pipeline="trip", input="to the sea")
    async with follower(nodes[0], sid, transport="websocket") as before:
        await before.until(lambda: before.count("question") == 1)
    options = {"transport": "websocket", "follow": False, "after": before.ids[-1]}
    async with follower(nodes[0], sid, **options) as reader:
        await reader.until(lambda: reader.count("caught_up") == 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.over(), 0.5)
        await reader.call("stop")
        assert await reader.over() is None
    assert [event["type"] for event in reader.events] == ["caught_up", "generation.cancelled"]


@pytest.mark.parametrize(
    ("session", "after", "code"),
    [("unknown", None, "session_not_found"), ("unknown", "1-", "invalid_last_event_id")],
)
async def test_a_final_close_code_ends_the_following(
    nodes: list[str], session: str, after: str | None, code: str
) -> None:
    """The reason of the close code is the error's code; commands under way are rejected with it."""
    async with follower(nodes[0], session, transport="websocket", after=after) as reader:
        sent = reader.begin("send", "hello")
        assert await reader.over() == code
        with pytest.raises(Refused) as refused:
            await reader.reply(sent)
        assert refused.value.code == code
        assert reader.states[-1] == "failed"


async def test_credentials_in_headers_open_the_socket_too(redis_url: str) -> None:
    """A browser sends no headers with a WebSocket: the client asks for a token with them. Wrong ones are final."""
    async with live_node(redis_url, **settings_of_keys()) as node, live_worker(redis_url):
        async with httpx.AsyncClient(base_url=node.url, headers=bearer(ALICE)) as alice:
            sid = (await alice.post("/v1/sessions", json={"model": "demo/echo", "input": "one"})).json()["id"]
        options = {"transport": "websocket", "follow": False}
        async with follower(node.url, sid, headers=bearer(ALICE), **options) as reader:
            assert await reader.over() is None
            assert "one" in reader.text
        for headers, code in (
            (bearer(BOB), "session_not_found"),
            (bearer("wrong"), "unauthorized"),
            ({}, "unauthorized"),
        ):
            async with follower(node.url, sid, headers=headers, **options) as reader:
                assert await reader.over() == code
                assert reader.events == []


async def test_commands_without_a_socket_are_few_and_rejected_at_the_end() -> None:
    """With nobody there, the ninth command is refused; closing rejects the eight that waited."""
    async with follower(f"http://127.0.0.1:{free_port()}", "s1", transport="websocket") as speaker:
        calls = [speaker.begin("send", f"turn {n}") for n in range(9)]
        with pytest.raises(Refused, match="too_many_commands"):
            await speaker.reply(calls.pop())
        speaker.begin("close")
        for call in calls:
            with pytest.raises(Refused, match="closed"):
                await speaker.reply(call)
        assert await speaker.over() is None


async def test_a_command_that_is_too_large_fails_alone(nodes: list[str]) -> None:
    """The socket that carried it is closed by the server; the following goes on, and other commands with it."""
    sid = await create(nodes[0], model="demo/echo", input="one")
    async with follower(nodes[0], sid, transport="websocket", eager=True) as speaker:
        await speaker.until(lambda: speaker.count("generation.completed") == 1)
        with pytest.raises(Refused) as refused:
            await speaker.call("send", "x" * (8 << 20))
        assert refused.value.code == "frame_too_large"
        assert (await speaker.call("send", "two"))["generation"] == "g2"
        await speaker.until(lambda: speaker.count("generation.completed") == 2)


async def test_a_socket_that_falls_silent_is_replaced() -> None:
    """Nothing for 30 s, not even a keep-alive: the follower connects anew, after the last id it has."""
    asked: asyncio.Queue[str] = asyncio.Queue(maxsize=8)

    async def silent(socket: ServerConnection) -> None:
        assert socket.request is not None
        asked.put_nowait(socket.request.path)
        with contextlib.suppress(ConnectionError):
            await socket.send('{"id":"5-1","type":"text.delta","data":{"text":"a"}}')
            await socket.wait_closed()

    async with serve(silent, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with follower(f"http://127.0.0.1:{port}", "s1", transport="websocket", clock=True) as reader:
            assert await asyncio.wait_for(asked.get(), 20) == "/v1/sessions/s1/ws"
            await reader.until(lambda: bool(reader.ids))
            await reader.call("tick", 29_000)
            assert reader.states == ["connecting", "live"]
            await reader.call("tick", 2_000)
            await reader.until(lambda: "reconnecting" in reader.states)
            await reader.call("tick", 1_000)
            assert await asyncio.wait_for(asked.get(), 20) == "/v1/sessions/s1/ws?after=5-1"
