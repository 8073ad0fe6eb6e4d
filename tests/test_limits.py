"""What one principal may have: turns a minute, live sessions, open streams. Beyond it 429, with a time to come back."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from api.quota import OpenStreams, Quota
from shared import keys
from shared.directory import Directory
from shared.errors import RateLimited, TooManySessions, TooManyStreams
from shared.log import Log
from shared.settings import Settings
from tests.support.cluster import cluster
from tests.support.credentials import ALICE, BOB, bearer, settings_of_keys
from tests.support.inprocess import LiveNode, live_node, live_worker
from tests.support.redis_client import connected
from tests.support.redis_server import redis_server
from tests.support.sessions import finish, started
from tests.support.sse import SSE

SLOW = {"input": "x", "options": {"tokens": 10_000, "rate": 1}}
"""Live as long as a test lasts."""


def quota(redis: Any, log: Log, **changes: Any) -> Quota:
    return Quota(Settings(**changes), redis, log, Directory(redis))


async def post(node: LiveNode, key: str = ALICE, path: str = "", **body: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=node.url, headers=bearer(key)) as http:
        return await http.post(f"/v1/sessions{path}", json=body or SLOW)


def assert_refused(response: httpx.Response, code: str) -> None:
    assert (response.status_code, response.json()["error"]["code"]) == (429, code)
    assert 1 <= int(response.headers["retry-after"]) <= 60


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[LiveNode]:
    limits = {"turns_per_minute": 6, "live_sessions": 3, "open_streams": 2}
    async with live_node(redis_url, **settings_of_keys(**limits)) as node, live_worker(redis_url):
        yield node


# -- turns a minute


async def test_rate_of_turns(redis: Any, log: Log) -> None:
    """As many turns as are allowed go through, not one more; another principal has as many of its own."""
    limits = quota(redis, log, turns_per_minute=10)
    passed = await asyncio.gather(*(limits.turn("alice", f"s{n}") for n in range(25)), return_exceptions=True)
    assert [type(each) for each in passed if each is not None] == [RateLimited] * 15
    await limits.turn("bob", "s1")


async def test_rate_is_shared_by_nodes(redis: Any, log: Log) -> None:
    """Another node counts on where the first one stopped."""
    for _ in range(3):
        await quota(redis, log, turns_per_minute=3).turn("alice", "s1")
    with pytest.raises(RateLimited) as refused:
        await quota(redis, log, turns_per_minute=3).turn("alice", "s1")
    assert 1 <= refused.value.retry_after_s <= 60


async def test_rate_keys_expire(redis: Any, log: Log) -> None:
    """Counters stand under this project's prefix, and none stays for ever."""
    await quota(redis, log, turns_per_minute=3, live_sessions=3).turn("alice", "s1")
    found = await redis.keys("*")
    assert len(found) == 2
    assert all(key.startswith(b"holdfast:") for key in found)
    assert all([await redis.ttl(key) > 0 for key in found])


async def test_rate_over_http(node: LiveNode) -> None:
    """New sessions and messages count together, over every transport; others go on."""
    assert (await post(node)).status_code == 201
    sid = (await post(node)).json()["id"]
    for _ in range(2):
        assert (await post(node, path=f"/{sid}/messages", input="x", interrupt=True)).status_code == 201
    async with SSE(node.url, "/api/chat/stream?message=x", bearer(ALICE)) as stream:
        assert stream.status == 200
    async with connect(f"{node.url.replace('http', 'ws')}/ws/chat", additional_headers=bearer(ALICE)) as socket:
        await socket.send("hello")
        assert '"rate_limited"' not in str(await socket.recv())
    assert_refused(await post(node), "rate_limited")
    assert_refused(await post(node, path=f"/{sid}/messages", input="x", interrupt=True), "rate_limited")
    async with SSE(node.url, "/api/chat/stream?message=x", bearer(ALICE)) as stream:
        assert (stream.status, "retry-after" in stream.headers) == (429, True)
    async with connect(f"{node.url.replace('http', 'ws')}/ws/chat", additional_headers=bearer(ALICE)) as socket:
        await socket.send("hello")
        assert '"rate_limited"' in str(await socket.recv())
    assert (await post(node, BOB)).status_code == 201


