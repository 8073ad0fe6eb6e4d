"""What both of OpenAI's protocols have in common: the shape of errors, and how a generation's failure is said in it."""

from collections.abc import Iterable
from typing import Any

from pydantic_core import to_json

from shared.events import Event
from shared.transcript import Failure

_STATUS = {
    "invalid_request": 400,
    "context_too_long": 400,
    "content_filter": 400,
    "not_found": 404,
    "rate_limit": 429,
    "quota_exceeded": 429,
    "overloaded": 503,
    "timeout": 504,
    "idle_timeout": 504,
}
"""What a generation failed with → the HTTP status of that; for all others 502: it is not the client's fault."""
CANCELLED = Failure(code="cancelled", message="the generation was cancelled")
"""To be cut off by somebody is no success: a client that did not do it itself must learn of it."""


def error_body(code: str, message: str, status: int, param: str | None = None) -> dict[str, Any]:
    said = {"message": message, "type": type_of(code, status), "param": param, "code": code}
    return {"error": {name: value and value.encode(errors="replace").decode() for name, value in said.items()}}


def type_of(code: str, status: int) -> str:
    if code == CANCELLED.code:
        return code
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def failure_status(failure: Failure) -> int:
    return 400 if failure is CANCELLED else _STATUS.get(failure.code, 502)


def failure_body(failure: Failure) -> dict[str, Any]:
    return error_body(failure.code, failure.message, failure_status(failure))


def failure_of(event: Event) -> Failure:
    """Of `generation.failed`."""
    return Failure(**{name: event.value[name] for name in Failure.model_fields if name in event.value})


def arguments_json(arguments: object) -> str:
    """A tool call's arguments as OpenAI has them: JSON in a string."""
    return to_json(arguments if arguments is not None else {}, inf_nan_mode="null").decode()


class OpenCalls:
    """Tool calls without a result yet. A pipeline that runs its tools itself says results; what is left at the end is
    for the client to run. So nothing can be said of a call before one of the two has come."""

    def __init__(self) -> None:
        self._calls: dict[str, dict[str, Any]] = {}

    def called(self, event: Event) -> None:
        self._calls[event.value["id"]] = event.value

    def resulted(self, event: Event) -> None:
        self._calls.pop(event.value["id"], None)

    def forget(self) -> None:
        self._calls.clear()

    def of_client(self, finish_reason: str) -> Iterable[dict[str, Any]]:
        """`{id, name, arguments}` of each call the client is to run, where the generation has ended for that."""
        return self._calls.values() if finish_reason == "tool_calls" else ()
