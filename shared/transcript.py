"""The transcript: what a session's log says, folded into messages. One pure function for worker, API and page."""

from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel, Field

from shared.events import TERMINALS, Event, EventType, State


class Status(BaseModel):
    text: str
    step: str | None = None
    state: str = "running"
    progress: float | None = None


class Tool(BaseModel):
    id: str
    name: str = ""
    arguments: Any = None
    output: Any = None
    error: str | None = None


class Source(BaseModel):
    title: str = ""
    url: str | None = None


class Data(BaseModel):
    name: str
    value: Any = None


class Question(BaseModel):
    """A question that is still open."""

    id: str
    text: str
    choices: list[str] | None = None
    expires_at: int | None = None


class Answer(BaseModel):
    id: str
    question: str
    text: str | None
    """None: nobody answered in time."""


class Failure(BaseModel):
    code: str
    message: str = ""
    retryable: bool = False


class Usage(BaseModel):
    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0

    def plus(self, other: "Usage") -> "Usage":
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in Usage.model_fields})


class Message(BaseModel):
    """What one side said. `state` and everything below it is of the assistant's messages only."""

    role: str
    content: str = ""
    generation: str
    tool_call_id: str | None = None
    """Of role `tool`, which is what a client says: the call whose result it is."""
    state: str | None = None
    """Of the generation: running, completed, failed, cancelled."""
    attempt: int | None = None
    reasoning: str = ""
    status: list[Status] = Field(default_factory=list)
    tools: list[Tool] = Field(default_factory=list)
    """The client's own are without a result here: that is a message of role `tool`."""
    sources: list[Source] = Field(default_factory=list)
    data: list[Data] = Field(default_factory=list)
    question: Question | None = None
    answers: list[Answer] = Field(default_factory=list)
    """What was asked on the way, and what the user said."""
    error: Failure | None = None
    finish_reason: str | None = None
    usage: Usage | None = None


class Transcript(BaseModel):
    messages: list[Message] = Field(default_factory=list)

    @property
    def usage(self) -> Usage:
        """Of all generations together."""
        total = Usage()
        for message in self.messages:
            total = total.plus(message.usage) if message.usage else total
        return total


def fold(events: Iterable[Event]) -> Transcript:
    """Fold events, in the log's order, into a transcript.

    Neighbouring deltas may be merged or not: the result is the same. A head that is missing (trimmed) is tolerated.
    """
    folder = _Folder()
    for event in events:
        folder.take(event)
    return folder.done()


class _Folder:
    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.current: Message | None = None
        self.text: list[str] = []
        self.reasoning: list[str] = []

    def take(self, event: Event) -> None:
        value = event.value
        if event.type == EventType.MESSAGE:
            self._close()
            said = {name: value[name] for name in ("role", "content", "generation")}
            called = value.get("tool_calls") or ()
            self.messages.append(Message(**said, tool_call_id=value.get("tool_call_id"), tools=list(called)))
        elif event.type == EventType.STARTED:
            self._start(value)
        elif event.type == EventType.TEXT:
            self.text.append(value["text"])
        elif event.type == EventType.REASONING:
            self.reasoning.append(value["text"])
        elif event.type in TERMINALS:
            self._end(TERMINALS[EventType(event.type)], value)
        elif (apply := _APPLY.get(event.type)) is not None:
            apply(self._message(), value)

    def done(self) -> Transcript:
        self._close()
        return Transcript(messages=self.messages)

    def _message(self) -> Message:
        """The assistant's message under way; made here where its start was trimmed away."""
        if self.current is None:
            generation = self.messages[-1].generation if self.messages else ""
            self.current = Message(role="assistant", generation=generation, state=State.RUNNING)
        return self.current

    def _start(self, value: dict[str, Any]) -> None:
        self._drop_attempt()
        self.current = Message(
            role="assistant", generation=value["generation"], attempt=value["attempt"], state=State.RUNNING
        )

    def _drop_attempt(self) -> None:
        """What an earlier attempt of this generation said does not count: its worker was lost."""
        self.current = None
        self.text, self.reasoning = [], []

    def _end(self, state: State, value: dict[str, Any]) -> None:
        message = self._message()
        message.generation, message.state, message.question = value["generation"], state, None
        if state is State.FAILED:
            message.error = Failure(**{name: value[name] for name in Failure.model_fields if name in value})
        message.finish_reason = value.get("finish_reason")
        self._close()

    def _close(self) -> None:
        if self.current is None and not self.text and not self.reasoning:
            return
        message = self._message()
        message.content, message.reasoning = "".join(self.text), "".join(self.reasoning)
        self.messages.append(message)
        self._drop_attempt()


def _status(message: Message, value: dict[str, Any]) -> None:
    status = Status.model_validate(value)
    for n, known in enumerate(message.status):
        if (known.step or known.text) == (status.step or status.text):
            message.status[n] = status
            return
    message.status.append(status)


def _tool_call(message: Message, value: dict[str, Any]) -> None:
    message.tools.append(Tool.model_validate(value))


def _tool_result(message: Message, value: dict[str, Any]) -> None:
    for tool in message.tools:
        if tool.id == value["id"]:
            tool.output, tool.error = value.get("output"), value.get("error")
            return
    message.tools.append(Tool.model_validate(value))


def _source(message: Message, value: dict[str, Any]) -> None:
    message.sources.append(Source.model_validate(value))


def _data(message: Message, value: dict[str, Any]) -> None:
    message.data.append(Data.model_validate(value))


def _question(message: Message, value: dict[str, Any]) -> None:
    message.question = Question.model_validate(value)


def _answer(message: Message, value: dict[str, Any]) -> None:
    asked = message.question.text if message.question else ""
    message.answers.append(Answer(id=value["id"], question=asked, text=value["text"]))
    message.question = None


def _usage(message: Message, value: dict[str, Any]) -> None:
    usage = Usage.model_validate(value)
    message.usage = message.usage.plus(usage) if message.usage else usage


_APPLY: dict[str, Callable[[Message, dict[str, Any]], None]] = {
    EventType.STATUS: _status,
    EventType.TOOL_CALL: _tool_call,
    EventType.TOOL_RESULT: _tool_result,
    EventType.SOURCE: _source,
    EventType.DATA: _data,
    EventType.QUESTION: _question,
    EventType.ANSWER: _answer,
    EventType.USAGE: _usage,
}
