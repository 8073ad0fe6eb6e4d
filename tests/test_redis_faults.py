"""Faults of one Redis under generations and their readers: it goes away, refuses, or forgets everything.

Wherever the log comes back, every reader ends with the whole text and no event twice. `HOLDFAST_TEST_OUTAGE_S=30` makes
the outages as long.
"""

import asyncio
import contextlib
import json
import os
import random
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from shared import keys
from shared.jobs import JobQueue, open_queue
from shared.log import Log
from shared.redis import RedisError, transient
from shared.topology.connections import cut
from tests.support.flow import create, speech
from tests.support.inprocess import live_node, live_worker
from tests.support.load import Account, Load, load
from tests.support.ports import free_port
from tests.support.redis_client import connected
from tests.support.redis_server import RedisServer, redis_server
from tests.support.sentinel import wait_until
from tests.support.sse import SSE, events_path

OUTAGE_S = float(os.environ.get("HOLDFAST_TEST_OUTAGE_S", "3"))
QUICK: dict[str, Any] = {"lease_s": 1.5, "heartbeat_s": 0.5, "redis_timeout_s": 1.0}
"""Leases that every outage outlasts: nobody may be taken for dead because Redis was."""
SESSIONS, TOKENS, RATE = 6, 300, 75.0
WITHIN_S = 60 + OUTAGE_S
KEPT = ("--appendonly", "yes", "--appendfsync", "everysec")


@contextlib.asynccontextmanager
async def _under_load(server: RedisServer) -> Any:
    async with (
        live_node(server.url, **QUICK) as node,
        live_worker(server.url, **QUICK),
        load(node.url, sessions=SESSIONS, tokens=TOKENS, rate=RATE) as under,
    ):
        await under.said(3)
        assert not any(reader.over for reader in under.readers)
        yield node, under


async def _healed(node: Any, under: Load) -> None:
    await under.over(WITHIN_S)
    account: Account = await under.account(node.node.log)
    print(f"slowest {account.slowest_s:.2f} s")
    assert account.clean, account
    assert account.second_attempts == 0


# -- it goes away


async def test_killed_and_restarted_with_its_file() -> None:
    """Killed in the middle and started at once with its append-only file."""
    with redis_server(*KEPT) as server:
        async with _under_load(server) as (node, under):
            server.kill()
            await asyncio.to_thread(server.start)
            await _healed(node, under)


async def test_refuses_connections_for_longer_than_leases_live() -> None:
    """Generations go on saying things, and what they said arrives; no worker is taken for dead."""
    with redis_server(*KEPT) as server:
        async with _under_load(server) as (node, under):
            server.kill()
            await asyncio.sleep(OUTAGE_S)
            await asyncio.to_thread(server.start)
            await _healed(node, under)


async def test_hangs_for_longer_than_leases_live() -> None:
    """The same, where connections stay open and nobody answers."""
    with redis_server() as server:
        async with _under_load(server) as (node, under):
            server.pause()
            await asyncio.sleep(OUTAGE_S)
            server.resume()
            await _healed(node, under)


async def test_commands_wait_and_then_say_that_it_is_away() -> None:
    """Without Redis a node says 503 and when to come back, within a bound, and is not ready."""
    with redis_server() as server:
        async with live_node(server.url, **QUICK) as node, httpx.AsyncClient(base_url=node.url, timeout=15) as client:
            await create(client)
            server.kill()
            refused = await client.post("/v1/sessions", json={"model": "demo/echo", "input": "hello"})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert (await client.get("/readyz")).status_code == 503
            await asyncio.to_thread(server.start)
            assert (await client.get("/readyz")).status_code == 200


async def test_a_command_outlives_a_short_absence() -> None:
    """A command, a pipeline and a job's way into the queue wait for a Redis that is back within a moment."""
    with redis_server(*KEPT) as server:
        async with (
            connected(server.url, connections=3) as client,
            contextlib.aclosing(JobQueue(open_queue(server.url, 5))) as queue,
        ):
            server.kill()
            back = asyncio.get_running_loop().run_in_executor(None, _start_after, server, 0.15)
            pipe = client.pipeline(transaction=False).set("one", 1).set("two", 2)
            await asyncio.gather(client.set("three", 3), pipe.execute(), queue.enqueue("s1", "g1", 1))
            await back
            assert await client.mget("one", "two", "three") == [b"1", b"2", b"3"]
            assert await client.zrange(keys.QUEUE, 0, -1) == [b"s1:1"]


