"""A server that is far away: a TCP proxy that keeps all bytes for a while, both ways, and limits no throughput."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

_Sent = tuple[float, bytes]
"""When it is to arrive, and what; nothing means the end."""


@contextlib.asynccontextmanager
async def far(url: str, round_trip_s: float) -> AsyncIterator[str]:
    """The same URL, seen from a distance. At the end of the block its connections break."""
    parts = urlsplit(url)
    link = _Link(parts.hostname or "127.0.0.1", parts.port or 6379, round_trip_s / 2)
    server = await asyncio.start_server(link.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield parts._replace(netloc=f"127.0.0.1:{port}").geturl()
    finally:
        server.close()
        await link.cut()
        await server.wait_closed()


class _Link:
    def __init__(self, host: str, port: int, delay_s: float) -> None:
        self._host, self._port = host, port
        self._delay_s = delay_s
        self._pumps: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._host, self._port)
        for source, target in ((reader, back), (there, writer)):
            sent: asyncio.Queue[_Sent] = asyncio.Queue()
            for pump in (self._take(source, sent), self._give(sent, target)):
                task = asyncio.create_task(pump)
                self._pumps.add(task)
                task.add_done_callback(self._pumps.discard)

    async def cut(self) -> None:
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _take(self, source: asyncio.StreamReader, sent: asyncio.Queue[_Sent]) -> None:
        """Ends with the end of the source. What is under way is without bound, as on a wire that is long enough."""
        loop = asyncio.get_running_loop()
        data = b"?"
        while data:
            data = await _read(source)
            sent.put_nowait((loop.time() + self._delay_s, data))

    async def _give(self, sent: asyncio.Queue[_Sent], target: asyncio.StreamWriter) -> None:
        """In order, each at its time. Ends with the end of the source, or cancelled; then the target is closed."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                due, data = await sent.get()
                await asyncio.sleep(due - loop.time())
                if not data:
                    return
                target.write(data)
        finally:
            target.close()


async def _read(source: asyncio.StreamReader) -> bytes:
    try:
        return await source.read(1 << 16)
    except ConnectionError:
        return b""
