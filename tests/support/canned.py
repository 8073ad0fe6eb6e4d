"""A server that gives the same answers whatever it is asked, one after the other, and writes down what it was asked."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

WITHIN_S = 20.0
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
SEVERED = b""
"""In the place of END: the connection is reset in the middle of the answer."""


def block(event_id: str, kind: str, data: str) -> bytes:
    head = f"id: {event_id}\n" if event_id else ""
    return piece(f"{head}event: {kind}\ndata: {data}\n\n".encode())


def piece(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def answer(status: int, body: str = "", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body.encode())}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


class Canned:
    """`asked` are the requests: their first lines and headers in small letters, and their bodies."""

    def __init__(self, answers: Iterator[bytes]) -> None:
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        self.url = ""
        self._answers = answers
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> int:
        """Connections."""
        return len(self._serving)

    def header(self, name: str) -> list[str]:
        """What each request said there; empty where it did not."""
        lines = [[line.partition(": ") for line in head.split("\r\n")] for head in self.asked]
        return [next((value for said, _, value in request if said == name), "") for request in lines]

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def end(self) -> None:
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """An answer that is whole leaves the connection open for the next request."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                self.asked.append(head)
                length = self.header("content-length")[-1]
                self.bodies.append(await reader.readexactly(int(length or 0)))
                said = next(self._answers)
                writer.write(said)
                await writer.drain()
                if b"chunked" in said and not said.endswith(END):
                    return


@contextlib.asynccontextmanager
async def canned(*answers: bytes) -> AsyncIterator[Canned]:
    running = Canned(iter(answers))
    server = await asyncio.start_server(running.serve, "127.0.0.1", 0)
    running.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with asyncio.timeout(WITHIN_S):
            yield running
    finally:
        server.close()
        await running.end()
        await server.wait_closed()
