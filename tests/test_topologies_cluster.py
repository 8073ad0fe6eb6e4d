"""A Cluster that changes under load, and the parts that find the way."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.crc import key_slot

from shared import keys, together
from shared.log import Log, Retention
from shared.redis import RedisError
from shared.topology.connections import connection_class, options
from shared.topology.listening import ear
from shared.topology.sentinel import Sentinels
from shared.topology.url import parse
from tests.support import sessions
from tests.support.cluster import ClusterGroup, cluster
from tests.support.inprocess import live_node, live_worker
from tests.support.load import load
from tests.support.redis_client import connected
from tests.support.redis_server import RedisServer, redis_server
from tests.support.sentinel import sentinel_group

WITHIN_S = 60


@pytest.fixture(scope="module")
def nodes() -> Iterator[ClusterGroup]:
    with cluster() as running:
        yield running


@pytest.fixture
def queue() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
async def client(nodes: ClusterGroup) -> AsyncIterator[Any]:
    for each in await asyncio.to_thread(nodes.masters):
        each.ask("FLUSHALL")
    async with connected(nodes.url, connections=2) as client:
        yield client


def _myid(node: RedisServer) -> str:
    return str(node.ask("CLUSTER", "MYID").decode())


async def test_a_slot_moves_under_load(nodes: ClusterGroup, queue: RedisServer) -> None:
    """While a session's slot moves (MOVED, ASK, TRYAGAIN) its generation and readers go on."""
    async with (
        live_node(nodes.url, queue_url=queue.url) as node,
        live_worker(nodes.url, queue_url=queue.url),
        load(node.url, sessions=2, tokens=250, rate=80) as under,
    ):
        slot = key_slot(keys.events(under.readers[0].sid).encode())
        source = await asyncio.to_thread(nodes.master_of, keys.events(under.readers[0].sid))
        target = next(each for each in await asyncio.to_thread(nodes.masters) if each is not source)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", _myid(source))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", _myid(target))
        while names := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1):
            source.ask("MIGRATE", "127.0.0.1", target.port, names[0], 0, 5000)
            await asyncio.sleep(0.3)  # several appends meet a slot that lies on both
        for each in (target, source, *await asyncio.to_thread(nodes.masters)):
            each.ask("CLUSTER", "SETSLOT", slot, "NODE", _myid(target))
        assert not any(reader.over for reader in under.readers)
        await under.over(WITHIN_S)
        account = await under.account(node.node.log)
        assert nodes.master_of(keys.events(under.readers[0].sid)) is target
    assert account.clean, account
    assert account.second_attempts == 0


async def test_a_slot_that_nobody_serves_for_a_while(nodes: ClusterGroup, queue: RedisServer) -> None:
    """CLUSTERDOWN delays the sessions of that slot, and loses nothing of them."""
    async with (
        live_node(nodes.url, queue_url=queue.url) as node,
        live_worker(nodes.url, queue_url=queue.url),
        load(node.url, sessions=2, tokens=250, rate=80) as under,
    ):
        slot = key_slot(keys.events(under.readers[0].sid).encode())
        master = await asyncio.to_thread(nodes.master_of, keys.events(under.readers[0].sid))
        master.ask("CLUSTER", "DELSLOTS", slot)
        await asyncio.sleep(1.5)
        master.ask("CLUSTER", "ADDSLOTS", slot)
        assert not any(reader.over for reader in under.readers)
        await under.over(WITHIN_S)
        account = await under.account(node.node.log)
    assert account.clean, account


async def test_appends_share_the_trips_to_their_master(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Appends of one moment to sessions of three masters take three trips, not one each."""
    trips: list[int] = []
    make = together.Together._trip

    async def counted(self: together.Together, calls: list[Any]) -> None:
        trips.append(len(calls))
        await make(self, calls)

    monkeypatch.setattr(together.Together, "_trip", counted)
    log = Log(client, Retention(60_000, 60_000))
    held = {f"s{n}": await sessions.started(log, f"s{n}") for n in range(30)}
    outcomes = await asyncio.gather(
        *(log.append(sid, h.token, h.epoch, 2, sessions.deltas(sid)) for sid, h in held.items())
    )
    assert {outcome[0] for outcome in outcomes} == {"OK"}
    assert len(trips) == 3
    assert sum(trips) == 30
    for sid in held:
        assert await sessions.texts(log, sid) == [sid]


async def test_all_leases_lie_together(nodes: ClusterGroup) -> None:
    """Whoever can refresh its own lease can see all others: no master that was away makes dead workers. Each worker
    listens at the same server, so that it notices a failover of it."""
    holder = await asyncio.to_thread(nodes.master_of, keys.worker("one"))
    for n in range(10):
        assert nodes.master_of(keys.worker(f"worker-{n}")) is holder
    listening = ear(nodes.url, keys.worker("one"))
    for _ in range(3):
        connection = await listening.connect()
        assert connection.port == holder.port
        assert not await listening.moved(connection)
        await connection.disconnect()
    await listening.aclose()


async def test_sessions_are_looked_at_by_server(client: Any) -> None:
    """Batches hold sessions of one master each, and together all of them."""
    log = Log(client, Retention(60_000, 60_000))
    sids = [f"s{n}" for n in range(30)]
    for sid in sids:
        await sessions.create(log, sid)
    servers = log.by_server(sids, 7)
    assert len(servers) == 3
    assert sorted(sid for batches in servers for batch in batches for sid in batch) == sorted(sids)
    for batches in servers:
        assert max(len(batch) for batch in batches) <= 7
        assert len({client.lane(keys.session(sid)) for batch in batches for sid in batch}) == 1
        for batch in batches:
            assert None not in await log.views(batch)


async def test_only_a_master_is_connected_to() -> None:
    """A Sentinel that is behind names a server that is a replica by now: it is not taken for the master."""
    with sentinel_group() as group:
        replica, url = group.replicas()[0], parse(group.url)

        async def locate() -> tuple[str, int]:
            return replica.host, replica.port

        kind: Any = connection_class(url, located=True)
        connection = kind(locate=locate, **options(url, 5.0))
        with pytest.raises(RedisError, match="not the master"):
            await connection.connect()
        assert not connection.is_connected


async def test_sentinels_are_not_lost_by_asking_them_at_once() -> None:
    """However many ask at the same moment, also when the first Sentinel is gone, all others stay known."""
    with sentinel_group() as group:
        sentinels = Sentinels(parse(group.url))
        group.sentinels[0].kill()
        master = group.servers[0].port
        for _ in range(5):
            found = await asyncio.gather(*(sentinels.master() for _ in range(20)))
            assert {port for _, port in found} == {master}
        known = {id(each) for each in sentinels._sentinel.sentinels}
        assert len(known) == 3
        await sentinels.aclose()
