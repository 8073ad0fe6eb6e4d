"""The way into a Cluster: every command goes to the master of its key's slot.

redis-py's own client for this (5.3) closes the connections to all nodes when it loses one, forgets the nodes it was
given when they are away, leaks a connection for each refused one, raises errors that are no RedisError, and cannot take
a limited number of connections without refusing callers. So this one routes, and leaves the rest to redis-py's plain
clients: one per master.
"""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from itertools import chain
from typing import Any

from redis._parsers import Encoder
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterParser
from redis.commands import AsyncCoreCommands
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.topology.client import PAUSES_S, Errors, raise_first
from shared.topology.connections import connection_class, cut, options, place, pool
from shared.topology.url import Address, RedisUrl
from shared.topology.watch import Shared, Watch

SLOTS = 16384
ASK_TIMEOUT_S = 1.0
"""One node's time to say who serves what. Then the next one is asked."""
_SCRIPTS = ("EVAL", "EVALSHA")
_KEYLESS = ("PING", "TIME", "INFO")
_AGAIN = (RedisConnectionError, RedisTimeoutError, MovedError, AskError, TryAgainError, ClusterDownError)
_REDIRECTED = (MovedError, AskError)

Command = tuple[tuple[Any, ...], dict[str, Any]]
"""A command and its arguments; redis-py's options for its reply."""


class Slots:
    """Who serves what, as of one moment."""

    def __init__(self, masters: list[Address | None], nodes: frozenset[Address]) -> None:
        self._masters = masters
        """By slot; None where nobody serves it."""
        self.nodes = nodes
        """All there are, replicas too."""

    @classmethod
    def of(cls, reply: Sequence[Sequence[Any]], asked: Address) -> "Slots":
        """From CLUSTER SLOTS. A node that does not know its own host is where it was asked."""
        masters: list[Address | None] = [None] * SLOTS
        nodes: set[Address] = set()
        for first, last, *servers in reply:
            found = [_address(server, asked) for server in servers]
            masters[first : last + 1] = [found[0]] * (last + 1 - first)
            nodes.update(found)
        return cls(masters, frozenset(nodes))

    @property
    def masters(self) -> set[Address]:
        return {master for master in self._masters if master is not None}

    def master(self, slot: int) -> Address | None:
        return self._masters[slot]

    def move(self, slot: int, master: Address) -> None:
        self._masters[slot] = master
        self.nodes |= {master}


