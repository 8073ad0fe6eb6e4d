"""A WebSocket: what the log says goes out, what the client says comes in, until one of the two ends.

How it was closed says whether to come back:

    1012, 1013               the node is shutting down, or cannot go on right now: come back with the last id
    1011                     the node failed, or the client answered no ping: come back, not at once
    1003, 1007, 1009         binary frame, no UTF-8, larger than the limit: the client's fault, do not repeat that frame
    4400                     malformed cursor or query
    4401, 4403               not authenticated; a page of another origin
    4404, 4410               unknown or deleted session; expired

Nothing is queued for a slow client: what it was not sent yet is in the log. Commands are carried out one after the
other, and the socket is not read meanwhile: a flood of them waits in the client.
"""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from fastapi import WebSocket
from pydantic import ValidationError
from starlette.websockets import WebSocketDisconnect, WebSocketDisconnected

from api.auth import authenticate
from api.cors import allowed_origin
from api.delivery import Delivery
from api.errors import status_of, words_of
from api.node import Node, Principal
from api.outputs import Cut, End, Nothing, Output, Refused
from shared.errors import HoldfastError, InvalidRequest, OriginNotAllowed, RedisUnavailable, TooMany, TooManyStreams
from shared.ids import START, EventId
from shared.redis import RedisError
from shared.tasks import cancel
from shared.telemetry import get_logger

_log = get_logger(__name__)

UNSUPPORTED, FAILED, RESTART, LATER = 1003, 1011, 1012, 1013
PRIVATE = 4000
"""Added to the HTTP status that the same refusal has there."""
COMMAND_S = 10.0
"""A command under way when the socket ends is given this long: it is not torn in the middle."""


class Closed(Exception):
    """This end closes the socket."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code, self.reason = code, reason


class Duplex(ABC):
    """One client on one WebSocket. Subclasses say what frames look like, and what the client's mean."""

    dialect: str
    """Its name, for the counts."""

    def __init__(self, node: Node, caller: Principal, socket: WebSocket) -> None:
        self.node = node
        self.caller = caller
        self._socket = socket
        self._outputs: asyncio.Future[AsyncGenerator[Output, None]] = asyncio.get_running_loop().create_future()
        """What the log says; there once a session is followed."""
        self._let_in = asyncio.Event()
        """There is room for this socket: a client that is turned away is not heard."""
        self._command: asyncio.Task[None] | None = None

    @abstractmethod
    def encode(self, output: Output) -> list[str]:
        """The frames of one output."""

    @abstractmethod
    async def hear(self, text: str) -> None:
        """Do what a frame of the client's says. What is wrong with it is raised, and told by `refusal`."""

    @abstractmethod
    def refusal(self, error: HoldfastError) -> str:
        """The frame that says why the last one was refused."""

    async def run(self) -> None:
        """Until the client goes, or this end has a reason to."""
        hearing = asyncio.create_task(self._hear())
        following = asyncio.create_task(self._follow())
        try:
            await asyncio.wait({hearing, following}, return_when=asyncio.FIRST_COMPLETED)
            ended = following if following.done() else hearing
            await self._settle()
            await self._close(ended.exception())
        finally:
            tasks = [hearing, following, *([self._command] if self._command else [])]
            await cancel(tasks)
            await asyncio.gather(*tasks, return_exceptions=True)  # how the others ended is no news

    async def say(self, *frames: str) -> None:
        """Raises WebSocketDisconnect where nobody is there any more."""
        for frame in frames:
            try:
                await self._socket.send_text(frame)
            except WebSocketDisconnected as error:  # another task was told first
                raise WebSocketDisconnect(1006) from error

    def follow(self, sid: str, cursor: EventId, *, merge: bool = True) -> None:
        """Send what follows the cursor, over all turns to come. Once per socket."""
        delivery = Delivery(self.node.hub, sid, self.caller, cursor, follow=True, merge=merge)
        delivery.kind = ("websocket", self.dialect)
        self._outputs.set_result(delivery.outputs())

    def end(self, why: Exception) -> None:
        """Close the socket, for one that follows nothing by itself: its lobby is where it waits for the end."""
        if not self._outputs.done():
            self._outputs.set_exception(why)

    # -- inside

    async def _follow(self) -> None:
        async with aclosing(await self._begun()) as outputs:
            async for output in outputs:
                if isinstance(output, Refused):
                    raise refused(output.error)
                if isinstance(output, Cut | End | Nothing):
                    raise self._cut()
                await self.say(*self.encode(output))

    async def _begun(self) -> AsyncGenerator[Output, None]:
        """Wait for a session to follow; the socket counts meanwhile, and can be sent away."""
        try:
            async with self.node.hub.lobby(self.caller) as waiting:
                self._let_in.set()
                self._outputs.add_done_callback(lambda _: waiting.feed.wake())
                while not self._outputs.done():
                    if waiting.kicked:
                        raise self._cut()
                    await waiting.feed.changed()
        except TooManyStreams as error:
            raise refused(error) from None
        return self._outputs.result()

    def _cut(self) -> "Closed":
        return Closed(RESTART if self.node.hub.draining else LATER)

    async def _hear(self) -> None:
        await self._let_in.wait()
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("text") is None:
                raise Closed(UNSUPPORTED, "binary_frame")
            self._command = asyncio.create_task(self._carry_out(message["text"]))
            await asyncio.shield(self._command)

    async def _carry_out(self, text: str) -> None:
        try:
            await self.hear(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            await self.say(self.refusal(InvalidRequest(words_of(first))))
        except HoldfastError as error:
            await self.say(self.refusal(error))
        except RedisError as error:
            _log.error("redis failed", error=str(error), rare=True)
            await self.say(self.refusal(RedisUnavailable()))

    async def _settle(self) -> None:
        """The command under way is carried out, as if the socket had ended a moment later."""
        if self._command is not None and not self._command.done():
            await asyncio.wait({self._command}, timeout=COMMAND_S)
            await cancel([self._command])

    async def _close(self, error: BaseException | None) -> None:
        if error is None or isinstance(error, WebSocketDisconnect):
            return
        if not isinstance(error, Closed):
            _log.error("a websocket failed", error=repr(error), exc_info=error)
            error = Closed(FAILED, "internal")
        await close(self._socket, error)


@contextlib.asynccontextmanager
async def admitted(socket: WebSocket) -> AsyncIterator[None]:
    """Accept, because only then a browser learns why it is turned away; close with that reason where one is raised."""
    await socket.accept()
    try:
        yield
    except HoldfastError as error:
        await close(socket, refused(error))


async def caller_behind(socket: WebSocket, session: str | None) -> Principal:
    """Who calls; `session` is the one the socket is about. Raises OriginNotAllowed, and what `authenticate` does."""
    if not allowed_origin(socket):
        raise OriginNotAllowed
    return await authenticate(socket, session)


def cursor_of(socket: WebSocket) -> EventId:
    """Of `?after=`. Raises InvalidEventId."""
    after = socket.query_params.get("after")
    return START if after is None else EventId.parse(after)


async def close(socket: WebSocket, why: Closed) -> None:
    """Nobody need be there any more."""
    with contextlib.suppress(WebSocketDisconnect, WebSocketDisconnected):
        await socket.close(why.code, why.reason)


def refused(error: HoldfastError) -> Closed:
    """As the same refusal over HTTP; what passes there (429, 5xx) passes here too."""
    status = status_of(error)
    return Closed(LATER if status >= 500 or isinstance(error, TooMany) else PRIVATE + status, error.code)
