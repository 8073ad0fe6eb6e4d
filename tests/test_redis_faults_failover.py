"""Failovers under load: a master that dies, with what its replicas never got, costs no reader a word.

Each runs once here. `HOLDFAST_TEST_FAILOVERS=20` runs each so often; with `-s` a line for each is printed.
"""

import asyncio
import os
from collections.abc import Iterator

import pytest

from shared import keys, subscriber
from tests.support.cluster import ClusterGroup, cluster
from tests.support.inprocess import live_node, live_worker
from tests.support.load import Account, Load, load
from tests.support.redis_server import RedisServer, redis_server
from tests.support.sentinel import Group, sentinel_group

TIMES = int(os.environ.get("HOLDFAST_TEST_FAILOVERS", "1"))
SESSIONS, TOKENS, RATE = 8, 480, 80.0
"""Six seconds of speech: the failover takes about two."""
UNREPLICATED = 6
"""Events that every reader is sent after the replicas were cut off: what dies with the master."""
WITHIN_S = 60


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    with sentinel_group() as running:
        yield running


@pytest.fixture(scope="module")
def nodes() -> Iterator[ClusterGroup]:
    with cluster() as running:
        yield running


@pytest.fixture(scope="module")
def queue() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.mark.parametrize("n", range(TIMES))
async def test_sentinel_failover_that_loses_the_tail(group: Group, n: int) -> None:
    """The master dies with events that readers had: they are said again under the same ids, and nobody notices."""
    async with (
        live_node(group.url) as node,
        live_worker(group.url),
        load(node.url, sessions=SESSIONS, tokens=TOKENS, rate=RATE) as under,
    ):
        lost = await asyncio.to_thread(group.master)
        _replicated(lost, under, 2)
        await asyncio.to_thread(group.cut_replication)
        await _lose(lost, under)
        await asyncio.to_thread(group.mend_replication)
        await under.over(WITHIN_S)
        account = await under.account(node.node.log)
    await asyncio.to_thread(_restored, lost, group)
    _check("sentinel", n, account)


@pytest.mark.parametrize("n", range(TIMES))
async def test_sentinel_failover_that_loses_the_claims(group: Group, n: int) -> None:
    """What was claimed and said since the replicas were cut off is gone: writers claim again and say everything under
    new ids. Readers are told by a gap, and end with the whole text."""
    async with (
        live_node(group.url) as node,
        load(node.url, sessions=SESSIONS, tokens=TOKENS, rate=RATE, speaking=False) as under,
    ):
        lost = await asyncio.to_thread(group.master)
        _replicated(lost, under, 2)
        await asyncio.to_thread(group.cut_replication)
        async with live_worker(group.url):
            await _lose(lost, under)
            await asyncio.to_thread(group.mend_replication)
            await under.over(WITHIN_S)
    await asyncio.to_thread(_restored, lost, group)
    gaps = [frame.data["reason"] for reader, _ in under.scripts() for frame in reader.frames if frame.type == "gap"]
    print(f"claims {n + 1}/{TIMES}: {len(under.readers)} readers, {len(gaps)} gaps")
    assert [reader.sid for reader, script in under.scripts() if not reader.over or reader.text != script] == []
    assert set(gaps) <= {"ahead", "lost"}


@pytest.mark.parametrize("n", range(TIMES))
async def test_cluster_master_loss(nodes: ClusterGroup, queue: RedisServer, n: int) -> None:
    """One of three masters dies, with events that readers had: its sessions heal, the others' never stop."""
    async with (
        live_node(nodes.url, queue_url=queue.url) as node,
        live_worker(nodes.url, queue_url=queue.url),
        load(node.url, sessions=SESSIONS, tokens=TOKENS, rate=RATE) as under,
    ):
        lost = await asyncio.to_thread(nodes.master_of, keys.events(under.readers[0].sid))
        _replicated(lost, under, 1)
        await asyncio.to_thread(nodes.cut_replication, lost)
        await _lose(lost, under)
        await asyncio.to_thread(nodes.mend_replication)
        await under.over(WITHIN_S)
        account = await under.account(node.node.log)
    await asyncio.to_thread(_restored, lost, nodes)
    _check("cluster", n, account)


def _replicated(master: RedisServer, under: Load, replicas: int) -> None:
    """Returns when the replicas have all that was written by now: claims are not what is to be lost."""
    with master.client() as client:
        client.set(f"{{{under.readers[0].sid}}}:mark", 1)  # WAIT is for the writes of its own connection
        assert client.wait(replicas, 5_000) >= replicas


async def _lose(master: RedisServer, under: Load) -> None:
    await under.said(UNREPLICATED)
    assert not any(reader.over for reader in under.readers), "the load was over before the fault"
    master.kill()


def _restored(lost: RedisServer, whole: Group | ClusterGroup) -> None:
    lost.start()
    whole.until_whole()


def _check(what: str, n: int, account: Account) -> None:
    print(
        f"{what} {n + 1}/{TIMES}: {account.readers} readers, {len(account.lost)} lost, {len(account.doubled)} doubled,"
        f" {len(account.gaps)} gaps, {account.second_attempts} second attempts, slowest {account.slowest_s:.2f} s"
    )
    assert account.clean, account
    assert account.second_attempts == 0


# -- a master that hangs: its connections stay open, and only others know that it is no master any more

PATIENT = {"redis_timeout_s": 600.0, "quiet_check_s": 600.0}


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """With PATIENT: no timeout and no look at the log helps. Somebody must notice the failover itself."""
    monkeypatch.setattr(subscriber, "SILENT_S", 600.0)


async def test_sentinel_master_that_hangs(group: Group, unhurried: None) -> None:
    """Commands and subscriptions leave a master that hangs as soon as the Sentinels have another one."""
    async with (
        live_node(group.url, **PATIENT) as node,
        live_worker(group.url, **PATIENT),
        load(node.url, sessions=SESSIONS, tokens=TOKENS, rate=RATE) as under,
    ):
        hung = await asyncio.to_thread(group.master)
        hung.pause()
        await under.over(WITHIN_S)
        account = await under.account(node.node.log)
        hung.resume()
    await asyncio.to_thread(group.until_whole)
    _check("sentinel, hanging", 0, account)


async def test_cluster_master_that_hangs(nodes: ClusterGroup, queue: RedisServer, unhurried: None) -> None:
    """Commands and subscriptions leave a master that hangs as soon as the Cluster has another one."""
    async with (
        live_node(nodes.url, queue_url=queue.url, **PATIENT) as node,
        live_worker(nodes.url, queue_url=queue.url, **PATIENT),
        load(node.url, sessions=SESSIONS, tokens=TOKENS, rate=RATE) as under,
    ):
        hung = await asyncio.to_thread(nodes.master_of, keys.events(under.readers[0].sid))
        hung.pause()
        await under.over(WITHIN_S)
        account = await under.account(node.node.log)
        hung.resume()
    await asyncio.to_thread(nodes.until_whole)
    _check("cluster, hanging", 0, account)
