"""Clients on WebSockets: one that keeps what it was sent, and a raw one that breaks rules or never reads."""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import socket
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

from websockets.frames import Frame, Opcode

from tests.support.ws import WS, Closed, Message

WITHIN_S = 60
"""A bound for what hangs."""


class Client(WS):
    """One WebSocket. Everything it was sent is in `frames`, in order."""

    def __init__(self, base: str, path: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(base, path, headers)
        self.frames: list[Message] = []
        self._refs = itertools.count(1)
        self._news = asyncio.Event()

    async def open(self) -> Self:
        await super().open()
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.kill()
        await self.closed()

    async def _read(self) -> Closed:
        try:
            while True:
                self.frames.append(await self.get())
                self._news.set()
        except Closed as closed:
            return closed

    @property
    def over(self) -> bool:
        return self._reading.done()

    @property
    def events(self) -> list[Message]:
        """Those that stand in the log."""
        return [frame for frame in self.frames if "id" in frame]

    @property
    def text_said(self) -> str:
        return "".join(frame["data"]["text"] for frame in self.of("text.delta"))

    def of(self, kind: str) -> list[Message]:
        return [frame for frame in self.frames if frame["type"] == kind]

    async def call(self, type_: str, **fields: Any) -> Message:
        """Send a command, and wait for what comes back to it."""
        ref = next(self._refs)
        await self.send(type=type_, ref=ref, **fields)
        return await self.answer(ref)

    async def answer(self, ref: str | int | None) -> Message:
        return await self.first(lambda frame: "ref" in frame and frame["ref"] == ref)

    async def first(self, true: Callable[[Message], bool], count: int = 1) -> Message:
        """The frame number `count` of which it is true, as soon as it is there. Raises Closed."""
        found: list[Message] = []
        seen = 0
        async with asyncio.timeout(WITHIN_S):
            while True:
                found += [frame for frame in self.frames[seen:] if true(frame)]
                seen = len(self.frames)
                if len(found) >= count:
                    return found[count - 1]
                if self._reading.done():
                    raise self._reading.result()
                self._news.clear()
                news = asyncio.create_task(self._news.wait())
                await asyncio.wait({news, self._reading}, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()

    async def event(self, kind: str, count: int = 1) -> Message:
        """The frame number `count` of this type."""
        return await self.first(lambda frame: frame["type"] == kind, count)

    async def closed(self) -> tuple[int, str]:
        """Code and reason, once the server has closed; everything it sent before is in `frames`."""
        async with asyncio.timeout(WITHIN_S):
            closed = await self._reading
        return closed.code, closed.reason


def ws_path(sid: str, **query: str | int) -> str:
    return f"/v1/sessions/{sid}/ws" + (f"?{urlencode(query)}" if query else "")


def session(base: str, sid: str, **query: str | int) -> Client:
    """A client that follows a session."""
    return Client(base, ws_path(sid, **query))


class Raw:
    """A socket that says frames as told, and reads only when asked to: the network between is small, too."""

    def __init__(self, base: str, path: str) -> None:
        parts = urlsplit(base)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._path = path
        self._sock = socket.socket()
        self._buffer = bytearray()
        self.sent = 0
        """Bytes the system has taken."""

    async def __aenter__(self) -> Self:
        self._sock.setblocking(False)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)  # loopback's own would buffer megabytes
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._sock, self._address)
        lines = [
            f"GET {self._path} HTTP/1.1", "Host: 127.0.0.1", "Connection: Upgrade", "Upgrade: websocket",
            "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        ]  # fmt: skip
        await self.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = await loop.sock_recv(self._sock, 1)  # not a byte of what follows
            assert byte, head
            head += byte
        assert head.startswith(b"HTTP/1.1 101 "), head
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sock.close()

    async def write(self, data: bytes) -> None:
        """Returns when the system has taken all of it."""
        loop = asyncio.get_running_loop()
        for start in range(0, len(data), 65536):
            await loop.sock_sendall(self._sock, data[start : start + 65536])
            self.sent += len(data[start : start + 65536])

    async def read(self, most: int = 65536) -> bytes:
        """b"" at the end, also where that was not polite."""
        with contextlib.suppress(ConnectionError):
            return await asyncio.get_running_loop().sock_recv(self._sock, most)
        return b""

    async def frame(self) -> tuple[Opcode, bytes]:
        """The next frame, of a server that does not split its own. Raises EOFError at the end."""
        head = await self._exactly(2)
        length = head[1]
        if length > 125:
            length = int.from_bytes(await self._exactly(2 if length == 126 else 8), "big")
        return Opcode(head[0] & 15), await self._exactly(length)

    async def text_frame(self) -> bytes:
        while (frame := await self.frame())[0] != Opcode.TEXT:
            pass
        return frame[1]

    async def close_code(self) -> int:
        """Of the close frame, after everything that comes before it; 1006 where there is none."""
        async with asyncio.timeout(WITHIN_S):
            with contextlib.suppress(EOFError):
                while (frame := await self.frame())[0] != Opcode.CLOSE:
                    pass
                return int.from_bytes(frame[1][:2], "big")
        return 1006

    async def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = await self.read()
            if not data:
                raise EOFError
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


def frame(opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> bytes:
    """As a client must send it."""
    return Frame(opcode, data, fin).serialize(mask=True)


def command(**fields: Any) -> bytes:
    return frame(Opcode.TEXT, json.dumps(fields).encode())
