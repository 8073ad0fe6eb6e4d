"""`WS /ws/chat`: send text to ask, `STOP` to interrupt."""

from typing import Any

from fastapi import APIRouter, WebSocket

from api import schemas
from api.auth import Principal
from api.commands import Commands
from api.delivery import Events, Gap, Output
from api.dialects import chat
from api.duplex import Duplex, admitted, caller_behind
from api.node import Node, node_of
from api.websocket import cursor_of
from shared.errors import HoldfastError, InvalidRequest, QuestionGone, SessionNotFound
from shared.events import TERMINALS, Event, EventType
from shared.ids import START, is_session_id

STOP = "STOP"

router = APIRouter()


class Chat(Duplex):
    """One conversation. Its session begins with the first text, unless the socket came back to one."""

    def __init__(self, node: Node, caller: Principal, socket: WebSocket, opening: dict[str, Any]) -> None:
        super().__init__(node, caller, socket)
        self.sid = ""
        self.question: str | None = ""
        """The open one, as far as this client has been told. None: it came back, and was told nothing about it yet."""
        self._opening = opening
        self._commands = Commands(node, caller)

    def encode(self, output: Output) -> list[str]:
        match output:
            case Events(events):
                for event in events:
                    self._note(event)
            case Gap():
                messages = output.transcript.messages
                asked = messages[-1].question if messages else None
                self.question = asked.id if asked else ""
        return chat.encode_output(output)

    def refusal(self, error: HoldfastError) -> str:
        return chat.refusal(error)

    async def hear(self, text: str) -> None:
        if self.question is None:
            self.question = (await self._commands.view(self.sid)).question
        if text.strip() == STOP:
            await self._stop()
        elif self.question:
            await self._answer(self.question, text)
        else:
            await self._ask(text)

    async def _ask(self, text: str) -> None:
        """While an answer is being written, asking interrupts it."""
        asked = schemas.ChatRequest(message=text, interrupt=True, **self._opening)
        if self.sid:
            turn = await self._commands.message(self.sid, asked.next, None)
            await self.say(chat.opened(self.sid, turn.generation))
            return
        self.sid, turn = await self._commands.create(asked.first, None)
        await self.say(chat.opened(self.sid, turn.generation))
        self.follow(self.sid, START)

    async def _answer(self, question: str, text: str) -> None:
        try:
            await self._commands.answer(self.sid, schemas.AnswerRequest(question=question, text=text), None)
        except QuestionGone:
            self._no_longer_asked(question)
            raise
        self._no_longer_asked(question)

    def _no_longer_asked(self, question: str) -> None:
        if self.question == question:
            self.question = ""

    async def _stop(self) -> None:
        if not self.sid:
            raise InvalidRequest("there is nothing to stop yet: send text to ask")
        await self._commands.stop(self.sid, "")
        self.question = ""  # what is said next asks, also before the end has been told

    def _note(self, event: Event) -> None:
        if event.type == EventType.QUESTION:
            self.question = event.value["id"]
        elif event.type in (EventType.ANSWER, EventType.STARTED) or event.type in TERMINALS:
            self.question = ""


@router.websocket("/ws/chat")
async def chat_socket(socket: WebSocket) -> None:
    """`?session=` comes back to a conversation, `&after=` from an id on; `?model=`, `?pipeline=` for a new one."""
    async with admitted(socket):
        query = socket.query_params
        sid = query.get("session")
        if sid is not None and not is_session_id(sid):
            raise SessionNotFound(sid)
        opening = {name: query[name] for name in ("model", "pipeline") if name in query}
        conversation = Chat(node_of(socket), await caller_behind(socket, sid), socket, opening)
        if sid is not None:
            conversation.sid, conversation.question = sid, None
            conversation.follow(sid, cursor_of(socket))
        await conversation.run()
