"""What a request in OpenAI's words means here: models, tools, options; and how it is refused in them."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Header
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from api.compat.answers import SESSION_HEADER
from api.dialects.openai_words import error_body, failure_body, failure_status
from api.errors import error_response, words_of
from shared.errors import HoldfastError, InvalidRequest, SessionExpired, UnknownModel
from shared.transcript import Failure

HARMLESS = frozenset(
    {
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_options",
        "prompt_cache_retention", "include",
    }
)  # fmt: skip
"""Fields that change nothing of what is answered here."""
RETRY_HEADER = "x-should-retry"
"""The SDKs go by it rather than by the status."""

Key = Annotated[str | None, Header(alias="Idempotency-Key", description="Repeats with it start nothing")]
STREAM_OR_JSON: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "As OpenAI answers; with `stream` as server-sent events.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {
                "itemSchema": {
                    "type": "object",
                    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
                    "required": ["data"],
                }
            },
        },
    }
}


class Unsupported(InvalidRequest):
    """A field that would change the answer, and cannot be followed."""

    code = "unsupported_parameter"

    def __init__(self, param: str, why: str = "is not supported here") -> None:
        super().__init__(f"{param} {why}")
        self.param = param


class Open(BaseModel):
    """A body whose other fields are harmless, or say what is so anyway, or are refused by name."""

    model_config = ConfigDict(extra="allow")

    def check_extra(self, neutral: Mapping[str, tuple[object, ...]]) -> None:
        """`neutral`: values that mean what is done anyway. Raises Unsupported."""
        for name, value in (self.model_extra or {}).items():
            if name not in HARMLESS and value is not None and value not in neutral.get(name, ()):
                raise Unsupported(name[:100])


class Ours(Open):
    """What Holdfast takes beside what OpenAI does."""

    pipeline: str | None = Field(None, description="Holdfast's own: what answers; none: the model alone")
    options: dict[str, Any] = Field({}, description="Holdfast's own: more options of the model")

    def common(self) -> dict[str, Any]:
        """For a new session."""
        return {} if self.pipeline is None else {"pipeline": self.pipeline}


def model_of(name: str) -> str:
    """A bare name that an SDK's user would give, as `provider/name`."""
    if "/" in name:
        return name
    return f"anthropic/{name}" if name.startswith("claude") else f"openai/{name}"


def text_of(content: object, param: str, kinds: tuple[str, ...]) -> str:
    """The text of a content: a string, or parts of these kinds. Raises Unsupported, which names what is none."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise Unsupported(param, "must be a string or a list of parts")
    return "\n".join(_part(part, f"{param}[{n}]", kinds) for n, part in enumerate(content))


def _part(part: object, param: str, kinds: tuple[str, ...]) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind not in kinds:
        raise Unsupported(f"{param}.type", f"{str(kind)[:64]!r} is not supported here; only text is")
    text = part.get("refusal" if kind == "refusal" else "text")
    if not isinstance(text, str):
        raise Unsupported(f"{param}.text", "must be a string")
    return text


def tool_of(function: object, param: str) -> dict[str, Any]:
    """`{name, description?, parameters?, strict?}` as a tool of here. `strict` asks for no other answer."""
    if not isinstance(function, dict):
        raise Unsupported(param, "must be an object")
    if unknown := sorted(map(str, function.keys() - {"type", "name", "description", "parameters", "strict"})):
        raise Unsupported(f"{param}.{unknown[0][:64]}")
    return {name: function[name] for name in ("name", "description", "parameters") if function.get(name) is not None}


def tool_choice_of(choice: object, name: str | None) -> Any:
    """`name`: of the function that is to be called, where `choice` is an object. Raises Unsupported."""
    if choice in ("auto", "none", "required"):
        return choice
    if isinstance(choice, dict) and choice.get("type") == "function" and isinstance(name, str):
        return {"name": name}
    raise Unsupported("tool_choice", "must be auto, none, required, or one function")


def arguments_of(function: dict[str, Any], param: str) -> Any:
    """The arguments of a call, decoded. Raises Unsupported."""
    try:
        return json.loads(function.get("arguments") or "{}")
    except (TypeError, ValueError, RecursionError) as error:
        raise Unsupported(f"{param}.arguments", "is no JSON in a string") from error


def checked(kind: type[BaseModel], body: dict[str, Any]) -> Any:
    """Raises InvalidRequest."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise InvalidRequest(words_of(error.errors()[0])) from error


# -- answers


def refusal(error: HoldfastError) -> Response:
    """An error before there is a session to name, in OpenAI's shape."""
    ours = error_response(error)
    status = 404 if isinstance(error, UnknownModel | SessionExpired) else ours.status_code
    code = "model_not_found" if isinstance(error, UnknownModel) else error.code
    headers = {name: value for name, value in ours.headers.items() if name in ("retry-after", "www-authenticate")}
    body = error_body(code, error.message, status, getattr(error, "param", None))
    return JSONResponse(body, status, headers)


def failed(sid: str, failure: Failure) -> Response:
    """A generation that did not succeed, told to who waited for all of it. It ran, and is not to be run again without
    need."""
    headers = {SESSION_HEADER: sid, RETRY_HEADER: "true" if failure.retryable else "false"}
    return JSONResponse(failure_body(failure), failure_status(failure), headers)


def lost(sid: str, error: HoldfastError, *, repeatable: bool) -> Response:
    """The node cannot wait for the end, while the generation goes on. A request that nobody can recognise must not be
    repeated: it would start another one."""
    response = refusal(error)
    response.headers[SESSION_HEADER] = sid
    if not repeatable:
        response.headers[RETRY_HEADER] = "false"
    return response


def answer(sid: str, body: dict[str, Any]) -> Response:
    return JSONResponse(body, headers={SESSION_HEADER: sid})
