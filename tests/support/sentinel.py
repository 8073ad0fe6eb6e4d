"""A master with two replicas, and three Sentinels that are quick to judge."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import redis

from tests.support.redis_server import RedisServer

NAME = "holdfast"
DOWN_AFTER_MS = 500
WITHIN_S = 30.0
_NO_DELAY = ("--repl-diskless-sync-delay", "0", "--repl-timeout", "5", "--repl-ping-replica-period", "1")


class Group:
    """Servers whose master may be lost, again and again."""

    def __init__(self, servers: list[RedisServer], sentinels: list[RedisServer]) -> None:
        self.servers = servers
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{each.port}' for each in self.sentinels)}/{NAME}/0"

    def master(self) -> RedisServer:
        """The one that the Sentinels name."""
        _, port = self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
        return next(each for each in self.servers if each.port == int(port))

    def replicas(self) -> list[RedisServer]:
        master = self.master()
        return [each for each in self.servers if each is not master and each.running]

    def whole(self) -> bool:
        """All servers run, replicate from the one master, and every Sentinel knows so."""
        try:
            master = self.master()
            return (
                all(each.running for each in self.servers)
                and role(master)[0] == b"master"
                and all(_follows(each, master) for each in self.servers if each is not master)
                and all(_content(each, master) for each in self.sentinels)
            )
        except redis.exceptions.RedisError:
            return False

    def until_whole(self) -> None:
        wait_until(self.whole, "the group did not become whole")

    def cut_replication(self) -> None:
        """From now on the replicas get nothing: what the master takes is lost with it."""
        for replica in self.replicas():
            replica.ask("CONFIG", "SET", "masterauth", "no-such-password")
        self.master().ask("CLIENT", "KILL", "TYPE", "replica")

    def mend_replication(self) -> None:
        for each in self.servers:
            if each.running:
                each.ask("CONFIG", "SET", "masterauth", "")


def role(server: RedisServer) -> list[bytes]:
    found: list[bytes] = server.ask("ROLE")
    return found


def _follows(server: RedisServer, master: RedisServer) -> bool:
    found = role(server)
    return found[0] == b"slave" and int(found[2]) == master.port and found[3] == b"connected"


def _content(sentinel: RedisServer, master: RedisServer) -> bool:
    with sentinel.client() as client:
        state = client.sentinel_masters()[NAME]
    return bool(
        state["port"] == master.port
        and state["flags"] == "master"
        and state["num-slaves"] == 2
        and state["num-other-sentinels"] == 2
    )


def wait_until(true: Callable[[], bool], else_: str, within_s: float = WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, else_
        time.sleep(0.05)


@contextlib.contextmanager
def sentinel_group(*arguments: str) -> Iterator[Group]:
    """`arguments` are those of each server."""
    with TemporaryDirectory(prefix="holdfast-test-sentinel-") as folder, contextlib.ExitStack() as stack:
        servers: list[RedisServer] = []
        for n in range(3):
            own = Path(folder) / f"server-{n}"
            own.mkdir()
            follows = ("--replicaof", f"127.0.0.1 {servers[0].port}") if n else ()
            server = RedisServer(own, *_NO_DELAY, *follows, *arguments)
            stack.callback(server.stop)
            servers.append(server.start())
        sentinels: list[RedisServer] = []
        for n in range(3):
            file = Path(folder) / f"sentinel-{n}.conf"
            file.write_text(_configuration(servers[0].port))
            sentinel = RedisServer(Path(folder), configuration=file, sentinel=True)
            stack.callback(sentinel.stop)
            sentinels.append(sentinel.start())
        group = Group(servers, sentinels)
        group.until_whole()
        yield group


def _configuration(port: int) -> str:
    return f"""
sentinel monitor {NAME} 127.0.0.1 {port} 2
sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}
sentinel failover-timeout {NAME} 3000
sentinel parallel-syncs {NAME} 2
"""
