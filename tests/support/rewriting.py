"""A server as it would be if it said something else: a TCP proxy that rewrites what is answered."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable


@contextlib.asynccontextmanager
async def rewriting(
    target_port: int, pattern: bytes, replacement: bytes | Callable[[re.Match[bytes]], bytes]
) -> AsyncIterator[int]:
    """Gives its port. What is found must be replaced by as many bytes where a length was said before it."""
    links: set[asyncio.Task[None]] = set()

    async def link(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", target_port)
            try:
                pumps = [
                    asyncio.create_task(_pump(reader, up_writer, lambda data: data)),
                    asyncio.create_task(_pump(up_reader, writer, lambda data: re.sub(pattern, replacement, data))),
                ]
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                for end in (writer, up_writer):
                    end.transport.abort()
                await asyncio.gather(*pumps, return_exceptions=True)

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(link(reader, writer))
        links.add(task)
        task.add_done_callback(links.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(links):
            task.cancel()
        await asyncio.gather(*links, return_exceptions=True)
        await server.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Callable[[bytes], bytes]) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 20):
            writer.write(change(data))
            await writer.drain()
