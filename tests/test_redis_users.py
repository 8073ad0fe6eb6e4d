"""The user of deploy/users.acl: enough for everything, and no more than that."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from shared import keys
from shared.directory import Directory
from tests.support.cluster import cluster
from tests.support.flow import create, first_of, speech, whole_flow
from tests.support.inprocess import live_node, live_worker
from tests.support.redis_client import connected
from tests.support.redis_server import RedisServer, redis_server
from tests.support.sse import read_all, text_of
from tests.support.system import ROOT, Node, Process
from worker.providers.demo import lorem

DEPLOY = ROOT / "deploy"
PASSWORD = "the-password"
ADMIN = "the-administrator"
LIMITED = {"turns_per_minute": 10_000, "live_sessions": 1_000}
SETTINGS = {
    "HOLDFAST_PIPELINES": "tests.support.flow",
    "HOLDFAST_LOG_LEVEL": "warning",
    "HOLDFAST_DRAIN_S": "1",
    **{f"HOLDFAST_{name.upper()}": str(value) for name, value in LIMITED.items()},
}
ELSEWHERE = {"role", "cluster|slots", "cluster|info", "asking", "select"}
"""Granted for Sentinel, for a Cluster, and for another database than the first."""


def _users(folder: Path) -> Path:
    """The file as it is deployed, with a password; and somebody who may ask what was done."""
    deployed = (DEPLOY / "users.acl").read_text().replace("CHANGE-ME", PASSWORD)
    file = folder / "users.acl"
    file.write_text(f"{deployed}user {ADMIN} on >{ADMIN} ~* &* +@all\n")
    return file


def _as_holdfast(server: RedisServer) -> str:
    return f"redis://holdfast:{PASSWORD}@127.0.0.1:{server.port}/0"


def _admin(server: RedisServer) -> "redis.Redis":
    return redis.Redis(port=server.port, username=ADMIN, password=ADMIN, decode_responses=True)


def _granted() -> set[str]:
    line = next(line for line in (DEPLOY / "users.acl").read_text().splitlines() if line.startswith("user holdfast"))
    return {word[1:] for word in line.split() if word.startswith("+")}


@contextlib.asynccontextmanager
async def _processes(url: str) -> AsyncIterator[tuple[Node, list[Process]]]:
    node = Node(url, SETTINGS)
    workers = [Process("worker", {"HOLDFAST_REDIS_URL": url, **SETTINGS}) for _ in range(2)]
    try:
        for process in (node, *workers):
            process.start()
        await node.ready()
        yield node, workers
    finally:
        for process in (node, *workers):
            await process.kill()


async def test_the_deployed_user_can_do_everything_and_nothing_else(tmp_path: Path) -> None:
    """Create, stream, stop, answer, list, delete, takeover after kill -9: nothing is denied, no right is unused."""
    with redis_server("--aclfile", str(_users(tmp_path))) as server, _admin(server) as admin:
        async with _processes(_as_holdfast(server)) as (node, workers):
            await whole_flow(node.url)
            await _taken_over(node.url, admin, workers)
        await _swept(_as_holdfast(server))
        assert admin.acl_log() == []
        used = {name.removeprefix("cmdstat_") for name, stats in admin.info("commandstats").items() if stats["calls"]}
    assert _granted() - used - ELSEWHERE == set()


async def _swept(url: str) -> None:
    """What a reaper does to the index of live sessions some time after their end."""
    async with connected(url, connections=1) as client:
        for sid, score in (await Directory(client).live()).items():
            await Directory(client).forget_live(sid, score)


async def _taken_over(base: str, admin: "redis.Redis", workers: list[Process]) -> None:
    async with httpx.AsyncClient(base_url=base) as client:
        sid = await create(client, **speech(150, 30))
    await first_of(base, sid, "text.delta")
    holder = str(admin.hget(keys.session(sid), "worker"))
    (lost,) = [worker for worker in workers if f"-{worker.pid}-" in holder]
    await lost.kill()
    async with asyncio.timeout(30):
        frames = await read_all(base, sid, merge=0)
    starts = [n for n, frame in enumerate(frames) if frame.type == "generation.started"]
    assert [frames[n].data["attempt"] for n in starts] == [1, 2]
    assert text_of(frames[starts[-1] :]) == "".join(lorem(150))


@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("KEYS", "*"),
        ("SET", "somebody:elses", "key"),
        ("PUBLISH", "somebody:elses", "message"),
        ("ACL", "LIST"),
        ("SHUTDOWN",),
    ],
)
def test_the_deployed_user_may_not(command: tuple[str, ...], tmp_path: Path) -> None:
    """Neither administration, nor anybody else's keys and channels; and nobody comes in without a name."""
    with redis_server("--aclfile", str(_users(tmp_path))) as server:
        with redis.Redis.from_url(_as_holdfast(server)) as client, pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command)
        with server.client() as anybody, pytest.raises(redis.exceptions.AuthenticationError):
            anybody.ping()


async def test_the_deployed_user_in_a_cluster(tmp_path: Path) -> None:
    """The same rights are enough for a Cluster, and for the queue beside it."""
    users = str(_users(tmp_path))
    replication = ("--masteruser", ADMIN, "--masterauth", ADMIN)
    with cluster("--aclfile", users, *replication, admin=(ADMIN, ADMIN)) as nodes:
        with redis_server("--aclfile", users) as queue:
            url = nodes.url.replace("://", f"://holdfast:{PASSWORD}@")
            told: dict[str, Any] = {"queue_url": _as_holdfast(queue), **LIMITED}
            async with live_node(url, **told) as node, live_worker(url, **told):
                await whole_flow(node.url)
        assert [each.ask("ACL", "LOG") for each in nodes.nodes] == [[]] * 6


def test_the_deployed_configuration_is_taken(tmp_path: Path) -> None:
    """Redis starts with deploy/redis.conf and deploy/users.acl, evicts nothing and keeps a file."""
    with (
        redis_server(
            *("--aclfile", str(_users(tmp_path)), "--dir", str(tmp_path)), configuration=DEPLOY / "redis.conf"
        ) as server,
        _admin(server) as admin,
    ):
        assert admin.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert admin.config_get("appendonly")["appendonly"] == "yes"
