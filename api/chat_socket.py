"""`WS /ws/chat`: send text to ask, `STOP` to interrupt."""

from typing import Any

from fastapi import APIRouter, WebSocket

from api import schemas
from api.auth import Principal
from api.commands import Commands
from api.dialects import chat
from api.duplex import Duplex, admitted, caller_behind, cursor_of
from api.node import Node, node_of
from api.outputs import CaughtUp, Events, Gap, Output
from shared.errors import HoldfastError, InvalidRequest, QuestionGone, SessionNotFound
from shared.events import TERMINALS, Event, EventType
from shared.ids import START, is_session_id, new_token

STOP = "STOP"

router = APIRouter()


class ChatSocket(Duplex):
    """One conversation. Its session begins with the first text, unless the socket came back to one."""

    dialect = "chat"

    def __init__(self, node: Node, caller: Principal, socket: WebSocket, opening: dict[str, Any]) -> None:
        super().__init__(node, caller, socket)
        self.sid = ""
        self._question: str | None = None
        """The open one, or nothing, as far as this client has been told. None: it was told nothing of any."""
        self._caught_up = False
        """What it was told is how things stand."""
        self._repeat = ("", "")
        """A text that may have been asked or not, for Redis went away, and the key it had."""
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
                self._question = asked.id if asked else ""
            case CaughtUp():
                self._caught_up = True
        return chat.encode_output(output)

    def refusal(self, error: HoldfastError) -> str:
        return chat.refusal(error)

    async def hear(self, text: str) -> None:
        if text.strip() == STOP:
            await self._stop()
        elif question := await self._open_question():
            await self._answer(question, text)
        else:
            await self._ask(text)

    async def _open_question(self) -> str:
        if not self.sid:
            return ""
        if self._caught_up and self._question is not None:
            return self._question
        return (await self._commands.view(self.sid)).question

    async def _ask(self, text: str) -> None:
        """While an answer is being written, asking interrupts it. The same text after a doubtful end asks only once."""
        asked = schemas.ChatRequest(message=text, interrupt=True, **self._opening)
        before, key = self._repeat
        self._repeat = (text, key if before == text else new_token())
        try:
            begins, generation = await self._open(asked, self._repeat[1])
        except HoldfastError:
            self._repeat = ("", "")
            raise
        self._repeat = ("", "")
        await self.say(chat.opened(self.sid, generation))
        if begins:
            self.follow(self.sid, START)

    async def _open(self, asked: schemas.ChatRequest, key: str) -> tuple[bool, str]:
        """Whether the conversation begins with it, and its generation."""
        if self.sid:
            return False, (await self._commands.message(self.sid, asked.next, key)).generation
        self.sid, turn = await self._commands.create(asked.first, key)
        return True, turn.generation

    async def _answer(self, question: str, text: str) -> None:
        try:
            await self._commands.answer(self.sid, schemas.AnswerRequest(question=question, text=text), None)
        except QuestionGone:
            self._no_longer_asked(question)
            raise
        self._no_longer_asked(question)

    def _no_longer_asked(self, question: str) -> None:
        if self._question == question:
            self._question = ""

    async def _stop(self) -> None:
        if not self.sid:
            raise InvalidRequest("there is nothing to stop yet: send text to ask")
        await self._commands.stop(self.sid, "")
        self._question = ""  # what is said next asks, also before the end has been told

    def _note(self, event: Event) -> None:
        if event.type == EventType.QUESTION:
            self._question = event.value["id"]
        elif event.type in (EventType.ANSWER, EventType.STARTED) or event.type in TERMINALS:
            self._question = ""


@router.websocket("/ws/chat")
async def chat_socket(socket: WebSocket) -> None:
    """`?session=` comes back to a conversation, `&after=` from an id on; `?model=`, `?pipeline=` for a new one."""
    async with admitted(socket):
        query = socket.query_params
        sid = query.get("session")
        if sid is not None and not is_session_id(sid):
            raise SessionNotFound(sid)
        opening = {name: query[name] for name in ("model", "pipeline") if name in query}
        conversation = ChatSocket(node_of(socket), await caller_behind(socket, sid), socket, opening)
        if sid is not None:
            conversation.sid = sid
            conversation.follow(sid, cursor_of(socket))
        elif "after" in query:
            raise InvalidRequest("after needs the session it is of")
        await conversation.run()
