"""Why a model did not answer: one small set of codes."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Code(StrEnum):
    """Stable: they go over the wire in `generation.failed`."""

    AUTHENTICATION = "authentication"
    PERMISSION = "permission"
    NOT_FOUND = "not_found"
    INVALID_REQUEST = "invalid_request"
    CONTEXT_TOO_LONG = "context_too_long"
    RATE_LIMIT = "rate_limit"
    QUOTA_EXCEEDED = "quota_exceeded"
    OVERLOADED = "overloaded"
    PROVIDER_ERROR = "provider_error"
    CONTENT_FILTER = "content_filter"
    TIMEOUT = "timeout"
    CONNECTION_LOST = "connection_lost"
    TRUNCATED = "truncated"
    """The stream ended cleanly, but without its own end marker."""
    MALFORMED = "malformed"
    IDLE_TIMEOUT = "idle_timeout"
    UNKNOWN = "unknown"


RETRYABLE: Final[Mapping[Code, bool]] = {
    Code.AUTHENTICATION: False,
    Code.PERMISSION: False,
    Code.NOT_FOUND: False,
    Code.INVALID_REQUEST: False,
    Code.CONTEXT_TOO_LONG: False,
    Code.RATE_LIMIT: True,
    Code.QUOTA_EXCEEDED: False,
    Code.OVERLOADED: True,
    Code.PROVIDER_ERROR: True,
    Code.CONTENT_FILTER: False,
    Code.TIMEOUT: True,
    Code.CONNECTION_LOST: True,
    Code.TRUNCATED: True,
    Code.MALFORMED: True,
    Code.IDLE_TIMEOUT: True,
    Code.UNKNOWN: False,
}
"""Whether the same request may succeed later."""


class ProviderError(Exception):
    """The model did not answer, or not to the end. `message` is for people and never contains a key."""

    def __init__(
        self, code: Code, message: str, *, retry_after_s: float | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retryable = RETRYABLE[code]
        self.retry_after_s = retry_after_s
        """What the provider asked to wait, if it did."""
        self.request_id = request_id
        """What the provider calls this request, if it got that far."""
