"""What a request in Anthropic's words means here: models, messages, tools, options."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api import schemas
from api.errors import words_of
from shared.errors import InvalidRequest

_HARMLESS = frozenset(
    {"metadata", "service_tier", "cache_control", "inference_geo", "speed", "diagnostics", "betas", "user_profile_id"}
)
"""Fields that change nothing of what is answered here."""
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_OPTIONS = ("max_tokens", "temperature", "top_p", "top_k", "thinking")
_DROPPED = ("thinking", "redacted_thinking")
"""Blocks of an assistant that are told nobody again: they are worth something with a signature alone."""


class ToolChoice(BaseModel):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class OutputConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")

    effort: str | None = None
    format: None = None


class Turn(BaseModel):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class MessageRequest(BaseModel):
    """The parts of Anthropic's request that mean something here, and two of Holdfast's own."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(max_length=200)]
    max_tokens: Annotated[int, Field(ge=1)]
    messages: Annotated[list[Turn], Field(min_length=1, max_length=1000)]
    system: str | list[dict[str, Any]] | None = None
    stream: bool | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=schemas.MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    thinking: dict[str, Any] | None = None
    output_config: OutputConfig | None = None
    pipeline: str | None = Field(None, description="Holdfast's own: what answers; none: the model alone")
    options: dict[str, Any] = Field({}, description="Holdfast's own: more options of the model")

    def session(self) -> schemas.CreateSession:
        """Raises InvalidRequest, which names the field."""
        for name, value in (self.model_extra or {}).items():
            if name not in _HARMLESS and value is not None:
                raise InvalidRequest(f"{name[:100]}: is not supported here")
        said = [{"role": "system", "content": text} for text in _texts(self.system or [], "system")]
        said += [message for n, turn in enumerate(self.messages) for message in _messages(turn, f"messages.{n}")]
        body = {
            "model": model_of(self.model),
            "messages": said,
            "tools": [_tool(tool, f"tools.{n}") for n, tool in enumerate(self.tools or [])],
            "options": self._all_options(),
        }
        return checked(body if self.pipeline is None else {**body, "pipeline": self.pipeline})

    def _all_options(self) -> dict[str, Any]:
        given = {name: value for name in _OPTIONS if (value := getattr(self, name)) is not None}
        if self.thinking == {"type": "disabled"} and not model_of(self.model).startswith("anthropic/"):
            del given["thinking"]
        if self.stop_sequences:
            given["stop"] = self.stop_sequences
        if self.output_config and self.output_config.effort is not None:
            given["reasoning_effort"] = self.output_config.effort
        if self.tool_choice is not None and self.tools:
            given["tool_choice"] = _choice(self.tool_choice)
            if self.tool_choice.disable_parallel_tool_use:
                given["parallel_tool_calls"] = False
        return {**given, **self.options}


def model_of(name: str) -> str:
    """A bare name that an SDK's user would give, as `provider/name`."""
    if "/" in name:
        return name
    return f"openai/{name}" if name.startswith(("gpt-", "chatgpt-", "o1", "o3", "o4")) else f"anthropic/{name}"


def checked(body: dict[str, Any]) -> schemas.CreateSession:
    """Raises InvalidRequest."""
    try:
        return schemas.CreateSession.model_validate(body)
    except ValidationError as error:
        raise InvalidRequest(words_of(error.errors()[0])) from error


def _choice(choice: ToolChoice) -> Any:
    if choice.type != "tool":
        return _CHOICES[choice.type]
    if choice.name is None:
        raise InvalidRequest("tool_choice.name: is missing")
    return {"name": choice.name}


def _tool(tool: dict[str, Any], place: str) -> dict[str, Any]:
    """Tools that Anthropic runs, or knows the words of, are nobody's here."""
    if (kind := tool.get("type")) not in (None, "custom"):
        raise InvalidRequest(f"{place}.type: {str(kind)[:64]!r} is not supported here; only custom tools are")
    if tool.get("input_schema") is None:
        raise InvalidRequest(f"{place}.input_schema: is missing")
    renamed = {"name": tool.get("name"), "parameters": tool["input_schema"]}
    return renamed | ({"description": tool["description"]} if tool.get("description") is not None else {})


def _messages(turn: Turn, place: str) -> list[dict[str, Any]]:
    if isinstance(turn.content, str):
        return [{"role": turn.role, "content": turn.content}]
    if turn.role == "assistant":
        return _of_assistant(turn.content, place)
    return _of_user(turn.role, turn.content, place)


def _of_user(role: str, blocks: list[dict[str, Any]], place: str) -> list[dict[str, Any]]:
    """Results come first, as they must there."""
    results: list[dict[str, Any]] = []
    texts: list[str] = []
    for n, block in enumerate(blocks):
        if block.get("type") == "tool_result":
            results.append(_result(block, f"{place}.content.{n}"))
        else:
            texts += _texts([block], f"{place}.content", n, kinds="text and tool_result")
    said = {"role": role, "content": "\n\n".join(texts)}
    return [*results, said] if texts or not results else results


def _of_assistant(blocks: list[dict[str, Any]], place: str) -> list[dict[str, Any]]:
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for n, block in enumerate(blocks):
        if block.get("type") == "tool_use":
            calls.append({"id": block.get("id"), "name": block.get("name"), "arguments": block.get("input")})
        elif block.get("type") not in _DROPPED:
            texts += _texts([block], f"{place}.content", n, kinds="text, thinking and tool_use")
    said: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if calls:
        said["tool_calls"] = calls
    return [said] if said["content"] or calls else []


def _result(block: dict[str, Any], place: str) -> dict[str, Any]:
    text = "\n\n".join(_texts(block.get("content") or "", f"{place}.content"))
    said = f"Error: {text}" if block.get("is_error") else text
    return {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": said}


def _texts(content: object, place: str, first: int = 0, kinds: str = "text") -> list[str]:
    """The text of each block. Raises InvalidRequest for one of another type."""
    if isinstance(content, str):
        return [content] if content else []
    if not isinstance(content, list):
        raise InvalidRequest(f"{place}: must be a string or a list of blocks")
    return [_text(block, f"{place}.{n}", kinds) for n, block in enumerate(content, first)]


def _text(block: object, place: str, kinds: str) -> str:
    kind = block.get("type") if isinstance(block, dict) else None
    if not isinstance(block, dict) or kind != "text":
        raise InvalidRequest(f"{place}.type: {str(kind)[:64]!r} is not supported here; only {kinds} is")
    if not isinstance(text := block.get("text"), str):
        raise InvalidRequest(f"{place}.text: must be a string")
    return text
