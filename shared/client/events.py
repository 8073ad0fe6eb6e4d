"""What arrives, typed: one class for each type of event, to be told apart with `match`.

    match event:
        case TextDelta(text=text): ...
        case Failed(code=code): ...

Every one has `id`, its place in the log (None for `CaughtUp`), and `type`, its name on the wire. Where the data of an
event has an id of its own, that is called what it is of: `call`, `question`.
"""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from shared.client.errors import ProtocolError
from shared.events import EventType
from shared.transcript import Tool, Transcript

CAUGHT_UP, GAP = "caught_up", "gap"


class Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    TYPE: ClassVar[str] = ""
    OWN_ID: ClassVar[str] = ""
    """The field here that is called `id` in the data."""

    id: str | None = None

    @property
    def type(self) -> str:
        return self.TYPE


class Said(Event):
    """A message that was given to the session, and opens a turn: the user's, or a tool's result."""

    TYPE = EventType.MESSAGE
    role: str
    content: str = ""
    generation: str
    tool_call_id: str | None = None
    tool_calls: list[Tool] = Field(default_factory=list)


class Started(Event):
    """`attempt` above 1: what this generation said before does not count any more."""

    TYPE = EventType.STARTED
    generation: str
    attempt: int
    model: str = ""


class Status(Event):
    TYPE = EventType.STATUS
    text: str
    step: str | None = None
    state: str = "running"
    progress: float | None = None


class TextDelta(Event):
    TYPE = EventType.TEXT
    text: str


class ReasoningDelta(Event):
    TYPE = EventType.REASONING
    text: str


class ToolCall(Event):
    TYPE = EventType.TOOL_CALL
    OWN_ID = "call"
    call: str
    name: str = ""
    arguments: Any = None


class ToolResult(Event):
    TYPE = EventType.TOOL_RESULT
    OWN_ID = "call"
    call: str
    output: Any = None
    error: str | None = None


class Source(Event):
    TYPE = EventType.SOURCE
    title: str = ""
    url: str | None = None


class Data(Event):
    TYPE = EventType.DATA
    name: str
    value: Any = None


class Question(Event):
    """`expires_at`: ms since 1970."""

    TYPE = EventType.QUESTION
    OWN_ID = "question"
    question: str
    text: str
    choices: list[str] | None = None
    expires_at: int | None = None


class Answer(Event):
    """`text` None: nobody answered in time."""

    TYPE = EventType.ANSWER
    OWN_ID = "question"
    question: str
    text: str | None = None
    by: str | None = None


class Usage(Event):
    TYPE = EventType.USAGE
    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0


class ProviderRun(Event):
    """The generation runs at the provider on its own, and can be attached to again."""

    TYPE = EventType.PROVIDER_RUN
    OWN_ID = "run"
    run: str = ""
    call: Any = None


class Completed(Event):
    TYPE = EventType.COMPLETED
    generation: str
    finish_reason: str | None = None


class Failed(Event):
    TYPE = EventType.FAILED
    generation: str
    code: str
    message: str = ""
    retryable: bool = False


class Cancelled(Event):
    TYPE = EventType.CANCELLED
    generation: str
    by: str | None = None
    confirmed: bool | None = None


class CaughtUp(Event):
    """The replay is over: what follows is as it is said."""

    TYPE = CAUGHT_UP
    last_event_id: str


class Gap(Event):
    """The log no longer has what followed the cursor `requested`. `transcript` is what it still says, up to this `id`.

    `reason`: `trimmed`, `ahead`, `lost`.
    """

    TYPE = GAP
    requested: str
    earliest: str | None = None
    latest: str
    reason: str
    transcript: Transcript


class Unknown(Event):
    """Of a type that this version does not know."""

    name: str
    data: Any = None

    @property
    def type(self) -> str:
        return self.name


Terminal = Completed | Failed | Cancelled

_CLASSES: dict[str, type[Event]] = {
    kind.TYPE: kind
    for kind in (
        Said, Started, Status, TextDelta, ReasoningDelta, ToolCall, ToolResult, Source, Data, Question, Answer, Usage,
        ProviderRun, Completed, Failed, Cancelled, CaughtUp, Gap,
    )
}  # fmt: skip


def parsed(event_id: str, type_: str, data: str) -> Event:
    """One block of the stream. Raises ProtocolError: it is no better on another connection."""
    try:
        value = from_json(data)
        kind = _CLASSES.get(type_)
        if kind is None:
            return Unknown(id=event_id or None, name=type_, data=value)
        if kind.OWN_ID:
            value[kind.OWN_ID] = value.pop("id", "")
        return kind.model_validate({**value, "id": event_id if kind is not CaughtUp else None})
    except (ValidationError, ValueError, TypeError, AttributeError) as error:
        raise ProtocolError(f"the server sent what is no {type_[:64]}, at {event_id[:64]}") from error
