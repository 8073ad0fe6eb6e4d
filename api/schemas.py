"""Bodies of requests and responses."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticSerializationError, from_json, to_json

from shared.events import State
from shared.transcript import Message, Usage

SessionId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="1 to 64 letters, digits, `_`, `-`")]
Text = Annotated[str, Field(min_length=1)]

DEMO_RATE = 25
"""Words per second."""


def _storable(options: dict[str, Any]) -> dict[str, Any]:
    try:
        stored: dict[str, Any] = from_json(to_json(options, inf_nan_mode="null"))
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise ValueError("cannot be stored: too deep, or no valid Unicode") from error
    return stored


Options = Annotated[
    dict[str, Any],
    AfterValidator(_storable),
    Field(
        max_length=50,
        description="For the model: `temperature`, `max_tokens`, …; for `demo/…`: `tokens`, `rate` (tokens/s), `seed`",
    ),
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class InputMessage(_Request):
    role: Literal["system", "user", "assistant"]
    content: Text


class CreateSession(_Request):
    """A new session and its first generation. Either `input` or `messages`, whose last one is the user's."""

    id: SessionId | None = None
    model: Annotated[str, Field(max_length=200)] = "demo/lorem"
    input: Text | None = None
    messages: Annotated[list[InputMessage], Field(min_length=1, max_length=1000)] | None = None
    pipeline: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "chat"
    options: Options = {}
    on_crash: Literal["restart", "fail"] = "restart"

    @model_validator(mode="after")
    def _one_of(self) -> "CreateSession":
        if (self.input is None) == (self.messages is None):
            raise ValueError("give either input or messages")
        if self.messages is not None and self.messages[-1].role != "user":
            raise ValueError("the last of messages must be the user's")
        return self

    @property
    def opening(self) -> list[InputMessage]:
        return self.messages or [InputMessage(role="user", content=self.input or "")]


class NextMessage(_Request):
    """The next turn. `model` and `options` replace the session's where given."""

    input: Text
    interrupt: Annotated[
        bool, Field(description="End the generation that runs, and open the turn in the same step")
    ] = False
    model: Annotated[str, Field(max_length=200)] | None = None
    options: Options | None = None


class ChatRequest(_Request):
    """What a one-call stream asks. With `session` it is the next turn there, else a new session's first."""

    message: Text
    session: SessionId | None = None
    model: Annotated[str, Field(max_length=200)] | None = None
    pipeline: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    options: Options | None = None
    interrupt: bool = False

    @property
    def first(self) -> CreateSession:
        """A demo model that is told nothing takes its time: this is where people watch a stream for the first time."""
        given = self.model_dump(include={"model", "pipeline", "options"}, exclude_none=True)
        opening = CreateSession(input=self.message, **given)
        if not opening.options and opening.model.startswith("demo/"):
            opening.options = {"rate": DEMO_RATE}
        return opening

    @property
    def next(self) -> NextMessage:
        return NextMessage(input=self.message, model=self.model, options=self.options, interrupt=self.interrupt)


class StopRequest(_Request):
    wait_s: Annotated[float, Field(ge=0, le=30, description="How long to wait for the end")] = 5.0
    generation: Annotated[str, Field(pattern=r"^g[1-9][0-9]{0,8}$")] | None = None


class AnswerRequest(_Request):
    question: Annotated[str, Field(min_length=1, max_length=200)]
    text: Text


class SessionOpened(BaseModel):
    id: str
    generation: str
    state: State
    last_event_id: str
    events_url: str
    stream_token: str | None = Field(
        None, description="For `?token=` where no header can be set; null where nobody is asked who they are"
    )


class StreamToken(BaseModel):
    """Lets its bearer read and act on one session, as the one who asked for it. Null where nobody is asked."""

    stream_token: str | None
    expires_in_s: int | None


class SessionSummary(BaseModel):
    id: str
    state: State
    generation: str
    model: str
    created: int = Field(description="ms since 1970")
    last_event_id: str


class SessionShown(SessionSummary):
    attempt: int
    pipeline: str
    expired: bool = Field(description="the log is gone: only the state is known, and `messages` is empty")
    messages: list[Message]
    usage: Usage


class SessionList(BaseModel):
    sessions: list[SessionSummary]
    next_cursor: str | None


class Stopped(BaseModel):
    id: str
    generation: str
    state: Literal["stopping", "completed", "failed", "cancelled"]
    confirmed: bool | None = Field(description="the provider's connection is closed; null where that is not known yet")


class Accepted(BaseModel):
    id: str
    question: str
