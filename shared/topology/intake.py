"""Reading what is published, without a coroutine for each message.

redis-py makes a connection and sends its commands. Only the reading is taken over from it: what the socket has is
parsed and handed on there and then.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final, Self

import hiredis
from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

CHUNK: Final = 65536
"""Bytes that are read, parsed and handed on before the others on the loop have their turn."""
_INCOMPLETE: Final = object()


class Intake(asyncio.BufferedProtocol):
    """Between a connection's transport and redis-py's own protocol, which is told everything but what arrives."""

    def __init__(self, transport: asyncio.Transport, on_reply: Callable[[Any], None]) -> None:
        loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = loop.create_future()
        """Fails when there is nothing more to come: with RedisError as redis-py would raise it for an error reply or a
        lost connection, or with whatever `on_reply` raised. Nothing is handed on after that."""
        self.heard = loop.time()
        """When the last bytes came."""
        self._loop = loop
        self._transport = transport
        self._on_reply = on_reply
        self._former: Any = transport.get_protocol()
        self._chunk = bytearray(CHUNK)
        self._parser = hiredis.Reader(
            protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_INCOMPLETE
        )

    @classmethod
    async def of(cls, connection: Any, on_reply: Callable[[Any], None]) -> Self:
        """Take over a connection that awaits no reply. `on_reply` is told every one from now on, bytes undecoded.

        Nobody may read from the connection any more; commands are sent, and it is disconnected, as before. Raises
        redis.exceptions.ConnectionError if it is lost already.
        """
        if connection._writer is None or connection._writer.transport.is_closing():
            raise RedisConnectionError("the connection is closed")
        transport = connection._writer.transport
        transport.pause_reading()
        intake = cls(transport, on_reply)
        transport.set_protocol(intake)
        with contextlib.suppress(TimeoutError):  # as a rule nothing has come
            async with asyncio.timeout(0):
                intake._feed(await connection._reader.read(CHUNK))
        if transport.is_closing():
            intake._end(RedisConnectionError("the connection is closed"))
        intake._go_on()
        return intake

    def close(self) -> None:
        """Hand nothing on any more. The connection stays as it is."""
        self.over.cancel()

    # -- for the transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._chunk

    def buffer_updated(self, nbytes: int) -> None:
        self.heard = self._loop.time()
        if nbytes == CHUNK:  # there may be much more
            self._transport.pause_reading()
            self._loop.call_soon(self._go_on)
        self._parser.feed(self._chunk, 0, nbytes)  # type: ignore[arg-type]  # it takes any buffer
        self._hand_on()

    def eof_received(self) -> bool | None:
        self._end(RedisConnectionError("the server closed the connection"))
        stays: bool | None = self._former.eof_received()
        return stays

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(RedisConnectionError(f"the connection is lost: {exc or 'it was closed'}"))
        self._former.connection_lost(exc)

    def pause_writing(self) -> None:
        self._former.pause_writing()

    def resume_writing(self) -> None:
        self._former.resume_writing()

    # -- inside

    def _feed(self, early: bytes) -> None:
        """What redis-py was sent before we came; nothing: the end."""
        if early:
            self._parser.feed(early)
            self._hand_on()
        else:
            self._end(RedisConnectionError("the server closed the connection"))

    def _hand_on(self) -> None:
        try:
            while (reply := self._parser.gets()) is not _INCOMPLETE:
                if self.over.done():
                    return
                if isinstance(reply, Exception):
                    raise reply
                self._on_reply(reply)
        except Exception as error:  # noqa: BLE001 - it is raised where `over` is awaited
            self._end(error)

    def _go_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _end(self, error: Exception) -> None:
        if not self.over.done():
            self.over.set_exception(error)
            self.over.exception()  # so that it is no complaint that nobody awaits it any more