async def test_cut_connections_are_lost_ones() -> None:
    """Connections that are cut under their users, at any moment, are as if Redis had closed them: what can be repeated
    is, and nobody meets another error than Redis' own."""
    with redis_server() as server:
        async with connected(server.url) as client:
            cutting = asyncio.create_task(_cut_again_and_again(client.connection_pool))
            for _ in range(10):
                pipe = client.pipeline(transaction=False)
                for n in range(20):
                    pipe.set(f"key:{n}", "x" * 1000)
                replies = await asyncio.gather(
                    *(client.get("key:1") for _ in range(10)), pipe.execute(), return_exceptions=True
                )
                assert {type(reply) for reply in replies if isinstance(reply, Exception)} <= {RedisConnectionError}
            cutting.cancel()
            await client.set("key:1", "again")
            assert await client.get("key:1") == b"again"


async def _cut_again_and_again(pool: Any) -> None:
    while True:
        for connection in [*pool._available_connections, *pool._in_use_connections]:
            cut(connection)
        await asyncio.sleep(random.uniform(0, 0.002))


def _start_after(server: RedisServer, seconds: float) -> None:
    time.sleep(seconds)
    server.start()


async def test_empty_restart_ends_everything() -> None:
    """A Redis that has forgotten everything: readers are told, generations end, and new sessions work."""
    with redis_server() as server:
        async with _under_load(server) as (node, under):
            server.kill()
            await asyncio.to_thread(server.start)
            await under.over(WITHIN_S)
            assert {reader.statuses[-1] for reader in under.readers} == {404}
            async with asyncio.timeout(WITHIN_S), httpx.AsyncClient(base_url=node.url) as client:
                while any(_held(server)):
                    await asyncio.sleep(0.05)
                sid = await create(client, **speech(20))
                async with SSE(node.url, events_path(sid)) as stream:
                    assert [frame async for frame in stream.frames()][-1].type == "generation.completed"


def _held(server: RedisServer) -> list[int]:
    """How many generations each worker says it holds. A worker that has not said so yet counts as one."""
    with server.client() as client:
        leases = client.mget(list(client.scan_iter(keys.WORKERS)) or ["none"])
    return [json.loads(lease)["generations"] if lease else 1 for lease in leases]


# -- it answers, and refuses


@dataclass(frozen=True)
class Refusal:
    """A state in which Redis takes no writes, and the way out."""

    into: tuple[tuple[str, ...], ...]
    out: tuple[tuple[str, ...], ...]
    reads: bool
    """Whether it still answers reads."""