async def test_rate_while_redis_is_away() -> None:
    """What cannot be counted is let through here: without Redis nothing can be started anyway."""
    with redis_server() as server:
        async with connected(server.url, connections=2, timeout_s=1) as redis:
            limits = quota(redis, Log(redis, Settings().retention), turns_per_minute=1, live_sessions=1)
            await limits.turn("alice", "s1")
            server.kill()
            await limits.turn("alice", "s2")


async def test_limits_on_a_cluster() -> None:
    """Where keys are spread over servers the counts hold all the same."""
    with cluster() as servers:
        async with connected(servers.url, connections=2) as redis:
            limits = quota(redis, Log(redis, Settings().retention), turns_per_minute=4, live_sessions=2)
            for principal in ("alice", "bob", "carol"):
                passed = await asyncio.gather(
                    *(limits.turn(principal, f"s{n}") for n in range(6)), return_exceptions=True
                )
                kinds = [type(each) for each in passed if each is not None]
                assert (kinds.count(RateLimited), kinds.count(TooManySessions)) == (2, 2)


# -- live sessions


async def live(log: Log, redis: Any, sid: str, principal: str = "alice") -> Any:
    held = await started(log, sid)
    await redis.hset(keys.session(sid), "principal", principal)
    return held


async def test_live_sessions(redis: Any, log: Log) -> None:
    """One more than allowed is refused; a further turn of one that is counted is not; another principal has its
    own."""
    limits = quota(redis, log, live_sessions=2)
    for sid in ("s1", "s2"):
        await limits.turn("alice", sid)
        await live(log, redis, sid)
    with pytest.raises(TooManySessions):
        await limits.turn("alice", "s3")
    await limits.turn("alice", "s2")
    await quota(redis, log, live_sessions=1).turn("alice", "s2")  # also where the limit was lowered since
    await limits.turn("bob", "s4")


async def test_ended_sessions_make_room(redis: Any, log: Log) -> None:
    """A session whose generation is over does not count, whoever ended it and wherever; nor does one that is gone."""
    limits = quota(redis, log, live_sessions=2)
    for sid in ("s1", "s2"):
        await limits.turn("alice", sid)
    held, _ = await live(log, redis, "s1"), await live(log, redis, "s2")
    await finish(log, held, 2, "s1")
    await limits.turn("alice", "s3")
    await live(log, redis, "s3")
    with pytest.raises(TooManySessions):
        await limits.turn("alice", "s4")
    await log.delete("s2")
    await redis.zadd(keys.running("alice"), {"s2": 1})
    await limits.turn("alice", "s4")


async def test_refused_session_leaves_nothing(redis: Any, log: Log) -> None:
    """Trying again and again does not fill the count with sessions that never were."""
    limits = quota(redis, log, live_sessions=1)
    await limits.turn("alice", "s1")
    await live(log, redis, "s1")
    for n in range(5):
        with pytest.raises(TooManySessions):
            await limits.turn("alice", f"n{n}")
    assert await redis.zrange(keys.running("alice"), 0, -1) == [b"s1"]


async def test_foreign_session_does_not_count(redis: Any, log: Log) -> None:
    """A live session of somebody else's, whose id was tried, is not counted as one's own."""
    limits = quota(redis, log, live_sessions=1)
    await live(log, redis, "bobs", "bob")
    await limits.turn("alice", "bobs")
    await limits.turn("alice", "s1")


async def test_sessions_under_way_count(redis: Any, log: Log) -> None:
    """Many creates at once do not slip through before the first of them is there; those that failed count for a while
    only."""
    limits = quota(redis, log, live_sessions=3)
    passed = await asyncio.gather(*(limits.turn("alice", f"s{n}") for n in range(10)), return_exceptions=True)
    assert len([each for each in passed if each is None]) == 3
    for sid in await redis.zrange(keys.running("alice"), 0, -1):
        await redis.zadd(keys.running("alice"), {sid: 1})
    await limits.turn("alice", "later")


