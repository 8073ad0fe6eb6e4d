"""The server under a node: uvicorn, and how it leaves."""

import asyncio
import socket
from collections.abc import Coroutine
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame

from api.audience import WRITE_BYTES
from api.live_stream import EXTENSION, HAND_OVER, LiveStream
from api.outputs import Output
from shared.settings import Settings

CLOSE_S = 5.0
UNSENT_BYTES = 16 << 10
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Http(HttpToolsProtocol):
    """Waits for its client early: what the client does not take waits in the log, and not here. Also for a WebSocket,
    which begins here."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # after an error, too: the timer would keep this
        self._forget()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: {HAND_OVER: self._hand_over}}

    def handle_websocket_upgrade(self) -> None:
        super().handle_websocket_upgrade()
        self._forget()

    def _hand_over(self, stream: LiveStream, first: Output) -> bool:
        cycle, transport = self.cycle, self.transport
        if transport.is_closing() or self.pipeline or self.flow.write_paused or not cycle.chunked_encoding:
            return False
        whole = not cycle.more_body and self.scope is cycle.scope  # nothing of a body is to come, or of another request
        cycle.disconnected = True  # from this request
        self.connections.discard(self)
        self.connections.add(stream)  # type: ignore[arg-type]
        self.flow.resume_reading()
        transport.set_protocol(stream)
        lender = _Lender(self.config, self.server_state, self.app_state)
        stream.begin(transport, lender, first, reusable=cycle.keep_alive and whole)
        self._forget()
        return True

    def _forget(self) -> None:
        """What refers to this in a circle, and would keep it."""
        self.parser = None  # type: ignore[assignment]
        for of in (self, self.cycle):
            if of is not None and of.scope is not None:
                of.scope.pop("extensions", None)


class _Lender:
    """See `api.live_stream.Lender`."""

    __slots__ = ("_made", "_state")

    def __init__(self, config: uvicorn.Config, state: ServerState, app_state: dict[str, Any]) -> None:
        self._made = config, state, app_state
        self._state = state

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)
        return task

    def take_back(self, stream: LiveStream, transport: asyncio.Transport, *, paused: bool) -> None:
        self.forget(stream)
        http = Http(*self._made)
        http.connection_made(transport)
        transport.set_protocol(http)
        if paused:
            http.pause_writing()
        http.on_response_complete()

    def forget(self, stream: LiveStream) -> None:
        self._state.connections.discard(stream)


class Socket(WebSocketsSansIOProtocol):
    """A client that does not read is not read either: or the answers to its pings would pile up here."""

    frames: list[Any]
    """Pieces of the message that is coming in."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated and not self.close_sent:
            self.close_sent = True  # it would wait for ever
            self.transport.write(TOO_LARGE)
            self.transport.close()

    async def send(self, message: Any) -> None:
        await self.writable.wait()
        if self.handshake_complete and (self.close_sent or self.transport.is_closing()):
            raise ClientDisconnected
        await super().send(message)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.loop.call_later(CLOSE_S, self.transport.abort)  # closing waits for what a dead client will not read

    async def receive(self) -> Any:
        await self.writable.wait()
        message = await super().receive()  # it resumes reading
        if not self.writable.is_set():
            self.transport.pause_reading()
        return message

    def handle_parser_exception(self) -> None:
        """As before, but what still comes is taken and thrown away for a while: closing over it would reset the
        connection, and the client would not learn why."""
        if self.close_timer is not None:
            return
        assert self.conn.close_sent is not None
        code, reason = self.conn.close_sent.code, self.conn.close_sent.reason
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.write_eof()
        self.close_sent = True
        self.close_timer = self.loop.call_later(CLOSE_S, self.transport.abort)
        self.transport.resume_reading()

    def handle_cont(self, event: Frame) -> None:
        """One buffer: a message in fragments of a byte would be kept as a million objects."""
        if not isinstance(self.frames[0], bytearray):
            self.frames[0] = bytearray(self.frames[0])
        self.frames[0] += event.data
        if event.fin:
            self.send_receive_event_to_app()


def server_config(app: FastAPI, settings: Settings, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        http=Http,
        ws=Socket,
        ws_max_size=settings.max_body_bytes,
        ws_per_message_deflate=False,  # frames are small, and each one is wanted at once
        timeout_graceful_shutdown=3,
        server_header=False,
        timeout_keep_alive=75,  # longer than the idle time of common proxies: they must be the ones to close
        **more,
    )


class Server(uvicorn.Server):
    """On a signal the node takes no new connections, sends its readers away, spread over the drain time, and leaves.

    uvicorn by itself closes all WebSockets at once, and waits for open streams. A second signal ends the wait.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leaving: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        timeout_ms = int(self._app.state.node.settings.send_timeout_s * 1000)
        for server in self.servers:
            for listening in server.sockets:
                if listening.family in (socket.AF_INET, socket.AF_INET6):
                    _set_up(listening, timeout_ms)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is None:
            super().handle_exit(sig, frame)
        else:
            self._loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        if self._leaving is not None:
            self._app.state.node.hub.hurry()
            return
        for server in self.servers:
            server.close()  # a load balancer that asks here next goes elsewhere at once
        for connection in list(self.server_state.connections):
            if not isinstance(connection, Socket):
                connection.shutdown()  # when it is idle: a load balancer keeps it open, and would ask over it again
        self._leaving = asyncio.create_task(self._drained())

    async def _drained(self) -> None:
        await self._app.state.node.hub.drained()
        self.should_exit = True  # what uvicorn's own handler is told, the process dies of in the end; this exits with 0


def _set_up(listening: Any, timeout_ms: int) -> None:
    """What every connection inherits.

    One whose other end takes nothing for so long is dropped by the system, also where that end is still there and does
    not read; one with nothing to send is noticed by its next keep-alive. And the system takes little that it has not
    sent: what a slow client has still to get waits in the log, where it can be merged, and does not delay its pings.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
