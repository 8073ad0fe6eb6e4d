"""A raw SSE reader: sees every byte, and can die impolitely."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from shared.ids import EventId


@dataclass(frozen=True)
class Frame:
    """One block of the stream. `id` is empty where the block has none."""

    id: str
    type: str
    data: Any
    raw: bytes

    @property
    def event_id(self) -> EventId:
        return EventId.parse(self.id)


class Severed(Exception):
    """The connection ended in the middle of the response."""


class SSE:
    """One connection to an event stream. Meaningful after `open`: status and headers."""

    def __init__(self, base: str, path: str, headers: dict[str, str] | None = None, post: bytes | None = None) -> None:
        """With `post`, that JSON is sent; without, it is a GET."""
        parts = urlsplit(base)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._path, self._headers, self._post = path, headers or {}, post
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        """Of a response that is no stream."""
        self.raw = b""
        """Every byte of the stream so far."""

    async def open(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        try:
            await self._ask()
        except BaseException:
            self.kill()
            raise
        return self

    async def _ask(self) -> None:
        method = "GET" if self._post is None else "POST"
        lines = [f"{method} {self._path} HTTP/1.1", f"Host: {self._host}:{self._port}", "Accept: text/event-stream"]
        lines += [f"{name}: {value}" for name, value in self._headers.items()]
        if self._post is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(self._post)}"]
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + (self._post or b""))
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(head[0].split(" ")[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:]) if name}
        if "content-length" in self.headers:
            self.body = await self._reader.readexactly(int(self.headers["content-length"]))

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        self.kill()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body's chunks as they arrive. Ends only at the response's own end; raises Severed otherwise."""
        try:
            while size := int((await self._reader.readuntil(b"\r\n")).strip(), 16):
                chunk = await self._reader.readexactly(size + 2)
                self.raw += chunk[:-2]
                yield chunk[:-2]
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Severed from error

    async def frames(self) -> AsyncIterator[Frame]:
        buffer = b""
        async for chunk in self.chunks():
            buffer += chunk
            *blocks, buffer = buffer.split(b"\n\n")
            for block in blocks:
                yield parse(block)

    def kill(self) -> None:
        """Reset the connection, as a client that vanishes would; not a polite close."""
        sock: socket.socket = self._writer.get_extra_info("socket")
        if sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


def parse(block: bytes) -> Frame:
    fields: dict[str, str] = {}
    for line in block.decode().split("\n"):
        if not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
    return Frame(fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"]), block)


def events_path(sid: str, **query: str | int) -> str:
    text = "&".join(f"{name}={value}" for name, value in query.items())
    return f"/v1/sessions/{sid}/events" + (f"?{text}" if text else "")


async def read_all(base: str, sid: str, cursor: str | None = None, **query: str | int) -> list[Frame]:
    """Every frame from the cursor to the clean end. An empty list for 204."""
    headers = {"Last-Event-ID": cursor} if cursor else {}
    async with SSE(base, events_path(sid, **query), headers) as stream:
        if stream.status == 204:
            return []
        assert stream.status == 200, (stream.status, stream.body)
        return [frame async for frame in stream.frames()]


def text_of(frames: list[Frame]) -> str:
    return "".join(frame.data["text"] for frame in frames if frame.type == "text.delta")
