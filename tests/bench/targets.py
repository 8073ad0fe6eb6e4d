"""The servers that are measured side by side: Holdfast's node, what people run instead, and the floor.

Each has a Redis of its own, one process that serves readers, pinned to a core of its own, and a producer elsewhere.
"""

import asyncio
import contextlib
import os
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from tests.bench.child import NODE_CORE, OTHER_CORE, Child, cpu_seconds, pinned
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, redis_server
from tests.support.sse import events_path
from tests.support.system import Node
from tests.support.tools import NODE_MODULES, nginx, nginx_if_there

NCHAN = ("/usr/lib/nginx/modules/ngx_nchan_module.so", "/usr/lib64/nginx/modules/ngx_nchan_module.so")
READY_S = 15.0


class Unavailable(Exception):
    """This peer cannot run on this machine; says why."""


class Target(ABC):
    """A server under test. `name` and `until` are constant; everything else is meaningful once it is open."""

    name: str
    until = ""
    """What a reader is sent once it is live; nothing: its head says that."""

    def __init__(self) -> None:
        self.port = free_port()
        self.pids: list[int] = []
        """Of what serves readers; their children count with them."""
        self.producer: Child
        self.redis: RedisServer

    @contextlib.asynccontextmanager
    async def running(self, sids: Sequence[str]) -> AsyncIterator[Self]:
        """Up, with these sessions ready to be read and spoken into. Raises Unavailable."""
        self.check()
        async with AsyncExitStack() as stack:
            with pinned(OTHER_CORE):
                self.redis = stack.enter_context(redis_server())
            await self.start(stack)
            await self.producer.ask("prepare", sids=list(sids))
            yield self

    def check(self) -> None:
        """Raises Unavailable."""
        return

    async def filled(self, sids: Sequence[str]) -> list[int]:
        """Say what is to be there before the readers come; gives how many deltas of each session they will not get."""
        return [0] * len(sids)

    @abstractmethod
    async def start(self, stack: AsyncExitStack) -> None:
        """Set `pids` and `producer`; what must be ended goes on the stack."""

    @abstractmethod
    def path(self, sid: str) -> str: ...

    def cpu(self) -> float:
        return cpu_seconds(self.pids)

    async def produce(
        self,
        stack: AsyncExitStack,
        *command: str,
        core: int = OTHER_CORE,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.producer = await Child.start(*command, core=core, environment=environment)
        stack.push_async_callback(self.producer.stop)

    async def serve(self, stack: AsyncExitStack, *command: str, environment: Mapping[str, str] | None = None) -> None:
        child = await Child.start(*command, core=NODE_CORE, environment=environment)
        stack.push_async_callback(child.stop)
        self.pids = [child.pid]
        await listening(self.port)


async def listening(port: int) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(READY_S):
        while True:
            with contextlib.suppress(ConnectionError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.02)


class Holdfast(Target):
    """A node as it is run, without further settings."""

    name = "Holdfast"
    until = "event: caught_up"

    async def start(self, stack: AsyncExitStack) -> None:
        self.node = await self.another(stack, self.port)
        self.pids = [self.node.pid]
        await self.produce(stack, "tests.bench.producer", "holdfast", self.redis.url)

    async def another(self, stack: AsyncExitStack, port: int) -> Node:
        """A node on the same Redis."""
        node = Node(self.redis.url, {"HOLDFAST_LOG_LEVEL": "warning"}, port)
        with pinned(NODE_CORE):
            node.start()
        stack.push_async_callback(node.kill)
        await node.ready()
        return node

    def path(self, sid: str) -> str:
        return events_path(sid)


class Granian(Holdfast):
    """The same application under granian instead of uvicorn."""

    name = "Holdfast under granian"

    def check(self) -> None:
        try:
            import granian  # noqa: F401 - whether it is there
        except ImportError:
            raise Unavailable("granian is not installed") from None

    async def start(self, stack: AsyncExitStack) -> None:
        environment = {"HOLDFAST_REDIS_URL": self.redis.url, "HOLDFAST_LOG_LEVEL": "warning"}
        await self.serve(stack, "tests.bench.peers.granian_node", str(self.port), environment=environment)
        await self.produce(stack, "tests.bench.producer", "holdfast", self.redis.url)


class FastApi(Target):
    name = "FastAPI, XREAD BLOCK per client"

    async def start(self, stack: AsyncExitStack) -> None:
        await self.serve(stack, "tests.bench.peers.fastapi_xread", self.redis.url, str(self.port))
        await self.produce(stack, "tests.bench.producer", "stream", self.redis.url)

    def path(self, sid: str) -> str:
        return f"/events/{sid}"


class Resumable(Target):
    """As an application runs it: the process that was asked for a stream produces it, and serves who resumes it."""

    name = "resumable-stream"
    apart = False
    """Another process produces, as a worker would: publishing for every reader is not counted as the server's."""

    def check(self) -> None:
        if not (NODE_MODULES / "resumable-stream").exists() or not (NODE_MODULES / ".bin" / "node").exists():
            raise Unavailable("no resumable-stream in tests/node/node_modules: is npm there?")

    async def start(self, stack: AsyncExitStack) -> None:
        peers, node = Path(__file__).parent / "peers", str(NODE_MODULES / ".bin" / "node")
        environment = {"NODE_PATH": str(NODE_MODULES), "REDIS_URL": self.redis.url, "NODE_ENV": "production"}
        if self.apart:
            await self.serve(stack, node, str(peers / "resumable_stream.js"), str(self.port), environment=environment)
            await self.produce(stack, node, str(peers / "resumable_producer.js"), environment=environment)
        else:
            alone = str(peers / "resumable_alone.js")
            await self.produce(stack, node, alone, str(self.port), core=NODE_CORE, environment=environment)
            self.pids = [self.producer.pid]
            await listening(self.port)

    def path(self, sid: str) -> str:
        return f"/{sid}"


class ResumableApart(Resumable):
    name = "resumable-stream, produced elsewhere"
    apart = True


class Nchan(Target):
    """As it is run: nginx is published to, and serves."""

    name = "nchan, Redis"
    apart = False
    """Another nginx is published to: publishing is not counted as the server's."""

    def check(self) -> None:
        if nginx_if_there() is None or _module() is None:
            raise Unavailable("no libnginx-mod-nchan: it comes from Debian, by apt-get as root")

    async def start(self, stack: AsyncExitStack) -> None:
        self.pids = [await self._nginx(stack, self.port, NODE_CORE)]
        publish = self.port
        if self.apart:
            publish = free_port()
            await self._nginx(stack, publish, OTHER_CORE)
        await self.produce(stack, "tests.bench.producer", "nchan", f"http://127.0.0.1:{publish}")

    async def _nginx(self, stack: AsyncExitStack, port: int, core: int) -> int:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nginx")))
        text = (Path(__file__).parent / "peers" / "nchan.conf").read_text()
        words = {"MODULE": _module() or "", "PLACE": str(place), "PORT": str(port), "REDIS": str(self.redis.port)}
        for word, value in words.items():
            text = text.replace(word, value)
        conf = place / "nginx.conf"
        conf.write_text(("user root;\n" if os.geteuid() == 0 else "") + text)
        with pinned(core):
            child = subprocess.Popen([nginx(), "-p", str(place), "-c", str(conf), "-e", "stderr"])
        stack.callback(_end, child)
        await listening(port)
        return child.pid

    def path(self, sid: str) -> str:
        return f"/sub/{sid}"


class NchanApart(Nchan):
    name = "nchan, Redis, published elsewhere"
    apart = True


class Floor(Target):
    """It is its own producer: there is nothing between."""

    name = "floor: bare socket.send"

    async def start(self, stack: AsyncExitStack) -> None:
        await self.produce(stack, "tests.bench.peers.floor", str(self.port), core=NODE_CORE)
        self.pids = [self.producer.pid]
        await listening(self.port)

    def path(self, sid: str) -> str:
        return f"/{sid}"


PEERS: Sequence[type[Target]] = (Holdfast, Nchan, NchanApart, Resumable, ResumableApart, FastApi, Floor)


def _module() -> str | None:
    return next((path for path in NCHAN if Path(path).exists()), None)


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    child.wait(10)
