"""What LangGraph's SDKs send, and what it means here."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import from_json

from api import schemas
from api.compat.threads import Id, Sayable, checked, model_of
from api.dialects.conversation import json_text
from api.dialects.langgraph import Mode
from shared.errors import InvalidRequest
from shared.views import SessionView

DEFAULT_ASSISTANT = "agent"
"""The chat pipeline with the default model, or, in a thread that has begun, with the thread's."""
_ROLES = {
    "human": "user", "user": "user", "ai": "assistant", "assistant": "assistant", "AIMessageChunk": "assistant",
    "system": "system", "developer": "system", "tool": "tool",
}  # fmt: skip
CHAT = "chat"


def _listed(given: object) -> object:
    """One or several; in a query the JavaScript SDK writes several as JSON."""
    found: list[object] = []
    for each in given if isinstance(given, list) else [given]:
        if isinstance(each, str) and each.startswith("["):
            try:
                found += from_json(each)
            except ValueError as error:
                raise ValueError("no JSON") from error
        elif each is not None:
            found.append(each)
    return found


Modes = Annotated[list[Mode], BeforeValidator(_listed), Field(max_length=50)]


class CreateThread(BaseModel):
    """Nothing is stored: a thread is there once it has a run."""

    model_config = ConfigDict(extra="forbid")

    thread_id: Id | None = None
    if_exists: Literal["raise", "do_nothing"] | None = None
    metadata: dict[str, Any] | None = None
    ttl: Any = None
    supersteps: Annotated[list[Any], Field(max_length=0)] | None = None


class Command(BaseModel):
    """`resume` answers the open question."""

    model_config = ConfigDict(extra="forbid")

    resume: Sayable
    update: None = None
    goto: None = None


class Input(BaseModel):
    model_config = ConfigDict(extra="forbid")

    messages: Annotated[list[Any], BeforeValidator(lambda given: given if isinstance(given, list) else [given])]


class RunRequest(BaseModel):
    """Fields that may only be null, or have one value, are those of which nothing here would come."""

    model_config = ConfigDict(extra="forbid")

    assistant_id: Annotated[
        str, Field(min_length=1, max_length=200, description="`agent`, a model (`provider/name`), or a pipeline's name")
    ]
    input: Input | None = None
    command: Command | None = None
    stream_mode: Modes = []
    config: dict[str, Any] | None = None
    context: dict[str, Any] | None = None
    multitask_strategy: Annotated[
        Literal["reject", "interrupt"] | None, Field(description="None: reject")
    ] = None  # fmt: skip
    on_disconnect: Annotated[
        Literal["continue"] | None, Field(description="A client that goes away never stops a run: that is `cancel`")
    ] = None  # fmt: skip
    checkpoint: dict[str, Any] | None = None
    checkpoint_id: str | None = None
    interrupt_before: Annotated[list[str], Field(max_length=0)] | None = None
    interrupt_after: Annotated[list[str], Field(max_length=0)] | None = None
    feedback_keys: Annotated[list[str], Field(max_length=0)] | None = None
    webhook: None = None
    after_seconds: Literal[0] | None = None
    metadata: Any = None
    stream_subgraphs: bool | None = None
    stream_resumable: bool | None = None
    checkpoint_during: bool | None = None
    durability: str | None = None
    if_not_exists: Literal["create", "reject"] | None = None
    on_completion: Literal["keep", "delete"] | None = None
    strict_resume: bool | None = None
    langsmith_tracer: Any = None

    @property
    def modes(self) -> list[Mode]:
        return self.stream_mode or [Mode.VALUES]

    @property
    def settings(self) -> dict[str, Any]:
        """What the client configures: `context`, and what older clients have in `config.configurable`."""
        configurable = (self.config or {}).get("configurable")
        return {**(configurable if isinstance(configurable, dict) else {}), **(self.context or {})}


