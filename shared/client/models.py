"""What calls are given and answer, as the API has it on the wire."""

from typing import Any, TypedDict

from pydantic import BaseModel, Field

from shared.events import State
from shared.transcript import Message, Usage


class Given(TypedDict, total=False):
    """What every call that begins a turn may be given."""

    messages: list[dict[str, Any]]
    """In the place of `input`: `{"role", "content", …}`, the last of them the user's or a tool's result."""
    model: str
    """`provider/name`."""
    options: dict[str, Any]
    tools: list[dict[str, Any]]
    """`{"name", "description", "parameters"}`: run by the caller, who is told with ToolCall."""
    idempotency_key: str
    """One is made for each call. Your own makes a repeat after a crash safe too."""


class Opening(Given, total=False):
    input: str
    """What the user says."""
    id: str
    """The session's, `[A-Za-z0-9_-]{1,64}`; the server makes one."""
    pipeline: str
    on_crash: str


class NextTurn(Given, total=False):
    interrupt: bool
    """Cut off the answer that is being written; without, that is a BadRequest `generation_running`."""


class Opened(BaseModel):
    id: str
    generation: str
    state: State
    last_event_id: str
    stream_token: str | None = Field(None, repr=False)


class Summary(BaseModel):
    """`created`: ms since 1970."""

    id: str
    state: State
    generation: str
    model: str
    created: int
    last_event_id: str


class Shown(Summary):
    """A session and its transcript. `expired`: the log is gone, and `messages` with it."""

    attempt: int
    pipeline: str
    expired: bool
    messages: list[Message]
    usage: Usage


class Page(BaseModel):
    sessions: list[Summary]
    next_cursor: str | None


class Stopped(BaseModel):
    """`confirmed`: the provider's connection is closed; None where that is not known yet."""

    id: str
    generation: str
    state: str
    confirmed: bool | None = None
