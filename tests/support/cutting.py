"""A network that breaks: a TCP proxy that resets each connection after so many bytes of its answer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

TAIL = 200
"""Bytes before a cut that `spare` is asked about."""

Spare = Callable[[bytes], object]
"""Whether an answer is not to be cut where it ends so; then it is cut a byte later."""


def nowhere(_tail: bytes) -> bool:
    return False


class Cutting:
    """One address in front of several ports, taken in turn."""

    def __init__(self, ports: Iterator[int], budgets: Iterator[int], spare: Spare) -> None:
        self._ports = ports
        self._budgets = budgets
        self._spare = spare
        self.port = 0
        self.cuts = 0
        """Connections that were reset."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", next(self._ports))
        asking = asyncio.create_task(_ask(reader, back))
        answering = asyncio.create_task(self._answer(there, writer, next(self._budgets, None)))
        await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, back):
            end.transport.abort()
        for task in (asking, answering):
            task.cancel()

    async def _answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int | None) -> None:
        """Ends with the server, or with the budget; without one nothing is cut."""
        tail = b""
        with contextlib.suppress(ConnectionError):
            while data := await there.read(65536 if budget is None else max(1, budget)):
                writer.write(data)
                await writer.drain()
                tail = (tail + data)[-TAIL:]
                if budget is not None and (budget := budget - len(data)) <= 0 and not self._spare(tail):
                    self.cuts += 1
                    return


async def _ask(reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            back.write(data)
            await back.drain()


@contextlib.asynccontextmanager
async def cutting(ports: Iterator[int], budgets: Iterator[int], spare: Spare = nowhere) -> AsyncIterator[Cutting]:
    """Each connection goes to the next port and gets the next budget, in bytes; without budgets left it lasts."""
    running = Cutting(ports, budgets, spare)
    server = await asyncio.start_server(running.serve, "127.0.0.1", 0)
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.close()
        await server.wait_closed()
