"""HTTP and WebSocket as bytes: a client that refuses nothing, so that a node can be sent anything."""

import base64
import os
import socket
import struct
from dataclasses import dataclass
from typing import Self

LATIN = "latin-1"
TEXT, BINARY, CLOSE = 1, 2, 8


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    """Empty for a stream: only its beginning is looked at."""


class RawHttp:
    """One connection at a time, used again where the answer allows. Raises TimeoutError when a node does not answer."""

    def __init__(self, port: int, timeout_s: float) -> None:
        self._address, self._timeout_s = ("127.0.0.1", port), timeout_s
        self._socket: socket.socket | None = None
        self._buffer = b""

    def request(self, head: bytes, body: bytes) -> Answer:
        """`head` without the length of the body and the blank line."""
        data = head + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        for _ in range(2):  # a connection that was kept may have been closed meanwhile
            fresh = self._socket is None
            try:
                self._connected().sendall(data)
                answer = self._answer(head.startswith(b"HEAD"))
                while answer.status < 200:
                    answer = self._answer(False)
                return answer
            except ConnectionError:
                self.close()
                if fresh:
                    raise
        raise ConnectionError("a new connection was closed without an answer")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._buffer = None, b""

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, self._timeout_s)
        return self._socket

    def _answer(self, without_body: bool) -> Answer:
        head = self._until(b"\r\n\r\n").decode(LATIN).split("\r\n")
        status = int(head[0].split(" ")[1])
        headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in head[1:]) if n}
        body = b""
        if without_body or status < 200 or status in (204, 304):
            pass
        elif "content-length" in headers:
            body = self._exactly(int(headers["content-length"]))
        else:
            self.close()
        if headers.get("connection") == "close":
            self.close()
        return Answer(status, headers, body)

    def _more(self) -> None:
        data = self._connected().recv(65536)
        if not data:
            raise ConnectionError("closed")
        self._buffer += data

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._more()
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found


class RawSocket:
    """A WebSocket without rules."""

    def __init__(self, port: int, target: bytes, headers: bytes, timeout_s: float) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        key = base64.b64encode(os.urandom(16))
        self._socket.sendall(
            b"GET %b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b%b\r\n\r\n" % (target, port, key, headers)
        )
        self._file = self._socket.makefile("rb")
        self.status = int(self._file.readline().split(b" ")[1])
        """101, or why it is no WebSocket."""
        while self._file.readline() not in (b"\r\n", b""):
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def send(self, payload: bytes, opcode: int = TEXT) -> None:
        size = len(payload)
        length = bytes([128 | size]) if size < 126 else struct.pack("!BH", 254, size)
        if size > 65535:
            length = struct.pack("!BQ", 255, size)
        self.send_raw(bytes([128 | opcode]) + length + b"\0\0\0\0" + payload)  # a mask of zeros changes nothing

    def send_raw(self, data: bytes) -> None:
        """Nobody need be there any more: how it was closed is what `receive` says."""
        try:
            self._socket.sendall(data)
        except ConnectionError:
            return

    def receive(self) -> tuple[int, bytes] | None:
        """Opcode and payload; None: the connection is gone."""
        try:
            head = self._file.read(2)
            if len(head) < 2:
                return None
            size = head[1] & 127
            if size >= 126:
                size = int.from_bytes(self._file.read(2 if size == 126 else 8), "big")
            return head[0] & 15, self._file.read(size)
        except ConnectionError:
            return None