async def test_lost_count_heals(redis: Any, log: Log) -> None:
    """Where the count itself is lost with its Redis nobody is locked out, and it fills again."""
    limits = quota(redis, log, live_sessions=1)
    await limits.turn("alice", "s1")
    await live(log, redis, "s1")
    await redis.delete(keys.running("alice"))
    await limits.turn("alice", "s1")
    with pytest.raises(TooManySessions):
        await limits.turn("alice", "s2")


async def test_live_sessions_over_http(node: LiveNode) -> None:
    """A session too many is refused and does not come into being; the end of one makes room."""
    made = [(await post(node)).json()["id"] for _ in range(3)]
    assert_refused(await post(node, id="extra", input="x"), "too_many_sessions")
    async with httpx.AsyncClient(base_url=node.url, headers=bearer(ALICE)) as http:
        assert (await http.get("/v1/sessions/extra")).status_code == 404
        assert (await http.post(f"/v1/sessions/{made[0]}/stop")).json()["state"] == "cancelled"
    assert (await post(node)).status_code == 201


# -- open streams


def test_open_streams_count_down() -> None:
    """Each end makes room for another one, and nothing stays of who has none."""
    streams = OpenStreams(Settings(open_streams=2))
    with streams.one("alice"), streams.one("alice"), streams.one("bob"), pytest.raises(TooManyStreams):
        streams.one("alice").__enter__()
    with streams.one("alice"), streams.one("alice"):
        pass
    assert not streams._open


async def test_open_streams_over_every_transport(node: LiveNode) -> None:
    """SSE and WebSocket count together. One too many over SSE is a 429; over WebSocket a close that says to come back
    later. Each that goes makes room."""
    sid = (await post(node)).json()["id"]
    path, socket_url = f"/v1/sessions/{sid}/events", f"{node.url.replace('http', 'ws')}/v1/sessions/{sid}/ws"
    async with SSE(node.url, path, bearer(ALICE)) as first:
        assert first.status == 200
        async with connect(socket_url, additional_headers=bearer(ALICE)) as socket:
            assert "message" in str(await socket.recv())
            async with SSE(node.url, path, bearer(ALICE)) as third:
                assert (third.status, third.headers["retry-after"]) == (429, "5")
            async with connect(socket_url, additional_headers=bearer(ALICE)) as fourth:
                with pytest.raises(ConnectionClosed):
                    await fourth.recv()
            assert (fourth.close_code, fourth.close_reason) == (1013, "too_many_streams")
            async with SSE(node.url, path, bearer(BOB)) as bobs:
                assert bobs.status == 404
    async with asyncio.timeout(10):
        while node.node.hub.streams._open:  # a node learns of a client's going a moment later
            await asyncio.sleep(0.01)
    async with SSE(node.url, path, bearer(ALICE)) as again:
        assert again.status == 200


# -- where nothing is said


async def test_no_limit_without_authentication(redis: Any, log: Log) -> None:
    """All callers are one there: limits hold only where they are asked for."""
    limits = quota(redis, log)
    await asyncio.gather(*(limits.turn("anonymous", f"s{n}") for n in range(700)))
    assert await redis.keys("*") == []


async def test_limits_with_authentication(redis: Any, log: Log) -> None:
    """With authentication there are limits where nothing is said, and none where 0 is."""
    limits = quota(redis, log, **settings_of_keys(live_sessions=0))
    passed = await asyncio.gather(*(limits.turn("alice", f"s{n}") for n in range(700)), return_exceptions=True)
    assert len([each for each in passed if isinstance(each, RateLimited)]) == 100


async def test_idempotent_create_is_no_second_session(node: LiveNode) -> None:
    """A repeat is counted once among the live sessions, and answered as before also where there is no room left."""
    async with httpx.AsyncClient(base_url=node.url, headers=bearer(ALICE)) as http:
        headers = {"Idempotency-Key": "k"}
        first = await http.post("/v1/sessions", json=SLOW, headers=headers)
        for _ in range(2):
            assert (await post(node)).status_code == 201
        again = await http.post("/v1/sessions", json=SLOW, headers=headers)
    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])
