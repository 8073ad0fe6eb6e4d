"""The dialect of LangGraph's server: a thread is a session, a run is a generation.

One event of the log becomes several of theirs. Their ids are `<event id>.<n>`, n from 1, whichever modes are asked
for: so a client resumes behind exactly the one it had last. The bare id of an event stands for all that it becomes.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from api.dialects import langchain_messages as written
from api.dialects.conversation import Conversation, Said
from api.dialects.encoder import Unsayable
from api.dialects.projection import Projection
from shared.errors import InvalidEventId
from shared.events import TERMINALS, Event, EventType, encode
from shared.ids import START, EventId
from shared.transcript import Failure, Question, Usage

NODE = "agent"
"""What the node of a graph would be called that says what the assistant says."""
TOOLS = "tools"
GROWTH = 32
"""A message that is sent whole again and again is sent when it grew by one part in so many: what is sent in all stays
in proportion to the message."""
_ALL = 1 << 31
_CURSOR = re.compile(r"([0-9-]+)(?:\.([1-9][0-9]{0,8}))?")
FROM_START = ("-1", "0", "")
"""Cursors by which clients ask for everything."""


class Mode(StrEnum):
    VALUES = "values"
    MESSAGES = "messages"
    """Messages whole, again and again as they grow."""
    TUPLES = "messages-tuple"
    """Messages in pieces."""
    UPDATES = "updates"
    CUSTOM = "custom"


WITH_TEXT = frozenset({Mode.VALUES, Mode.MESSAGES, Mode.UPDATES})
"""Modes that say a text again that was said before."""


@dataclass(frozen=True)
class Cursor:
    event: EventId
    index: int = _ALL

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """None: from the start. Raises InvalidEventId."""
        if text is None or text in FROM_START:
            return None
        found = _CURSOR.fullmatch(text)
        if found is None:
            raise InvalidEventId(text)
        return cls(EventId.parse(found[1]), int(found[2]) if found[2] else _ALL)


class LangGraphProjection(Projection):
    """One run, or, as `generation` is empty, all runs of a thread, without an end."""

    dialect = "langgraph"

    def __init__(
        self, sid: str, thread: str, generation: str, modes: Collection[Mode], after: Cursor | None = None
    ) -> None:
        super().__init__(generation)
        self._thread = thread
        self._modes = frozenset(modes)
        self._after = after or Cursor(START)
        self._said = Conversation(sid, keep_text=bool(self._modes & WITH_TEXT))
        self._pieces: list[bytes] = []
        self._event = START
        self._index = 0
        self._announced = ""
        """The run whose `metadata` was sent."""
        self._length = 0
        """Characters of the assistant's message that grows."""
        self._shown = 0
        """How long it was when it was last sent whole."""

    def take(self, event: Event) -> bytes:
        """What the client is sent for the next event of the session."""
        if self.over:
            return b""
        void = self._void(event)
        self._said.take(event)
        if self.generation and self._said.generation != self.generation:
            return b""
        self._pieces, self._event, self._index = [], event.id, 0
        self._announce(void)
        data = self.project(event)
        if event.terminal and self.generation:
            if event.id < self._after.event:
                raise Unsayable("the cursor lies behind the end of its run")
            self.over = True
        return data

    def project(self, event: Event) -> bytes:
        said, value = self._said, event.value
        match event.type:
            case EventType.STARTED:
                self._values()
            case EventType.TEXT:
                self._grow(value["text"], content=value["text"])
            case EventType.REASONING:
                self._grow(value["text"], additional_kwargs={"reasoning_content": value["text"]})
            case EventType.TOOL_CALL:
                calls = said.assistant().calls
                self._grow("", tool_call_chunks=[written.call_chunk(calls[-1], len(calls) - 1)])
            case EventType.TOOL_RESULT:
                self._result()
            case EventType.USAGE:
                self._used(Usage.model_validate(value))
            case EventType.STATUS | EventType.SOURCE | EventType.DATA | EventType.ANSWER:
                self._custom(event.type, value)
            case EventType.QUESTION:
                self._ask(value)
            case _ if event.type in TERMINALS:
                self._end(event)
        return b"".join(self._pieces)

    # -- what is said

    def _grow(self, text: str, **fields: Any) -> None:
        """The assistant's message grows, by text or by what is always shown."""
        said = self._said.assistant()
        self._say(Mode.TUPLES, "messages", lambda: self._tuple(written.chunk(said.id, **fields)))
        if not self._length and not self._shown:
            self._say(Mode.MESSAGES, "messages/metadata", lambda: {said.id: {"metadata": self._metadata()}})
        self._length += len(text)
        if not text or self._length - self._shown > self._shown // GROWTH:
            self._shown = max(self._length, 1)
            self._say(Mode.MESSAGES, "messages/partial", lambda: [self._message(said)])

    def _result(self) -> None:
        tool = self._said.messages[-1]
        before = self._said.output[-2] if len(self._said.output) > 1 else None
        if before is not None and before.role == "assistant":
            self._whole(before, NODE)
        self._say(Mode.TUPLES, "messages", lambda: self._tuple(self._message(tool), TOOLS))
        self._whole(tool, TOOLS)
        self._values()

    def _whole(self, said: Said, node: str) -> None:
        """A message that grows no more."""
        self._say(Mode.MESSAGES, "messages/complete", lambda: [self._message(said)])
        self._say(Mode.UPDATES, "updates", lambda: {node: {"messages": [self._message(said)]}})
        self._length = self._shown = 0

    def _used(self, usage: Usage) -> None:
        said = self._said.open
        if said is not None:
            used = written.usage(usage)
            self._say(Mode.TUPLES, "messages", lambda: self._tuple(written.chunk(said.id, usage_metadata=used)))

    def _ask(self, value: dict[str, Any]) -> None:
        asked = {written.INTERRUPT: [written.interrupt(Question.model_validate(value))]}
        self._say(Mode.UPDATES, "updates", lambda: asked)
        self._values(asked)
        self._custom(EventType.QUESTION, value)

    def _end(self, event: Event) -> None:
        match event.type:
            case EventType.COMPLETED:
                self._complete(event.value.get("finish_reason") or "stop")
            case EventType.FAILED:
                self._error(Failure.model_validate(event.value))
            case EventType.CANCELLED:
                self._error(written.CANCELLED)
        self._length = self._shown = 0

    def _complete(self, finish_reason: str) -> None:
        said = self._said.output[-1]
        ending = written.ending(finish_reason, self._said.model)
        self._say(Mode.TUPLES, "messages", lambda: self._tuple(written.chunk(said.id, response_metadata=ending)))
        self._whole(said, NODE)
        self._values()
        if self.generation:
            self._say(None, "end", lambda: None)
        else:
            self._say(None, "run_done", lambda: {"run_id": self._said.run_id, "status": "success"})

    def _error(self, failure: Failure) -> None:
        self._say(None, "error", lambda: written.error(failure))

    def _announce(self, void: list[str]) -> None:
        """The run, and each attempt at it but the first: what was said before is taken back."""
        run = f"{self._said.run_id} {max(self._said.attempt, 1)}"
        if run == self._announced:
            return
        self._announced = run
        data = {"run_id": self._said.run_id, "thread_id": self._thread, "attempt": max(self._said.attempt, 1)}
        self._say(None, "metadata", lambda: data)
        for id_ in void:
            self._take_back(id_)
        self._length = self._shown = 0

    def _take_back(self, id_: str) -> None:
        """Removed where pieces are put together; empty, until it grows anew, where messages come whole."""
        self._say(Mode.TUPLES, "messages", lambda: self._tuple({"type": "remove", "id": id_, "content": ""}))
        self._say(Mode.MESSAGES, "messages/partial", lambda: [written.message(Said(id_, "assistant"))])

    def _void(self, event: Event) -> list[str]:
        """Ids of the messages that this event makes void, the last one first."""
        if event.type != EventType.STARTED or event.value["generation"] != self._said.generation:
            return []
        return [said.id for said in reversed(self._said.output)]

    def _values(self, more: dict[str, Any] | None = None) -> None:
        self._say(
            Mode.VALUES, "values", lambda: written.values(self._said.messages, self._said.model) | (more or {})
        )  # fmt: skip

    def _custom(self, type_: str, value: dict[str, Any]) -> None:
        self._say(Mode.CUSTOM, "custom", lambda: {"type": str(type_), **value})

    # -- how it is said

    def _say(self, mode: Mode | None, name: str, data: Callable[[], Any]) -> None:
        """Without a mode it is said in all of them. Counts also where it is not said."""
        self._index += 1
        if mode is not None and mode not in self._modes:
            return
        if (self._event, self._index) <= (self._after.event, self._after.index):
            return
        self._pieces.append(block(f"{self._event}.{self._index}", name, data()))

    def _message(self, said: Said) -> dict[str, Any]:
        return written.message(said, self._said.model)

    def _tuple(self, message: dict[str, Any], node: str = NODE) -> list[Any]:
        return [message, self._metadata(node)]

    def _metadata(self, node: str = NODE) -> dict[str, Any]:
        return {"run_id": self._said.run_id, "thread_id": self._thread, "langgraph_node": node}


def block(id_: str, name: str, data: Any) -> bytes:
    """One event of theirs."""
    body = b"null" if data is None else encode(data)
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (id_.encode(), name.encode(), body)
