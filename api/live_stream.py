"""An SSE response that has begun, on a connection that is its own until it ends."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from api.delivery import Delivery
from api.dialects.encoder import Encoder, Ending, encoded
from api.http_chunks import LAST_CHUNK, chunk
from api.outputs import Idle, Output
from shared.telemetry import get_logger

_log = get_logger(__name__)

EXTENSION, HAND_OVER = "holdfast.connection", "hand_over"
"""In a scope's `extensions`, of a server that can: a function that makes a LiveStream the protocol of the connection,
and `begin`s it. Gives False where this connection cannot be had, or not any more."""


class Lender(Protocol):
    """The server that a connection was taken over from."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that is waited for, and then cancelled, when the server leaves."""

    def take_back(self, stream: "LiveStream", transport: asyncio.Transport, *, paused: bool) -> None:
        """The response has ended; the connection may bring another request. `paused`: the transport said
        `pause_writing` last, which it does not say again."""

    def forget(self, stream: "LiveStream") -> None:
        """The connection is lost."""


class LiveStream(asyncio.Protocol):
    """While its reader is in the audience of a feed nothing runs for it: no task, no request, no timer. Otherwise one
    task sends what the delivery gives out, and asks for more when the client has taken that."""

    __slots__ = (
        "_delivery", "_encode", "_lender", "_paused", "_resumed", "_reusable", "_task", "_transport", "write",
    )  # fmt: skip

    def __init__(self, delivery: Delivery, encode: Encoder) -> None:
        self._delivery = delivery
        self._encode = encode
        self._paused = False
        self._resumed: asyncio.Future[None] | None = None
        """There while the task waits for the client."""
        self._reusable = True
        self._task: asyncio.Task[None] | None = None

    def begin(self, transport: asyncio.Transport, lender: Lender, first: Output, *, reusable: bool) -> None:
        """The head of the response was sent; `first` is what comes next."""
        self._delivery.idles = self._encode.plain  # from now on alone: nobody else knows what to do with Idle
        self._transport, self._lender, self._reusable = transport, lender, reusable
        self.write = transport.write
        if self._send(first) is Ending.NONE:
            self._start()

    def shutdown(self) -> None:
        """The server takes no more requests on this connection."""
        self._reusable = False

    def recall(self) -> None:
        if self._delivery.leave_audience():
            self._start()

    def failed(self, error: Exception) -> None:
        _log.error("a stream could not be written to", error=repr(error), exc_info=error)
        self._leave()
        self._transport.abort()

    # -- what the transport says

    def pause_writing(self) -> None:
        self._paused = True
        self.recall()

    def resume_writing(self) -> None:
        self._paused = False
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._reusable = False  # whatever it asks before this has ended, it must ask again elsewhere

    def connection_lost(self, exc: Exception | None) -> None:
        self._lender.forget(self)
        if self._task is not None:
            self._task.cancel()
        else:
            self._leave()

    # -- the task

    def _start(self) -> None:
        self._task = self._lender.spawn(self._run())
        self._task.add_done_callback(self._ran)

    async def _run(self) -> None:
        """Ends in the audience, or with the response."""
        while not self._transport.is_closing():
            if self._paused:
                await self._resume()
                continue
            output = await self._delivery.next()
            if not isinstance(output, Idle):
                if self._send(output) is not Ending.NONE:
                    return
            elif not self._paused and self._delivery.join_audience(self):
                return
            del output

    async def _resume(self) -> None:
        self._resumed = asyncio.get_running_loop().create_future()
        try:
            await self._resumed
        finally:
            self._resumed = None

    def _send(self, output: Output) -> Ending:
        data, ending = encoded(self._encode, output)
        if data:
            self.write(chunk(data))
        match ending:
            case Ending.CLEAN:
                self._finish()
            case Ending.CUT:
                self._leave()  # the client may take long to take what it was sent
                self._transport.close()
        return ending

    def _finish(self) -> None:
        self.write(LAST_CHUNK)
        self._leave()
        if self._reusable and not self._transport.is_closing():
            self._lender.take_back(self, self._transport, paused=self._paused)
        else:
            self._transport.close()

    def _ran(self, task: asyncio.Task[None]) -> None:
        if self._task is not task:  # recalled since
            return
        self._task = None
        if self._delivery.in_audience and not self._transport.is_closing():
            return
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("a stream failed", error=repr(error), exc_info=error)
        if error is not None or task.cancelled():
            self._transport.close()
        self._leave()

    def _leave(self) -> None:
        self._delivery.leave_audience()
        self._delivery.close()