class Cluster(AsyncCoreCommands):
    """A client of all masters: redis-py's commands on single keys, scripts whose keys share a slot, and pipelines.

    A command is tried again, for less than a second in all, while connections are lost or slots move.
    """

    connection_pool: Any = None
    """There is none: redis-py asks for it."""

    def __init__(self, url: RedisUrl, connections: int, timeout_s: float) -> None:
        self._url = url
        self._connections = connections
        self.errors = Errors()
        """Most to each node."""
        self._timeout_s = timeout_s
        self._clients: dict[Address, Redis] = {}
        self._slots: Slots | None = None
        """None until some node was asked."""
        self._asking = Shared(self._refresh)
        self._watch = Watch(self.refresh)

    # -- commands

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        if args[0] == "SCRIPT LOAD":
            return await self._everywhere(args)
        replies = await self.run([(args, options)])
        raise_first(replies)
        return replies[0]

    def pipeline(self, transaction: bool = True) -> "ClusterPipeline":
        if transaction:
            raise ValueError("a Cluster has no transactions here: use a script")
        return ClusterPipeline(self)

    def lane(self, key: str) -> str:
        """Commands on keys of one lane may share a round trip: those of one master, as far as is known."""
        master = self._slots.master(_slot_of(key)) if self._slots is not None else None
        return "" if master is None else f"{master[0]}:{master[1]}"

    async def _everywhere(self, args: tuple[Any, ...]) -> Any:
        replies = await asyncio.gather(*(master.execute_command(*args) for master in await self.masters()))
        return replies[0]

    def get_encoder(self) -> Encoder:
        """For redis-py's script objects."""
        return Encoder("utf-8", "strict", False)  # type: ignore[no-untyped-call]

    async def masters(self) -> list[Any]:
        """A client for each master, for questions to servers."""
        if self._slots is None:
            await self.refresh()
        return [self._client(master) for master in sorted(self.slots.masters)]

    @property
    def slots(self) -> "Slots":
        """Meaningful after `refresh`."""
        assert self._slots is not None
        return self._slots

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await self._watch.aclose()
        await self._asking.aclose()
        for client in self._clients.values():
            await client.aclose(close_connection_pool=True)
        self._clients = {}

    # -- routing

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Replies in the commands' order; what failed has its error for one. Those of one slot are carried out in
        order, unless some of them fail at first."""
        self._watch.start()
        slots = _slots(commands)
        replies: list[Any] = [None] * len(commands)
        todo = list(range(len(commands)))
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        for pause in (*PAUSES_S, None):
            await self._try(commands, slots, todo, replies)
            todo = [n for n in todo if isinstance(replies[n], _AGAIN)]
            if not todo or pause is None or asyncio.get_running_loop().time() + pause > deadline:
                break
            if not all(isinstance(replies[n], _REDIRECTED) for n in todo):
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            await self._learn([(slots[n], replies[n]) for n in todo])
        return replies

    async def _try(self, commands: Sequence[Command], slots: list[int], todo: list[int], replies: list[Any]) -> None:
        """Carry out `todo`, each master's at once; a command that was sent on to another node is preceded by ASKING."""
        try:
            if self._slots is None:
                await self.refresh()
            groups = self._grouped(slots, todo, replies)
        except RedisError as error:
            for n in todo:
                replies[n] = error
            return
        sent = [self._send(address, [commands[n] for n in group], asking) for (address, asking), group in groups]
        for (_, group), found in zip(groups, await asyncio.gather(*sent), strict=True):
            for n, reply in zip(group, found, strict=True):
                replies[n] = reply

    def _grouped(
        self, slots: list[int], todo: list[int], replies: list[Any]
    ) -> list[tuple[tuple[Address, bool], list[int]]]:
        assert self._slots is not None
        groups: dict[tuple[Address, bool], list[int]] = {}
        for n in todo:
            before = replies[n]
            if isinstance(before, AskError) and not isinstance(before, MovedError):
                groups.setdefault(((before.host, before.port), True), []).append(n)
                continue
            master = self._slots.master(slots[n])
            if master is None:
                raise ClusterDownError("a slot has no master")  # type: ignore[no-untyped-call]
            groups.setdefault((master, False), []).append(n)
        return list(groups.items())

    async def _send(self, address: Address, commands: Sequence[Command], asking: bool) -> list[Any]:
        try:
            async with self._client(address).pipeline(transaction=False) as pipe:
                for args, about in commands:
                    if asking:
                        pipe.execute_command("ASKING")
                    pipe.execute_command(*args, **about)
                replies = await pipe.execute(raise_on_error=False)
        except RedisError as error:
            self.errors.note(error)
            return [error] * len(commands)
        for reply in replies:
            if isinstance(reply, Exception) and not isinstance(reply, _REDIRECTED):
                self.errors.note(reply)
        return replies[1::2] if asking else replies

    async def _learn(self, failures: list[tuple[int, Exception]]) -> None:
        """A slot that was moved is known by that; anything else, ask."""
        slots = self._slots
        unknown = slots is None
        for slot, error in failures:
            if isinstance(error, MovedError) and error.host and slots is not None:
                slots.move(slot, (error.host, error.port))
            elif not isinstance(error, (AskError, TryAgainError)):
                unknown = True
        if unknown:
            with contextlib.suppress(RedisError):  # the next try goes where the last one did, and says why it failed
                await self.refresh()

    # -- who serves what

    async def refresh(self) -> None:
        """Ask the nodes. Raises RedisError if none of them answers. Whoever wants it meanwhile waits for the same."""
        await self._asking.result()

    async def _refresh(self) -> None:
        """The first node whose Cluster is whole is believed: one that is cut off from the others knows that much."""
        doubtful: Slots | None = None
        reason: Exception | None = None
        for address in self._to_ask():
            try:
                async with asyncio.timeout(ASK_TIMEOUT_S):
                    slots, whole = await self._ask(address)
            except (RedisError, TimeoutError) as error:
                reason = error
                continue
            if whole:
                self._use(slots)
                return
            doubtful = doubtful or slots
        if doubtful is None:
            raise RedisConnectionError(f"no node of the Cluster answers: {reason!r}")
        self._use(doubtful)

    def _to_ask(self) -> list[Address]:
        """Masters first: there are connections to them. The given ones last: their names may lead elsewhere by now."""
        if self._slots is None:
            return list(self._url.addresses)
        masters, others = list(self._slots.masters), list(self._slots.nodes - self._slots.masters)
        random.shuffle(masters)
        random.shuffle(others)
        return [*masters, *others, *self._url.addresses]

    async def _ask(self, address: Address) -> tuple[Slots, bool]:
        async with self._client(address).pipeline(transaction=False) as pipe:
            pipe.execute_command("CLUSTER SLOTS")
            pipe.execute_command("CLUSTER INFO")
            slots, info = await pipe.execute(raise_on_error=False)
        raise_first([slots, info])
        return Slots.of(slots, address), info.get("cluster_state") == "ok"

    def _use(self, slots: Slots) -> None:
        """Connections to a node that is no longer a master are cut: one that hangs would keep them until their time is
        over. Clients of nodes that are gone are forgotten."""
        self._slots = slots
        masters = slots.masters
        for address, client in list(self._clients.items()):
            if address not in masters:
                at: Any = client.connection_pool
                for connection in list(chain(at._available_connections, at._in_use_connections)):
                    cut(connection)
            if address not in slots.nodes and address not in self._url.addresses:
                del self._clients[address]

    def _client(self, address: Address) -> Redis:
        client = self._clients.get(address)
        if client is None:
            made = pool(
                connection_class(self._url),
                self._connections,
                self._timeout_s,
                parser_class=ClusterParser,
                **options(self._url, self._timeout_s),
                **place(self._url, address),
            )
            client = self._clients[address] = Redis(connection_pool=made)
        return client


