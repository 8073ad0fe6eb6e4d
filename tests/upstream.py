"""A model provider's server, scripted: real sockets, and bytes exactly as told.

async with Upstream() as up:
    up.plan(reply(chunk, gate, chunk, STALL))   # gate: an asyncio.Event
    ...                                         # a client talks to up.url
    await up.closed(0)                          # the client closed its first connection

What to say is in upstream_frames.
"""

import asyncio
import json
import socket
import struct
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Final, Self


class How(Enum):
    """Ways a reply goes on, other than bytes and gates."""

    SEVER = "sever"
    """Close the socket in the middle of the body."""
    RESET = "reset"
    """The same, as a crash or a firewall does it."""
    STALL = "stall"
    """Say nothing more until the client closes."""


SEVER: Final = How.SEVER
RESET: Final = How.RESET
STALL: Final = How.STALL
Step = bytes | asyncio.Event | How


@dataclass(frozen=True)
class Reply:
    """What one request is answered. The body ends cleanly after the last step, unless that says otherwise."""

    steps: tuple[Step, ...]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def reply(*steps: Step | list[bytes]) -> Reply:
    """A stream. Every piece of bytes is a chunk of its own on the wire."""
    flat: list[Step] = []
    for step in steps:
        if isinstance(step, list):
            flat += step
        else:
            flat.append(step)
    return Reply(tuple(flat), headers={"content-type": "text/event-stream", "x-request-id": "req_1"})


def failure(status: int, body: Mapping[str, Any] | bytes, **headers: str) -> Reply:
    """An HTTP error. Underscores in names of headers become hyphens."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply((raw,), status, {"content-type": "application/json", "retry-after-ms": "1", **named})


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: Any
    """The JSON, decoded."""
    connection: int


class _Connection(asyncio.StreamReaderProtocol):
    """A connection that knows when the client closed it, also while nobody reads."""

    def __init__(self, upstream: "Upstream") -> None:
        self.gone = asyncio.Event()
        self.number = len(upstream.connections)
        upstream.connections.append(self)
        super().__init__(asyncio.StreamReader(), self._connected)
        self._upstream = upstream

    def eof_received(self) -> bool:
        super().eof_received()
        self.gone.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.gone.set()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._upstream.take(self, reader, writer)


class Upstream:
    """Answers request n with the nth planned reply; the last one planned is repeated for all that follow."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections: list[_Connection] = []
        self.url = ""
        self._plan: deque[Reply] = deque()
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    def plan(self, *replies: Reply) -> None:
        """Replaces what was planned before."""
        self._plan = deque(replies)

    async def closed(self, connection: int = 0) -> None:
        """Wait until the client closed connection n, counted from 0 in the order they were opened."""
        await self.connections[connection].gone.wait()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    def take(self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(connection, reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection. Ends when the client closes it, a reply says so, or the upstream stops."""
        writer.transport.set_write_buffer_limits(0)  # drain() then means: in the kernel's hands
        try:
            while (request := await _read(reader, connection.number)) is not None:
                self.requests.append(request)
                if not await self._answer(connection, writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client closed in the middle: that is what some tests are about
        finally:
            writer.close()

    async def _answer(self, connection: _Connection, writer: asyncio.StreamWriter) -> bool:
        """Say the next reply; whether the connection can be used again."""
        planned = self._plan.popleft() if len(self._plan) > 1 else self._plan[0]
        writer.write(_head(planned))
        for step in planned.steps:
            match step:
                case bytes():
                    writer.write(b"%x\r\n%b\r\n" % (len(step), step))
                    await writer.drain()
                case asyncio.Event():
                    await step.wait()
                case How.STALL:
                    await writer.drain()
                    await connection.gone.wait()
                    return False
                case How.SEVER | How.RESET:
                    await writer.drain()
                    if step is RESET:
                        _linger_not(writer)
                    return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


def _head(planned: Reply) -> bytes:
    lines = [f"HTTP/1.1 {planned.status} Scripted", "transfer-encoding: chunked"]
    lines += (f"{name}: {value}" for name, value in planned.headers.items())
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _linger_not(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _read(reader: asyncio.StreamReader, connection: int) -> Request | None:
    """The next request; None when the client closed."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, json.loads(body or b"null"), connection)