def first_turn(sid: str, request: RunRequest) -> schemas.CreateSession:
    """Raises InvalidRequest."""
    fields: dict[str, Any] = {"id": sid, "messages": _messages(request, ""), **_model(request)}
    if (pipeline := pipeline_of(request)) is not None:
        fields["pipeline"] = pipeline
    return checked(schemas.CreateSession, **fields)


def next_turn(sid: str, request: RunRequest, view: SessionView | None) -> schemas.NextMessage:
    """The messages the thread does not have yet: those of its own come with an id that begins with its name. Raises
    InvalidRequest."""
    if view is not None:
        pipeline = pipeline_of(request)
        if pipeline is not None and pipeline != view.pipeline:
            raise InvalidRequest(f"assistant_id: this thread runs the pipeline {view.pipeline}")
        _check_checkpoint(request, str(view.last))
    interrupt = request.multitask_strategy == "interrupt"
    messages = _messages(request, f"{sid}_g")
    return checked(schemas.NextMessage, messages=messages, interrupt=interrupt, **_model(request))


def pipeline_of(request: RunRequest) -> str | None:
    """None: whatever there is."""
    name = request.assistant_id
    if name == DEFAULT_ASSISTANT:
        return None
    return CHAT if "/" in model_of(name) else name


def _model(request: RunRequest) -> dict[str, Any]:
    settings = request.settings
    found: dict[str, Any] = {}
    name = model_of(request.assistant_id)
    if "/" in name and request.assistant_id != DEFAULT_ASSISTANT:
        found["model"] = name
    elif isinstance(model := settings.get("model"), str):
        found["model"] = model_of(model)
    if isinstance(options := settings.get("options"), dict):
        found["options"] = options
    return found


def _check_checkpoint(request: RunRequest, last: str) -> None:
    given = request.checkpoint_id or (request.checkpoint or {}).get("checkpoint_id")
    if given not in (None, last):
        raise InvalidRequest("checkpoint: a run goes on from the newest state of its thread, and from no other")


def _messages(request: RunRequest, known: str) -> list[dict[str, Any]]:
    given = request.input.messages if request.input else []
    fresh = [m for m in given if not (known and isinstance(m, dict) and str(m.get("id") or "").startswith(known))]
    if not fresh:
        raise InvalidRequest("input.messages: there is no new message")
    return [_message(message, f"input.messages.{n}") for n, message in enumerate(fresh)]


def _message(given: Any, place: str) -> dict[str, Any]:
    if isinstance(given, str):
        given = {"role": "user", "content": given}
    if isinstance(given, list) and len(given) == 2:
        given = {"role": given[0], "content": given[1]}
    if not isinstance(given, dict):
        raise InvalidRequest(f"{place}: not a message")
    role = _ROLES.get(str(given.get("role") or given.get("type")))
    if role is None:
        raise InvalidRequest(f"{place}: neither role nor type is known")
    message: dict[str, Any] = {"role": role, "content": content_of(given.get("content"), place)}
    if role == "tool":
        message["tool_call_id"] = given.get("tool_call_id")
    if role == "assistant" and given.get("tool_calls"):
        message["tool_calls"] = _calls(given["tool_calls"], place)
    return message


def _calls(given: Any, place: str) -> list[dict[str, Any]]:
    calls = [call for call in given if isinstance(call, dict)] if isinstance(given, list) else []
    if not calls:
        raise InvalidRequest(f"{place}.tool_calls: not a list of calls")
    return [{"id": call.get("id"), "name": call.get("name"), "arguments": call.get("args") or {}} for call in calls]


def content_of(content: Any, place: str) -> str:
    """Text, or parts of text. Raises InvalidRequest for anything else."""
    parts: Sequence[Any] = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part for part in parts]
    found = [text for text in texts if isinstance(text, str)]
    if len(found) < len(texts):
        raise InvalidRequest(f"{place}.content: only text can be said here")
    return "".join(found)


def resumed_with(command: Command) -> str:
    """The answer to a question, as text."""
    return command.resume if isinstance(command.resume, str) else json_text(command.resume)
