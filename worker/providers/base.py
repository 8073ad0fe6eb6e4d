"""What a model says, as pure values, and the interface of everything that makes a model talk."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from worker.providers.errors import Code, ProviderError

__all__ = [
    "Code",
    "Finish",
    "FinishReason",
    "ModelRequest",
    "Part",
    "Provider",
    "ProviderError",
    "Reasoning",
    "Remote",
    "Text",
    "ToolCall",
    "ToolSpec",
    "Usage",
]

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    """Never empty, and always valid Unicode."""


@dataclass(frozen=True, slots=True)
class Reasoning:
    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model wants made: always whole, never partial JSON."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the whole request. At most one, right before Finish; none if the provider does not count."""

    input_tokens: int
    """All of the input, also what came from a cache or was written to one."""
    output_tokens: int
    """All of the output, reasoning included."""
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    """The part of the input that was read from a cache."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The model is done: exactly one, the last part. A refusal is `content_filter`; its words are Text."""

    reason: FinishReason


Part = Text | Reasoning | ToolCall | Usage | Finish


@dataclass(frozen=True, slots=True)
class ToolSpec:
    name: str
    description: str
    parameters: dict[str, Any]
    """JSON Schema of an object."""


class Remote(Protocol):
    """What a provider is told of, and tells of, runs that go on there by themselves."""

    goes_on: bool
    """Whether a run that is left is to go on: somebody else will ask for it."""
    stray: bool
    """Set where a run could not be ended at the provider."""
    open: int
    """Runs that are followed at this moment."""

    def ask(self, call: str) -> str | None:
        """The id of the run that answers this call already, if there is one. `call` is a digest of the request."""
        ...

    def began(self, call: str, run: str) -> None:
        """Which run answers the call. Said once for each `ask`."""
        ...


@dataclass(frozen=True, slots=True)
class ModelRequest:
    model: str
    """The name without the provider's prefix."""
    messages: list[dict[str, Any]]
    """`role` (system, user, assistant, tool) and `content`: a string, or the provider's own list of parts.

    An assistant may have `tool_calls`: `[{id, name, arguments}]`. A tool has `tool_call_id` and any JSON.
    """
    tools: list[ToolSpec] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    """`temperature`, `max_tokens`, … None means unset. What a provider does not know is `invalid_request`."""
    counted: Callable[[Usage], object] = lambda _: None
    """Told what a provider has counted before the end, cumulative: if it breaks off, that was paid for."""
    remote: Remote | None = None
    """None: a run that goes on at the provider is ended when it is left."""


class Provider(Protocol):
    def stream(self, request: ModelRequest) -> AsyncGenerator[Part, None]:
        """Make the model talk. Ends with exactly one Finish, or raises ProviderError.

        `aclose()`, or cancelling the task that awaits a part, closes the upstream socket before it returns.
        """
        ...

    async def aclose(self) -> None:
        """Close idle connections. May be called twice, and before anything was streamed."""
        ...