class ClusterPipeline(AsyncCoreCommands):
    """Commands that are sent at once, to each master its own. Commands without a key go with the first that has one."""

    connection_pool: Any = None

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._commands: list[Command] = []

    async def __aenter__(self) -> "ClusterPipeline":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._commands = []

    def execute_command(self, *args: Any, **options: Any) -> "ClusterPipeline":
        self._commands.append((args, options))
        return self

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands, self._commands = self._commands, []
        replies = await self._cluster.run(commands)
        if raise_on_error:
            raise_first(replies)
        return replies


class ClusterEar:
    """See `shared.topology.listening`."""

    def __init__(self, url: RedisUrl, near: str) -> None:
        self._url = url
        self._cluster = Cluster(url, 1, ASK_TIMEOUT_S)
        self._slot = _slot_of(near) if near else None
        """None: any master will do."""

    async def connect(self) -> Any:
        await self._cluster.refresh()
        if not (masters := self._masters()):
            raise ClusterDownError("there is no master to listen to")  # type: ignore[no-untyped-call]
        kind: Any = connection_class(self._url)
        connection = kind(**options(self._url, None), **place(self._url, random.choice(masters)))
        await connection.connect()
        return connection

    async def moved(self, connection: Any) -> bool:
        await self._cluster.refresh()
        return (connection.host, connection.port) not in self._masters()

    async def aclose(self) -> None:
        await self._cluster.aclose()

    def _masters(self) -> list[Address]:
        """Who may be listened to."""
        slots = self._cluster.slots
        if self._slot is None:
            return sorted(slots.masters)
        master = slots.master(self._slot)
        return [] if master is None else [master]


def _address(server: Sequence[Any], asked: Address) -> Address:
    host = (server[0] or b"").decode()
    return (host if host not in ("", "?") else asked[0]), int(server[1])


def _slot_of(key: str | bytes) -> int:
    return int(key_slot(key.encode() if isinstance(key, str) else key))


def _slots(commands: Sequence[Command]) -> list[int]:
    """The slot of each command; one without a key goes with the first that has one, or anywhere."""
    found = [_slot(args) for args, _ in commands]
    anywhere = next((slot for slot in found if slot is not None), None)
    if anywhere is None:
        anywhere = random.randrange(SLOTS)
    return [anywhere if slot is None else slot for slot in found]


def _slot(args: Sequence[Any]) -> int | None:
    name = str(args[0]).upper()
    if name in _SCRIPTS:
        return _slot_of(args[3])
    return None if name in _KEYLESS else _slot_of(args[1])
