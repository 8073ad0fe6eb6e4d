"""What the client raises.

    HoldfastError (shared.errors)
    └── ClientError                 `code` is stable, `message` is for people
        ├── Refused                 the server answered so; `status` is HTTP's
        │   ├── BadRequest          400, 413, 422, and what has no class of its own
        │   ├── Unauthorized        401
        │   ├── Forbidden           403
        │   ├── NotFound            404
        │   ├── Gone                410: expired, deleted, or a question that is closed
        │   └── Overloaded          429, 5xx: and patience has run out
        ├── Unreachable             no answer, and patience has run out
        ├── ClientClosed
        ├── ProtocolError           the server said what is no event and no answer of Holdfast's
        ├── GenerationFailed        `retryable` says whether the same may work later
        ├── GenerationCancelled
        └── AnswerLost              what was said of the answer no longer counts, or cannot be had any more

No credential is in any of them.
"""

import json
from typing import Any

from shared.errors import HoldfastError


class ClientError(HoldfastError):
    code = "client"


class Refused(ClientError):
    """`code` and `message` are the server's; `http_error` where the answer was somebody else's, such as a proxy's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.message}"


class BadRequest(Refused):
    pass


class Unauthorized(Refused):
    pass


class Forbidden(Refused):
    pass


class NotFound(Refused):
    pass


class Gone(Refused):
    pass


class Overloaded(Refused):
    pass


class Unreachable(ClientError):
    code = "unreachable"


class ClientClosed(ClientError):
    code = "closed"

    def __init__(self) -> None:
        super().__init__("the client is closed")


class ProtocolError(ClientError):
    code = "protocol"


class GenerationFailed(ClientError):
    def __init__(self, generation: str, code: str, message: str, retryable: bool) -> None:
        super().__init__(message or code)
        self.generation = generation
        self.code = code
        self.retryable = retryable


class GenerationCancelled(ClientError):
    code = "cancelled"

    def __init__(self, generation: str) -> None:
        super().__init__(f"{generation} was stopped before its end")
        self.generation = generation


class AnswerLost(ClientError):
    code = "answer_lost"


_CLASSES: dict[int, type[Refused]] = {401: Unauthorized, 403: Forbidden, 404: NotFound, 410: Gone, 429: Overloaded}


def refusal(status: int, body: bytes) -> Refused:
    """The error that an answer says. A proxy may have written it, so any body will do."""
    kind = _CLASSES.get(status, BadRequest if status < 500 else Overloaded)
    said = _error_of(body)
    code, message = said.get("code"), said.get("message")
    return kind(
        status,
        code if isinstance(code, str) else "http_error",
        message if isinstance(message, str) else f"the server answered {status}",
    )


def _error_of(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)["error"]
    except (ValueError, LookupError, TypeError):
        return {}
    return said if isinstance(said, dict) else {}
