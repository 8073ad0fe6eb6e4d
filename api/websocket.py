"""`WS /v1/sessions/{id}/ws`: every event as a JSON frame, and commands on the same socket."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, WebSocket
from pydantic import BaseModel, ConfigDict, Field, StrictInt, TypeAdapter, ValidationError
from pydantic_core import from_json

from api import replies, schemas
from api.auth import Principal
from api.commands import Commands
from api.dialects import packets
from api.dialects.packets import Ref
from api.duplex import Duplex, admitted, caller_behind, cursor_of
from api.node import Node, node_of
from api.outputs import Output
from shared.errors import HoldfastError, InvalidJson, InvalidRequest, SessionNotFound, UnknownFrame
from shared.ids import is_session_id

router = APIRouter()

_BOOL = TypeAdapter(bool)


class Envelope(BaseModel):
    """What is common to all frames of a client. The rest is the body of the same request over HTTP."""

    model_config = ConfigDict(extra="allow")

    type: str
    ref: Annotated[str, Field(max_length=200)] | StrictInt | None = None
    key: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    """Like the header Idempotency-Key."""


class SessionSocket(Duplex):
    """One session, followed over its turns."""

    dialect = "packets"

    def __init__(self, node: Node, caller: Principal, socket: WebSocket, sid: str) -> None:
        super().__init__(node, caller, socket)
        self.sid = sid
        self.commands = Commands(node, caller)
        self._ref: Ref = None
        """Of the command under way."""

    def encode(self, output: Output) -> list[str]:
        return packets.encode_output(output)

    def refusal(self, error: HoldfastError) -> str:
        return packets.refusal(self._ref, error)

    async def hear(self, text: str) -> None:
        self._ref = None
        value = _object(text)
        self._ref = _ref(value)
        await self.say(await self._answer(Envelope.model_validate(value)))

    async def _answer(self, frame: Envelope) -> str:
        body = frame.model_extra or {}
        match frame.type:
            case "ping":
                return packets.pong(frame.ref)
            case "message":
                request = schemas.NextMessage.model_validate(body)
                turn = await self.commands.message(self.sid, request, frame.key)
                reply: BaseModel = await replies.opened(self.node, self.sid, turn)
            case "stop":
                reply = await replies.stopped(
                    self.node, self.commands, self.sid, schemas.StopRequest.model_validate(body)
                )
            case "answer":
                request_ = schemas.AnswerRequest.model_validate(body)
                reply = await replies.answered(self.commands, self.sid, request_, frame.key)
            case _:
                raise UnknownFrame("the type of a frame is one of: message, stop, answer, ping")
        return packets.reply(frame.ref, reply.model_dump(mode="json"))


def _object(text: str) -> dict[str, Any]:
    try:
        value = from_json(text)
    except ValueError:
        raise InvalidJson("the frame is not valid JSON") from None
    if not isinstance(value, dict):
        raise InvalidRequest("the frame must be a JSON object")
    return value


def _ref(value: Mapping[str, Any]) -> Ref:
    """Known also where the rest of the frame is wrong: the client must learn which of its commands failed."""
    ref = value.get("ref")
    known = isinstance(ref, int) and not isinstance(ref, bool)
    return ref if known or (isinstance(ref, str) and len(ref) <= 200) else None


@router.websocket("/v1/sessions/{sid}/ws")
async def session_socket(socket: WebSocket, sid: str) -> None:
    """Follows from `?after=`, or from the start; `?merge=0` replays every delta by itself."""
    async with admitted(socket):
        if not is_session_id(sid):
            raise SessionNotFound(sid)
        session = SessionSocket(node_of(socket), await caller_behind(socket, sid), socket, sid)
        session.follow(sid, cursor_of(socket), merge=_merge(socket))
        await session.run()


def _merge(socket: WebSocket) -> bool:
    """As over SSE."""
    try:
        return _BOOL.validate_python(socket.query_params.get("merge", "1"))
    except ValidationError:
        raise InvalidRequest("merge must be 0 or 1") from None
