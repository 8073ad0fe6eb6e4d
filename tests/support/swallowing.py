"""A way to a node on which answers get lost: the node has done what it was asked, and nobody is told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Swallowing:
    """Passes each request on, waits for the answer to begin, and resets the connection instead of giving it."""

    def __init__(self, node_port: int) -> None:
        self._node_port = node_port
        self.port = 0
        self.swallowed: list[bytes] = []
        """First line of each request whose answer was lost."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back: asyncio.StreamWriter | None = None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            answers, back = await asyncio.open_connection("127.0.0.1", self._node_port)
            back.write(head + await reader.readexactly(_length(head)))
            await answers.readuntil(b"\r\n\r\n")
            self.swallowed.append(head.split(b"\r\n", 1)[0])
        except asyncio.IncompleteReadError:
            pass  # it connected, and asked nothing
        finally:
            for end in (writer, back):
                if end is not None:
                    end.transport.abort()


def _length(head: bytes) -> int:
    fields = (line.partition(b":") for line in head.lower().split(b"\r\n")[1:])
    return next((int(value) for name, _, value in fields if name == b"content-length"), 0)


@contextlib.asynccontextmanager
async def swallowing(node_port: int) -> AsyncIterator[Swallowing]:
    running = Swallowing(node_port)
    server = await asyncio.start_server(running.serve, "127.0.0.1", 0)
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.close()
        await server.wait_closed()
