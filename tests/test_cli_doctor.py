"""`holdfast doctor`: each fault that can be seeded is found, told with its remedy, and gone once that is applied."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared import keys
from shared.directory import Directory
from shared.embedded import wait_ready
from shared.events import encode
from shared.log import Log, Retention
from tests.support import sessions
from tests.support.cli import Said, holdfast
from tests.support.cluster import cluster
from tests.support.ports import free_port
from tests.support.redis_client import connected
from tests.support.redis_server import RedisServer, redis_server
from tests.support.rewriting import rewriting
from tests.support.sentinel import sentinel_group
from tests.support.system import ROOT

WORKER = "host-1-abc"
LEASE_MS = 120_000
CHECKS = {
    "settings", "reach", "version", "eviction", "memory", "persistence", "replicas", "topology", "rights", "scripts",
    "clock", "workers", "queue", "sessions", "expiry",
}  # fmt: skip


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """As deploy/redis.conf has it: append-only, limited, nothing evicted."""
    with redis_server("--appendonly", "yes", "--maxmemory", "200mb") as server:
        yield server


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Any]:
    async with connected(server.url) as client:
        yield client


@pytest.fixture
async def well(client: Any) -> Any:
    """A deployment with which nothing is wrong: a worker is alive. Gives its Redis."""
    await Directory(client).refresh_lease(WORKER, LEASE_MS, encode({"host": "h", "pid": 1, "generations": 0}).decode())
    return client


def _log(client: Any) -> Log:
    return Log(client, Retention(60_000, 60_000))


async def _asked(url: str, **environment: str) -> tuple[Said, dict[str, dict[str, Any]]]:
    """The findings that are not ✓, by check."""
    said = await holdfast("doctor", "--json", redis_url=url, environment=environment)
    assert said.out, said.err
    found = said.json["findings"]
    slow = ("reach", "warn")  # which this machine may be, without a fault of anybody's
    wrong = [each for each in found if each["level"] != "ok" and (each["check"], each["level"]) != slow]
    return said, {each["check"]: each for each in wrong}


async def _ill(url: str, check: str, *words: str, **environment: str) -> None:
    """This check alone fails, its finding and remedy have these words, and a program sees it by the status."""
    (said, found), shown = await asyncio.gather(
        _asked(url, **environment), holdfast("doctor", redis_url=url, environment=environment)
    )
    assert list(found) == [check], found
    assert (found[check]["level"], said.status) == ("bad", 1)
    text = f"{found[check]['text']} → {found[check]['remedy']}"
    for word in words:
        assert word in text
    assert re.search(rf"^✗ +{check} ", shown.out, re.MULTILINE)
    assert found[check]["remedy"].split()[0] in shown.out


async def _healthy(url: str) -> None:
    said, found = await _asked(url)
    assert (said.status, found) == (0, {})


@pytest.mark.usefixtures("well")
async def test_nothing_is_found_where_nothing_is_wrong(server: RedisServer) -> None:
    """Every check says what it has seen; the status is 0."""
    (said, found), shown = await asyncio.gather(_asked(server.url), holdfast("doctor", redis_url=server.url))
    assert found == {}
    assert {each["check"] for each in said.json["findings"]} == CHECKS
    assert (said.status, said.json["level"]) == (0, "ok")
    assert "All is well." in shown.out


async def test_nothing_is_left_by_it(server: RedisServer, well: Any) -> None:
    """What it wrote to try its rights is gone."""
    before = {key async for key in well.scan_iter("*")}
    await _healthy(server.url)
    assert {key async for key in well.scan_iter("*")} == before


# -- Redis


async def test_finds_a_policy_that_evicts(server: RedisServer, well: Any) -> None:
    """It would delete logs; the remedy mends it."""
    await well.config_set("maxmemory-policy", "allkeys-lru")
    await _ill(server.url, "eviction", "allkeys-lru", "CONFIG SET maxmemory-policy noeviction")
    await well.config_set("maxmemory-policy", "noeviction")
    await _healthy(server.url)


async def test_finds_that_nothing_is_persisted(server: RedisServer, well: Any) -> None:
    """No file of any kind; the remedy mends it."""
    await well.config_set("appendonly", "no")
    await _ill(server.url, "persistence", "forgets every session", "CONFIG SET appendonly yes")
    await well.config_set("appendonly", "yes")
    await _healthy(server.url)


async def test_warns_of_snapshots_only(server: RedisServer, well: Any) -> None:
    """Less than an append-only file, more than nothing."""
    await well.config_set("appendonly", "no")
    await well.config_set("save", "3600 1")
    said, found = await _asked(server.url)
    assert (said.status, found["persistence"]["level"]) == (0, "warn")


@pytest.mark.usefixtures("well")
async def test_finds_a_version_that_is_too_old(server: RedisServer) -> None:
    """By what the server says of itself."""
    version = server.ask("INFO", "server")["redis_version"]
    older = "5" + version[1:]
    async with rewriting(server.port, b"redis_version:" + version.encode(), b"redis_version:" + older.encode()) as port:
        await _ill(f"redis://127.0.0.1:{port}/0", "version", older, "upgrade to 6.2")


async def test_finds_a_memory_that_is_nearly_full(server: RedisServer, well: Any) -> None:
    """Before writes are refused; the remedy mends it."""
    await well.set("filler", "x" * 20_000_000, ex=600)
    async with asyncio.timeout(20):
        while (used := int((await well.info("memory"))["used_memory"])) > 24_000_000:
            await asyncio.sleep(0.05)  # it still has the buffers by which that came
    await well.config_set("maxmemory", int(used / 0.93))
    await _ill(server.url, "memory", "used", "raise maxmemory")
    await well.config_set("maxmemory", "200mb")
    await _healthy(server.url)


async def test_finds_that_writes_are_refused_for_want_of_replicas(server: RedisServer, well: Any) -> None:
    """Both by its settings and by trying; the remedy mends it."""
    await well.config_set("min-replicas-to-write", 1)
    said, found = await _asked(server.url)
    assert said.status == 1
    assert {name: each["level"] for name, each in found.items()} == {"replicas": "bad", "rights": "bad"}
    assert "min-replicas-to-write 0" in found["replicas"]["remedy"]
    assert "NOREPLICAS" in found["rights"]["text"]
    await well.config_set("min-replicas-to-write", 0)
    await _healthy(server.url)


async def test_finds_that_it_asks_a_replica(server: RedisServer, well: Any) -> None:
    """It would take no writes; its master is named."""
    with redis_server("--replicaof", "127.0.0.1", str(server.port), "--appendonly", "yes") as replica:
        async with asyncio.timeout(20):
            while not (await well.info("replication"))["connected_slaves"]:
                await asyncio.sleep(0.02)
        _, found = await _asked(replica.url)
        assert f"127.0.0.1:{server.port}" in found["replicas"]["text"]
        assert "must name its master" in found["replicas"]["remedy"]


async def test_finds_a_node_of_a_cluster_that_is_asked_as_if_alone(tmp_path: Path) -> None:
    """And says which URL is meant."""
    arguments = ("--cluster-enabled", "yes", "--cluster-config-file", str(tmp_path / "nodes.conf"))
    with redis_server(*arguments, "--appendonly", "yes") as node:
        _, found = await _asked(node.url)
        assert "redis+cluster://" in found["topology"]["remedy"]


async def test_finds_a_redis_that_is_none(tmp_path: Path) -> None:
    """The last resort of `holdfast dev` is not for production."""
    port = free_port()
    fake = subprocess.Popen([sys.executable, "-m", "shared.embedded_fake", str(port)], cwd=ROOT)
    try:
        await asyncio.to_thread(wait_ready, fake, port)
        said, found = await _asked(f"redis://127.0.0.1:{port}/0")
        assert said.status == 1
        assert "no real Redis" in found["version"]["text"]
        assert "install redis-server" in found["version"]["remedy"]
    finally:
        fake.kill()
        fake.wait()


async def test_finds_that_redis_is_away() -> None:
    """Then nothing else is asked, and the status is that of a fault that was found."""
    said, found = await _asked(f"redis://127.0.0.1:{free_port()}/0")
    assert (said.status, list(found), found["reach"]["level"]) == (1, ["reach"], "bad")
    assert "HOLDFAST_REDIS_URL" in found["reach"]["remedy"]


async def test_finds_that_credentials_are_refused(server: RedisServer, well: Any) -> None:
    """Told apart from a server that is away."""
    await well.execute_command("ACL SETUSER", "default", "resetpass", ">right")
    said, found = await _asked(server.url.replace("://", "://:wrong@"))
    assert (said.status, "refuses the credentials" in found["reach"]["text"]) == (1, True)


async def test_finds_a_right_that_is_missing(server: RedisServer, well: Any) -> None:
    """By trying all that nodes and workers do; the remedy, as it is told, mends it."""
    await well.execute_command("ACL SETUSER", "node", "on", ">pw", "~*", "&*", "+@all", "-xadd", "-publish")
    url = server.url.replace("://", "://node:pw@")
    await _ill(url, "rights", "PUBLISH, XADD", "ACL SETUSER node +publish +xadd,")
    _, found = await _asked(url)
    command = found["rights"]["remedy"].removeprefix("redis-cli ").partition(", and")[0]
    await well.execute_command(*command.replace("'", "").split())
    await _healthy(url)


async def test_finds_keys_that_the_user_may_not_touch(server: RedisServer, well: Any) -> None:
    """The commands are granted, the keys are not."""
    await well.execute_command("ACL SETUSER", "node", "on", ">pw", "~other:*", "&*", "+@all")
    _, found = await _asked(server.url.replace("://", "://node:pw@"))
    assert "~holdfast:*" in found["rights"]["remedy"]


async def test_the_user_of_deploy_may_do_all_that_is_needed(server: RedisServer, well: Any) -> None:
    """What it may not look at is told as such, and is no fault."""
    line = next(each for each in (ROOT / "deploy/users.acl").read_text().splitlines() if "user holdfast" in each)
    await well.execute_command("ACL SETUSER", *line.split()[1:])
    said, found = await _asked(server.url.replace("://", "://holdfast:CHANGE-ME@"))
    assert said.status == 0, found
    assert {each["level"] for each in found.values()} == {"warn"}
    assert found.keys() == {"expiry"}


@pytest.mark.usefixtures("well")
@pytest.mark.parametrize(("seconds", "level"), [(-60, "bad"), (60, "bad"), (3, "warn")])
async def test_finds_clocks_that_differ(server: RedisServer, seconds: int, level: str) -> None:
    """In either direction, and names what mends it."""

    def shifted(found: re.Match[bytes]) -> bytes:
        return b"*2\r\n$10\r\n%d\r\n$" % (int(found[1]) + seconds)

    async with rewriting(server.port, rb"\*2\r\n\$10\r\n(\d{10})\r\n\$", shifted) as port:
        said, found = await _asked(f"redis://127.0.0.1:{port}/0")
        assert (list(found), found["clock"]["level"]) == (["clock"], level)
        assert ("ahead of" if seconds > 0 else "behind") in found["clock"]["text"]
        assert "NTP" in found["clock"]["remedy"]
        assert said.status == (level == "bad")


# -- work


async def test_finds_that_no_worker_is_alive(server: RedisServer, well: Any) -> None:
    """And says what to start."""
    await well.delete(keys.worker(WORKER))
    await _ill(server.url, "workers", "none is alive", "holdfast worker")


async def test_finds_a_queue_that_is_stuck(server: RedisServer, well: Any) -> None:
    """Depth, the session of the oldest job, and its age; a job of this moment is none."""
    now = await Directory(well).now_ms()
    await well.zadd(keys.QUEUE, {"fresh:1": now + 60_000})  # a busy machine must not make it old
    await _healthy(server.url)
    await well.zadd(keys.QUEUE, {"waiting:1": now - 60_000})
    await _ill(server.url, "queue", "2 jobs", "(waiting)", "1m0", "start workers")


async def test_finds_a_queue_that_is_away(server: RedisServer, well: Any) -> None:
    """It may be another Redis than that of the log."""
    away = f"redis://127.0.0.1:{free_port()}/0"
    await _ill(server.url, "queue", "Redis refused", HOLDFAST_QUEUE_URL=away)


async def test_finds_a_session_without_a_live_worker(server: RedisServer, well: Any) -> None:
    """Named, as long as nobody takes it over; how to end it is told, and ends it."""
    log, directory = _log(well), Directory(well)
    await directory.expect_live("lost")
    await sessions.started(log, "lost", "dead-worker")
    await _healthy(server.url)  # a worker that took it a moment ago may have its lease on its way
    await well.hset(keys.session("lost"), "since", await directory.now_ms() - 60_000)
    await _ill(server.url, "sessions", "lost", "holdfast stop SID")


async def _looks(client: Any) -> int:
    """How often somebody has looked for workers by now."""
    calls = (await client.info("commandstats")).get("cmdstat_zrevrangebyscore", {}).get("calls", 0)
    return int(calls)


async def test_gives_takeover_its_time(server: RedisServer, well: Any) -> None:
    """A worker was lost, others are alive: if the session is taken over meanwhile, nothing is wrong."""
    log, directory = _log(well), Directory(well)
    await directory.expect_live("moved")
    await sessions.started(log, "moved", "dead-worker")
    await well.hset(keys.session("moved"), "since", await directory.now_ms() - 60_000)
    asking = asyncio.create_task(_asked(server.url))
    async with asyncio.timeout(20):
        while await _looks(well) < 3:  # one tries the right to, one counts workers, one gives them their time
            await asyncio.sleep(0.05)
    await well.hset(keys.session("moved"), "worker", WORKER)
    said, found = await asking
    assert (said.status, found) == (0, {})


async def test_finds_keys_that_stay_for_ever(server: RedisServer, well: Any) -> None:
    """A log of a session that is over and does not expire; the remedy mends it."""
    await sessions.finished(_log(well), "over")
    await _healthy(server.url)
    await well.persist(keys.events(sessions.SID))
    said, found = await _asked(server.url)
    assert (said.status, found["expiry"]["level"]) == (0, "warn")
    assert keys.events(sessions.SID) in found["expiry"]["text"]
    assert "PEXPIRE" in found["expiry"]["remedy"]
    await well.pexpire(keys.events(sessions.SID), 1000)
    await _healthy(server.url)


# -- settings


@pytest.mark.usefixtures("well")
@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"HOLDFAST_HEARTBEAT_S": "4"}, ("HOLDFAST_LEASE_S=6", "three heartbeats")),
        ({"HOLDFAST_HOST": "0.0.0.0"}, ("can be reached from elsewhere", "HOLDFAST_AUTH=keys")),
        ({"HOLDFAST_LEASE": "4"}, ("unknown setting HOLDFAST_LEASE", "unset or correct")),
        ({"HOLDFAST_PORT": "many"}, ("HOLDFAST_PORT", "unset or correct")),
    ],
)
async def test_finds_settings_that_cannot_be(
    server: RedisServer, environment: dict[str, str], words: tuple[str, ...]
) -> None:
    """Those of this environment: wrong ones, and two that contradict each other."""
    await _ill(server.url, "settings", *words, **environment)


# -- other topologies


async def test_sentinels_that_cannot_agree_are_found() -> None:
    """All there: no fault of the topology. Too few to vote: told, with what to ask them."""
    with sentinel_group() as group:
        group.until_whole()
        _, found = await _asked(group.url)
        assert "topology" not in found
        for sentinel in group.sentinels[1:]:
            sentinel.kill()
        said, found = await _asked(group.url)
        assert said.status == 1
        assert (found["topology"]["level"], "CKQUORUM" in found["topology"]["remedy"]) == ("bad", True)


async def test_a_cluster_is_looked_at_server_by_server() -> None:
    """What is wrong with one of its masters is told with its port; sessions are found on all of them."""
    with cluster() as group, redis_server("--appendonly", "yes", "--maxmemory", "200mb") as queue:
        elsewhere = {"HOLDFAST_QUEUE_URL": queue.url}
        async with connected(group.url, connections=2) as redis:
            for sid in ("one", "two", "three", "four", "five", "six"):
                await sessions.finished(_log(redis), "x", sid=sid)
        group.masters()[0].ask("CONFIG", "SET", "maxmemory", "100mb")
        group.masters()[0].ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        said = await holdfast("doctor", "--json", redis_url=group.url, environment=elsewhere)
        assert said.out, said.err
        evicting = [each for each in said.json["findings"] if each["check"] == "eviction" and each["level"] == "bad"]
        assert [f"port {group.masters()[0].port}" in each["text"] for each in evicting] == [True]
        whole = [
            each for each in said.json["findings"] if each["check"] in ("topology", "rights", "scripts", "settings")
        ]
        assert {each["level"] for each in whole} == {"ok"}, whole
        listed = await holdfast("sessions", "--json", redis_url=group.url)
        assert {each["id"] for each in listed.json["sessions"]} == {"one", "two", "three", "four", "five", "six"}
        assert "over: completed" in (await holdfast("show", "five", redis_url=group.url)).out
        assert len((await holdfast("tail", "five", "--json", redis_url=group.url)).lines) == 4
