"""A TCP proxy: one address in front of nodes that come and go."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Proxy:
    """Forwards each new connection to the target of the moment; a target that dies takes its connections with it."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self._links: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def pause(self) -> None:
        """From now on nothing arrives any more, and nobody is told."""
        self._open.clear()

    def go_on(self) -> None:
        """Everything arrives again, what was held back too."""
        self._open.set()

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.create_task(self._link(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        pumps: list[asyncio.Task[None]] = []
        try:
            with contextlib.suppress(ConnectionError):
                up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
                ends.append(up_writer)
                ways = ((reader, up_writer), (up_reader, writer))
                pumps += [asyncio.create_task(_pump(source, target, self._open)) for source, target in ways]
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.transport.abort()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def cut(self) -> None:
        """Break every connection."""
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, opened: asyncio.Event) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            await opened.wait()
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def proxy(target_port: int) -> AsyncIterator[Proxy]:
    running = Proxy(target_port)
    server = await asyncio.start_server(running.serve, "127.0.0.1", 0)
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.close()
        await running.cut()
        await server.wait_closed()
