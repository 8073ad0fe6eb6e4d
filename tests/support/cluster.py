"""A Cluster of three masters with a replica each, quick to judge."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import redis
from redis.crc import key_slot

from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.sentinel import wait_until

NODE_TIMEOUT_MS = 1000
SLOTS = 16384
_SETTINGS = (
    *("--cluster-enabled", "yes"),
    *("--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
    *("--cluster-replica-validity-factor", "0"),
    *("--cluster-require-full-coverage", "no"),
    *("--repl-diskless-sync-delay", "0"),
    *("--repl-ping-replica-period", "1"),
)


class ClusterGroup:
    """Nodes whose masters may be lost, again and again."""

    def __init__(self, nodes: list[RedisServer]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{each.port}' for each in self.nodes)}"

    def master_of(self, key: str) -> RedisServer:
        return self._served(key_slot(key.encode()))[0]

    def replicas_of(self, master: RedisServer) -> list[RedisServer]:
        for _, _, first, *replicas in self._slots():
            if int(first[1]) == master.port:
                return [self._at(int(replica[1])) for replica in replicas]
        return []

    def masters(self) -> list[RedisServer]:
        return list({int(first[1]): self._at(int(first[1])) for _, _, first, *_ in self._slots()}.values())

    def cut_replication(self, master: RedisServer) -> None:
        """From now on its replica gets nothing: what the master takes is lost with it."""
        for replica in self.replicas_of(master):
            replica.ask("CONFIG", "SET", "masterauth", "no-such-password")
        master.ask("CLIENT", "KILL", "TYPE", "replica")

    def mend_replication(self) -> None:
        for each in self.nodes:
            if each.running:
                each.ask("CONFIG", "SET", "masterauth", "")

    def whole(self) -> bool:
        """All nodes run and agree, and every master has its replica connected."""
        try:
            views = {self._agreed(each) for each in self.nodes}
            return all(each.running for each in self.nodes) and len(views) == 1 and all(map(self._ready, self.nodes))
        except redis.exceptions.RedisError:
            return False

    def until_whole(self) -> None:
        wait_until(self.whole, "the Cluster did not become whole")

    # -- inside

    def _slots(self) -> list[list[list[bytes]]]:
        for each in self.nodes:
            if each.running:
                found: list[list[list[bytes]]] = each.ask("CLUSTER SLOTS")
                return found
        raise AssertionError("no node runs")

    def _served(self, slot: int) -> list[RedisServer]:
        for first, last, *servers in self._slots():
            if int(first) <= slot <= int(last):  # type: ignore[call-overload]
                return [self._at(int(server[1])) for server in servers]
        raise AssertionError("the slot is not served")

    def _at(self, port: int) -> RedisServer:
        return next(each for each in self.nodes if each.port == port)

    def _agreed(self, node: RedisServer) -> str:
        slots = node.ask("CLUSTER SLOTS")
        servers = [(first, last, *sorted(int(each[1]) for each in found)) for first, last, *found in slots]
        return repr(sorted(servers)) if all(len(each) == 4 for each in servers) else f"incomplete at {node.port}"

    def _ready(self, node: RedisServer) -> bool:
        role = node.ask("ROLE")
        with node.client() as client:
            whole = client.cluster("INFO")["cluster_state"] == "ok"
        return bool(whole and (role[0] == b"master" or role[3] == b"connected"))


@contextlib.contextmanager
def cluster(*arguments: str, admin: tuple[str, str] | None = None) -> Iterator[ClusterGroup]:
    """`arguments` are those of each node; `admin`: see RedisServer."""
    with TemporaryDirectory(prefix="holdfast-test-cluster-") as folder, contextlib.ExitStack() as stack:
        nodes, buses = list[RedisServer](), list[int]()
        for n in range(6):
            own = Path(folder) / f"node-{n}"
            own.mkdir()
            node = RedisServer(own, *_SETTINGS, "--cluster-port", str(bus := free_port()), *arguments, admin=admin)
            buses.append(bus)
            stack.callback(node.stop)
            nodes.append(node.start())
        _join(nodes, buses)
        group = ClusterGroup(nodes)
        group.until_whole()
        yield group


def _join(nodes: list[RedisServer], buses: list[int]) -> None:
    for n, node in enumerate(nodes):
        node.ask("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        if n:
            node.ask("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, buses[0])
    wait_until(lambda: all(_known(node) == len(nodes) for node in nodes), "the nodes did not meet")
    masters, replicas = nodes[:3], nodes[3:]
    bounds = [SLOTS * n // 3 for n in range(4)]
    for n, master in enumerate(masters):
        master.ask("CLUSTER", "ADDSLOTSRANGE", bounds[n], bounds[n + 1] - 1)
    for master, replica in zip(masters, replicas, strict=True):
        replica.ask("CLUSTER", "REPLICATE", master.ask("CLUSTER", "MYID").decode())


def _known(node: RedisServer) -> int:
    with node.client() as client:
        return len(client.cluster("NODES"))