REFUSALS = {
    "OOM": Refusal((("CONFIG", "SET", "maxmemory", "1"),), (("CONFIG", "SET", "maxmemory", "0"),), reads=True),
    "READONLY": Refusal((("REPLICAOF", "127.0.0.1", "1"),), (("REPLICAOF", "NO", "ONE"),), reads=True),
    "MASTERDOWN": Refusal(
        (("CONFIG", "SET", "replica-serve-stale-data", "no"), ("REPLICAOF", "127.0.0.1", "1")),
        (("REPLICAOF", "NO", "ONE"),),
        reads=False,
    ),
    "NOREPLICAS": Refusal(
        (("CONFIG", "SET", "min-replicas-to-write", "1"),),
        (("CONFIG", "SET", "min-replicas-to-write", "0"),),
        reads=True,
    ),
    "NOPERM": Refusal((("ACL", "SETUSER", "default", "-xadd"),), (("ACL", "SETUSER", "default", "+xadd"),), reads=True),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_refusals_delay_and_lose_nothing(name: str) -> None:
    """While Redis takes no writes generations go on; whoever comes meanwhile reads what is there, if it can be read."""
    refusal = REFUSALS[name]
    with redis_server() as server:
        async with _under_load(server) as (node, under):
            for command in refusal.into:
                server.ask(*command)
            await asyncio.sleep(1.0)  # several heartbeats and appends
            if refusal.reads:
                await _can_be_read(node.url, under.readers[0].sid)
            async with httpx.AsyncClient(base_url=node.url, timeout=15) as client:
                refused = await client.post("/v1/sessions", json={"model": "demo/echo", "input": "hello"})
                assert refused.status_code == 503, refused.text
            for command in refusal.out:
                server.ask(*command)
            await _healed(node, under)


async def _can_be_read(base: str, sid: str) -> None:
    async with asyncio.timeout(10), SSE(base, events_path(sid)) as stream:
        async for frame in stream.frames():
            if frame.type == "text.delta":
                break
    async with httpx.AsyncClient(base_url=base, timeout=10) as client:
        assert (await client.get(f"/v1/sessions/{sid}")).json()["state"] == "running"


async def test_busy_with_a_script() -> None:
    """Somebody's endless script makes Redis answer BUSY to all: what was said meanwhile arrives when it is killed."""
    with redis_server("--lua-time-limit", "100") as server:
        async with _under_load(server) as (node, under):
            endless = threading.Thread(target=_run_endlessly, args=(server,))
            endless.start()
            await asyncio.sleep(1.0)
            server.ask("SCRIPT", "KILL")
            endless.join()
            await _healed(node, under)


def _run_endlessly(server: RedisServer) -> None:
    with server.client() as client, contextlib.suppress(redis.exceptions.RedisError):
        client.eval("while true do end", 0)


async def test_loading_for_a_while() -> None:
    """A Redis that reads a large file at its start answers LOADING: nobody takes that for an empty one."""
    with redis_server(*KEPT, "--key-load-delay", "150") as server:
        with server.client() as client, client.pipeline(transaction=False) as pipe:
            for n in range(15_000):
                pipe.set(f"filler:{n}", n)
            pipe.execute()
        async with _under_load(server) as (node, under):
            server.kill()
            await asyncio.to_thread(server.start, ready=False)
            await asyncio.to_thread(wait_until, lambda: _loading(server), "it was never loading")
            async with httpx.AsyncClient(base_url=node.url, timeout=15) as client:
                statuses = [reader.statuses[-1] for reader in under.readers]
                assert set(statuses) == {200}
                assert (await client.get(f"/v1/sessions/{under.readers[0].sid}")).status_code in (200, 503)
            await _healed(node, under)


def _loading(server: RedisServer) -> bool:
    try:
        server.ask("PING")
    except redis.exceptions.BusyLoadingError:
        return True
    except redis.exceptions.RedisError:
        return False
    return False


@pytest.mark.parametrize("name", REFUSALS)
async def test_what_passes_is_told_from_what_does_not(name: str, log: Log, redis_url: str) -> None:
    """Each refusal of a script's write is transient, in the words of the server that is there; a wrong type is not."""
    refusal = REFUSALS[name]
    with redis_server() as server:
        async with connected(server.url, connections=1, timeout_s=1) as client:
            await client.set("wrong", "type")
            with pytest.raises(RedisError) as wrong:
                await client.eval("return redis.call('XADD', KEYS[1], '*', 'a', 'b')", 1, "wrong")
            for command in refusal.into:
                server.ask(*command)
            with pytest.raises(RedisError) as refused:
                await client.eval("return redis.call('XADD', KEYS[1], '*', 'a', 'b')", 1, "log")
    assert transient(refused.value)
    assert not transient(wrong.value)


REDIS_6 = "Error running script (call to f_4f9a5d): @user_script:1: @user_script: 1: "


@pytest.mark.parametrize(
    ("said", "passes"),
    [
        (REDIS_6 + "-OOM command not allowed when used memory > 'maxmemory'.", True),
        (REDIS_6 + "-READONLY You can't write against a read only replica.", True),
        (REDIS_6 + "-MISCONF Redis is configured to save RDB snapshots", True),
        (REDIS_6 + "-NOREPLICAS Not enough good replicas to write.", True),
        (REDIS_6 + "The user executing the script can't run this command or subcommand", True),
        (REDIS_6 + "-WRONGTYPE Operation against a key holding the wrong kind of value", False),
        ("ERR nothing may follow the end of a generation: OOM, READONLY, BUSY", False),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", False),
    ],
)
def test_what_redis_6_says_of_a_script(said: str, passes: bool) -> None:
    """It puts the script before the reason; the same words elsewhere are no reason."""
    assert transient(ResponseError(said)) is passes


# -- it is elsewhere


@pytest.mark.parametrize("demoted", [False, True], ids=["gone", "demoted"])
async def test_name_is_looked_up_again(demoted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis moves to another address under the same name: commands, queue and subscription follow. Also where the old
    server is still there, as a replica: whatever it refuses is not asked of it again."""
    port, address = free_port(), ["127.0.0.1"]
    real = socket.getaddrinfo

    def look_up(host: Any, *rest: Any, **named: Any) -> Any:
        return real(address[0] if host == "redis.test" else host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    url = f"redis://redis.test:{port}/0"
    with redis_server(port=port) as first, redis_server(port=port, host="127.0.0.2") as second:
        async with live_node(url, **QUICK) as node, live_worker(url, **QUICK):
            await _speaks(node.url)
            address[0] = second.host
            if demoted:
                first.ask("REPLICAOF", second.host, second.port)
            else:
                first.kill()
            await _speaks(node.url)
        with second.client() as client:
            assert client.keys("holdfast:*:events")


async def _speaks(base: str) -> None:
    async with asyncio.timeout(30), httpx.AsyncClient(base_url=base, timeout=15) as client:
        while (response := await client.post("/v1/sessions", json={"input": "hi", "model": "demo/echo"})).is_error:
            await asyncio.sleep(0.1)
        async with SSE(base, events_path(response.json()["id"])) as stream:
            assert [frame async for frame in stream.frames()][-1].type == "generation.completed"
