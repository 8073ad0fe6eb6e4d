"""The body of `POST /v1/responses`, and what it means here."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from api import schemas
from api.compat.openai_input import messages_of
from api.compat.openai_request import Ours, Unsupported, checked, model_of, tool_choice_of, tool_of
from shared.transcript import Transcript

_NEUTRAL: dict[str, tuple[object, ...]] = {
    "truncation": ("disabled",),
    "top_logprobs": (0,),
    "stream_options": ({}, {"include_obfuscation": False}, {"include_obfuscation": True}),
}
_OPTIONS = ("temperature", "top_p", "parallel_tool_calls")


class Reasoning(BaseModel):
    effort: str | None = None
    summary: str | None = None


class TextSettings(BaseModel):
    format: dict[str, Any] | None = None
    verbosity: str | None = None


class CreateResponse(Ours):
    """The parts of OpenAI's request that mean something here."""

    model: Annotated[str, Field(max_length=200)] | None = None
    input: str | Annotated[list[Any], Field(min_length=1, max_length=1000)]
    instructions: str | None = None
    previous_response_id: str | None = None
    background: bool | None = None
    stream: bool | None = None
    tools: Annotated[list[Any], Field(max_length=schemas.MAX_TOOLS)] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    reasoning: Reasoning | None = None
    text: TextSettings | None = None

    def check(self) -> None:
        """Raises Unsupported."""
        self.check_extra(_NEUTRAL)
        if self.model is None and self.previous_response_id is None:
            raise Unsupported("model", "is needed")
        if self.text and self.text.verbosity not in (None, "medium"):
            raise Unsupported("text.verbosity")

    def session(self) -> schemas.CreateSession:
        """The first turn. Raises InvalidRequest, which names the field."""
        body = {
            "model": model_of(self.model or ""),
            "messages": [*self._instructions(), *messages_of(self.input)],
            **self._for_the_model(),
            **self.common(),
        }
        session: schemas.CreateSession = checked(schemas.CreateSession, body)
        return session

    def turn(self, known: Transcript | None) -> schemas.NextMessage:
        """The next turn, after what is `known` of the session. Raises InvalidRequest."""
        body = {
            "model": None if self.model is None else model_of(self.model),
            "messages": [*self._instructions(known), *messages_of(self.input)],
            **self._for_the_model(),
        }
        if self.pipeline is not None:
            raise Unsupported("pipeline", "is the session's, and stays")
        turn: schemas.NextMessage = checked(schemas.NextMessage, body)
        return turn

    def _instructions(self, known: Transcript | None = None) -> list[dict[str, Any]]:
        """A message of the system; nothing where the model was told the same before."""
        told = [message.content for message in known.messages if message.role == "system"] if known else []
        if not self.instructions or told[-1:] == [self.instructions]:
            return []
        return [{"role": "system", "content": self.instructions}]

    def _for_the_model(self) -> dict[str, Any]:
        """As in OpenAI's protocol, each request says all of it anew."""
        return {"options": self._all_options(), "tools": [_tool(tool, n) for n, tool in enumerate(self.tools or [])]}

    def _all_options(self) -> dict[str, Any]:
        given = {name: value for name in _OPTIONS if (value := getattr(self, name)) is not None}
        if self.max_output_tokens is not None:
            given["max_tokens"] = self.max_output_tokens
        if self.reasoning and self.reasoning.effort:
            given["reasoning_effort"] = self.reasoning.effort
        if self.reasoning and self.reasoning.summary and (self.model or "").startswith("openai-responses/"):
            given["reasoning_summary"] = self.reasoning.summary  # others have no say in it
        if self.text and self.text.format:
            given |= _response_format(self.text.format)
        if self.tool_choice is not None and self.tools:
            name = self.tool_choice.get("name") if isinstance(self.tool_choice, dict) else None
            given["tool_choice"] = tool_choice_of(self.tool_choice, name)
        return {**given, **self.options}


def _response_format(format_: dict[str, Any]) -> dict[str, Any]:
    """In the words of Chat Completions, which is what the option is in."""
    match format_.get("type"):
        case "text":
            return {}
        case "json_schema":
            schema = {name: value for name, value in format_.items() if name != "type"}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case "json_object":
            return {"response_format": format_}
    raise Unsupported("text.format.type")


def _tool(tool: object, n: int) -> dict[str, Any]:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise Unsupported(f"tools[{n}].type", "must be function")
    return tool_of(tool, f"tools[{n}]")
