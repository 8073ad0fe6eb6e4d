"""`WS /api/chat/ws`: the AI SDK's `WebSocketChatTransport`. One socket, many requests, each with its own stream.

Who calls is asked when the socket opens, by a header; where none can be set, a stream token in `?token=` will do for
the one chat that `?chat=` names. A stream that cannot go on closes the socket: for the SDK the connection is lost then,
and resumes, while an `error` frame would be the end.
"""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, WebSocket
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.websockets import WebSocketDisconnect

from api.auth import Principal
from api.commands import Commands
from api.compat import vercel_turns
from api.compat.vercel_request import ChatId, ChatRequest, session_of
from api.compat.vercel_turns import Turn
from api.delivery import Delivery
from api.dialects.encoder import Ending, encoded
from api.dialects.projection import ProjectionEncoder
from api.dialects.vercel import UiFrames, frame
from api.duplex import PRIVATE, Closed, Duplex, admitted, caller_behind
from api.node import Node, node_of
from api.outputs import Output, Refused
from shared.errors import HoldfastError, InvalidRequest, NotTheGeneration, SessionNotFound, TooManyStreams
from shared.tasks import cancel

MOST = 32
"""Requests of one socket at once."""
LATER_S = 5

router = APIRouter()


class _Frame(BaseModel):
    requestId: Annotated[str, Field(min_length=1, max_length=200)]


class Send(_Frame):
    type: Literal["send"]
    id: ChatId
    body: dict[str, Any] = {}
    messages: list[Any]
    trigger: str
    messageId: str | None = None


class Resume(_Frame):
    type: Literal["resume"]
    id: ChatId
    body: dict[str, Any] = {}


class Abort(_Frame):
    type: Literal["abort"]


_FRAMES: TypeAdapter[Send | Resume | Abort] = TypeAdapter(Annotated[Send | Resume | Abort, Field(discriminator="type")])


@dataclass(frozen=True)
class _Request:
    turn: Turn
    task: asyncio.Task[None]


class TransportSocket(Duplex):
    dialect = "vercel"

    def __init__(self, node: Node, caller: Principal, socket: WebSocket, only: str | None) -> None:
        """`only`: the session this socket is for; None: all of the caller's."""
        super().__init__(node, caller, socket)
        self._only = only
        self._commands = Commands(node, caller)
        self._requests: dict[str, _Request] = {}
        self._asking = ""
        """The request of the frame under way."""

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            tasks = [request.task for request in self._requests.values()]
            await cancel(tasks)

    def encode(self, output: Output) -> list[str]:
        """None: each request follows for itself, the socket nothing."""
        return []

    def refusal(self, error: HoldfastError) -> str:
        return frame("error", self._asking, errorText=error.message)

    async def hear(self, text: str) -> None:
        asked = _read(text)
        self._asking = asked.requestId
        if isinstance(asked, Abort):
            await self._abort(asked.requestId)
            return
        if asked.requestId in self._requests:
            raise Closed(PRIVATE + 400, "requestId is in use")
        if len(self._requests) >= MOST:
            raise TooManyStreams(f"{MOST} requests are open on this socket", LATER_S)
        turn = await self._send(asked) if isinstance(asked, Send) else await self._resume(asked)
        if turn is None:
            await self.say(frame("no-active", asked.requestId))
        else:
            task = asyncio.create_task(self._serve(asked.requestId, turn))
            self._requests[asked.requestId] = _Request(turn, task)

    # -- frames of the client's

    async def _send(self, asked: Send) -> Turn:
        own = asked.model_dump(include={"id", "messages", "trigger", "messageId"})
        request = ChatRequest.model_validate({**asked.body, **own})
        self._check(request.sid)
        return await vercel_turns.opened(self.node, self.caller, request, None)

    async def _resume(self, asked: Resume) -> Turn | None:
        sid = session_of(asked.id)
        self._check(sid)
        finished = asked.body.get("finished") is True
        return await vercel_turns.running(self.node, self.caller, sid, finished=finished)

    async def _abort(self, request_id: str) -> None:
        """The user said stop, and the client listens no longer. One that is over, or never was, is no error."""
        request = self._requests.pop(request_id, None)
        if request is None:
            return
        await cancel([request.task])
        try:
            await self._commands.stop(request.turn.sid, request.turn.generation)
        except (NotTheGeneration, SessionNotFound):
            return

    def _check(self, sid: str) -> None:
        if self._only is not None and sid != self._only:
            raise SessionNotFound(sid)

    # -- streams

    async def _serve(self, request_id: str, turn: Turn) -> None:
        try:
            await self._stream(request_id, turn)
        except WebSocketDisconnect:
            return  # whoever hears learns it too
        except Exception as error:  # noqa: BLE001 - the socket is closed with it, and says so
            self.end(error)
        finally:
            self._requests.pop(request_id, None)

    async def _stream(self, request_id: str, turn: Turn) -> None:
        """Ends with the generation, or with a reason to close the socket."""
        delivery = Delivery(self.node.hub, turn.sid, self.caller, turn.cursor, follow=False, merge=True)
        delivery.kind = ("websocket", self.dialect)
        encode = ProjectionEncoder(UiFrames(turn.sid, turn.generation, request_id), keep_alive=b"")
        begun = False
        async with aclosing(delivery.outputs()) as outputs:
            async for output in outputs:
                if isinstance(output, Refused):
                    await self.say(frame("error", request_id, errorText=output.error.message))
                    return
                if not begun:
                    begun = True
                    await self.say(frame("start", request_id))
                data, ending = encoded(encode, output)
                await self.say(*[line for line in data.decode().split("\n") if line])
                if ending is Ending.CLEAN:
                    await self.say(frame("end", request_id))
                    return
                if ending is Ending.CUT:
                    raise self._cut()


def _read(text: str) -> Send | Resume | Abort:
    """Raises Closed: a client that gets this wrong cannot be told which of its requests was refused."""
    try:
        return _FRAMES.validate_python(from_json(text))
    except (ValidationError, ValueError):
        raise Closed(PRIVATE + 400, "not a frame of WebSocketChatTransport") from None


@router.websocket("/api/chat/ws")
async def transport_socket(socket: WebSocket) -> None:
    """`?chat=` restricts the socket to one chat."""
    async with admitted(socket):
        chat = socket.query_params.get("chat")
        if chat is not None and not 1 <= len(chat) <= 512:
            raise InvalidRequest("chat must have 1 to 512 characters")
        only = None if chat is None else session_of(chat)
        caller = await caller_behind(socket, only)
        await TransportSocket(node_of(socket), caller, socket, only).run()
