"""Bodies of requests and responses."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticSerializationError, from_json, to_json

from shared.events import State
from shared.transcript import Message, Usage

SessionId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="1 to 64 letters, digits, `_`, `-`")]
Text = Annotated[str, Field(min_length=1)]
MaybeText = Annotated[str, Field(min_length=0)]
"""May be empty. Only of a bounded string it is checked that it is Unicode."""

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


MAX_TOOLS = 128
TOOLS_BYTES = 1 << 17
"""Of all tools of a session together, as JSON: they are kept with the session, and read with each generation."""
NO_PARAMETERS = {"type": "object", "properties": {}}


def _of_objects(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type") != "object":
        raise ValueError("must be a JSON Schema of type object")
    return _storable(schema)


class ClientTool(_Request):
    """A tool the client runs: a generation that calls it ends with that, and the next turn brings the result."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
    description: MaybeText = ""
    parameters: Annotated[
        dict[str, Any], AfterValidator(_of_objects), Field(description="JSON Schema, of an object")
    ] = NO_PARAMETERS  # fmt: skip


def _bounded(tools: list[ClientTool]) -> list[ClientTool]:
    if len({tool.name for tool in tools}) < len(tools):
        raise ValueError("two tools have one name")
    try:
        size = len(to_json(tools))
    except (PydanticSerializationError, ValueError) as error:
        raise ValueError("cannot be stored: no valid Unicode") from error
    if size > TOOLS_BYTES:
        raise ValueError(f"the tools have {size} bytes; {TOOLS_BYTES} are allowed")
    return tools


ClientTools = Annotated[list[ClientTool], Field(max_length=MAX_TOOLS), AfterValidator(_bounded)]


class ToolCalled(_Request):
    """A call an assistant made."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    name: Annotated[str, Field(min_length=1, max_length=128)]
    arguments: Annotated[dict[str, Any], AfterValidator(_storable)] = {}


class InputMessage(_Request):
    """`content` is needed, but for a tool's result, and beside the `tool_calls` of an assistant."""

    role: Literal["system", "user", "assistant", "tool"]
    content: MaybeText = ""
    tool_calls: Annotated[list[ToolCalled], Field(min_length=1, max_length=MAX_TOOLS)] | None = None
    tool_call_id: Annotated[str, Field(min_length=1, max_length=256, description="Whose result this is")] | None = None

    @model_validator(mode="after")
    def _as_its_role(self) -> "InputMessage":
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise ValueError("a message of role tool, and no other, has a tool_call_id")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only an assistant has tool_calls")
        if not (self.content or self.tool_calls or self.role == "tool"):
            raise ValueError("a message without content")
        return self


Messages = Annotated[list[InputMessage], Field(min_length=1, max_length=1000)]


def _check_input(input_: str | None, messages: list[InputMessage] | None) -> None:
    if (input_ is None) == (messages is None):
        raise ValueError("give either input or messages")
    if messages is not None and messages[-1].role not in ("user", "tool"):
        raise ValueError("the last of messages must be the user's, or the result of a tool")


class CreateSession(_Request):
    """A new session and its first generation. Either `input` or `messages`; the last is the user's, or a tool's result.

    `tools` are run by the client: see `ClientTool`. The option `tool_choice` is `auto`, `none`, `required`, or
    `{"name": …}` of one of them.
    """

    id: SessionId | None = None
    model: Annotated[str, Field(max_length=200)] = "demo/lorem"
    input: Text | None = None
    messages: Messages | None = None
    tools: ClientTools = []
    pipeline: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "chat"
    options: Options = {}
    on_crash: Literal["restart", "fail"] = "restart"

    @model_validator(mode="after")
    def _one_of(self) -> "CreateSession":
        _check_input(self.input, self.messages)
        return self

    @property
    def opening(self) -> list[InputMessage]:
        return self.messages or [InputMessage(role="user", content=self.input or "")]


class NextMessage(_Request):
    """The next turn: `input`, or `messages`, such as results of tools. `model`, `options` and `tools` replace the
    session's where given."""

    input: Text | None = None
    messages: Messages | None = None
    interrupt: Annotated[
        bool, Field(description="End the generation that runs, and open the turn in the same step")
    ] = False
    model: Annotated[str, Field(max_length=200)] | None = None
    options: Options | None = None
    tools: ClientTools | None = None

    @model_validator(mode="after")
    def _one_of(self) -> "NextMessage":
        _check_input(self.input, self.messages)
        return self

    @property
    def said(self) -> list[InputMessage]:
        return self.messages or [InputMessage(role="user", content=self.input or "")]


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
