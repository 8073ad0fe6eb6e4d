"""A WebSocket client that says what arrives, and can vanish without a word."""

import json
import socket
import struct
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

Message = dict[str, Any]


class Closed(Exception):
    """The server has closed the socket; 1006 where it went without a word."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code, self.reason = code, reason


class WS:
    """One WebSocket. Frames are JSON texts."""

    def __init__(self, base: str, path: str, headers: dict[str, str] | None = None) -> None:
        self._url = "ws" + base.removeprefix("http") + path
        self._headers = headers or {}
        self._connection: ClientConnection

    async def open(self) -> Self:
        self._connection = await connect(
            self._url,
            additional_headers=self._headers,
            proxy=None,
            compression=None,
            ping_interval=None,
            max_size=None,
        )
        return self

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        self.kill()

    async def get(self) -> Message:
        """The next frame. Raises Closed."""
        try:
            frame: Message = json.loads(await self._connection.recv())
        except ConnectionClosed as error:
            closed = error.rcvd
            raise Closed(closed.code if closed else 1006, closed.reason if closed else "") from None
        return frame

    async def until(self, type_: str) -> list[Message]:
        """Frames up to and with the first of this type."""
        got = [await self.get()]
        while got[-1]["type"] != type_:
            got.append(await self.get())
        return got

    async def text(self, text: str) -> None:
        await self._connection.send(text)

    async def send(self, **frame: Any) -> None:
        await self.text(json.dumps(frame))

    async def ping(self) -> None:
        """Wait until the other end has answered a ping of the protocol's own. Raises ConnectionClosed."""
        await (await self._connection.ping())

    async def close(self) -> None:
        """Say goodbye, and wait for the answer."""
        await self._connection.close()

    def kill(self) -> None:
        """Reset the connection, as a client that vanishes would; not a polite close."""
        sock: socket.socket = self._connection.transport.get_extra_info("socket")
        if sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.transport.abort()
