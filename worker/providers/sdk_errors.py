"""What the SDKs raise, mapped onto the codes of ProviderError.

The tables name classes instead of importing them, so a worker that uses one SDK does not load the other.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any, Final

from worker.providers.errors import Code, ProviderError

_STATUSES: Final[Mapping[int, Code]] = {
    401: Code.AUTHENTICATION,
    402: Code.QUOTA_EXCEEDED,
    403: Code.PERMISSION,
    404: Code.NOT_FOUND,
    408: Code.TIMEOUT,
    409: Code.OVERLOADED,  # both SDKs take a conflict for a lock that was not free, and try again
    413: Code.CONTEXT_TOO_LONG,
    429: Code.RATE_LIMIT,
    499: Code.CONNECTION_LOST,
    503: Code.OVERLOADED,
    504: Code.TIMEOUT,
    529: Code.OVERLOADED,
}

_WORDS: Final[Mapping[str, Code]] = {
    "authentication_error": Code.AUTHENTICATION,
    "billing_error": Code.QUOTA_EXCEEDED,
    "bio_policy": Code.CONTENT_FILTER,
    "content_filter": Code.CONTENT_FILTER,
    "content_policy_violation": Code.CONTENT_FILTER,
    "context_length_exceeded": Code.CONTEXT_TOO_LONG,
    "enforced_spend_limit_reached": Code.QUOTA_EXCEEDED,
    "contract_spend_limit_reached": Code.QUOTA_EXCEEDED,
    "image_content_policy_violation": Code.CONTENT_FILTER,
    "insufficient_quota": Code.QUOTA_EXCEEDED,
    "invalid_api_key": Code.AUTHENTICATION,
    "invalid_prompt": Code.CONTENT_FILTER,
    "misalignment_policy_violation": Code.CONTENT_FILTER,
    "model_not_found": Code.NOT_FOUND,
    "not_found_error": Code.NOT_FOUND,
    "overloaded_error": Code.OVERLOADED,
    "permission_error": Code.PERMISSION,
    "rate_limit_error": Code.RATE_LIMIT,
    "rate_limit_exceeded": Code.RATE_LIMIT,
    "server_error": Code.PROVIDER_ERROR,
    "server_is_overloaded": Code.OVERLOADED,
    "timeout_error": Code.TIMEOUT,
}
"""`code` and `type` of an error body that say more than its status. Some come in a stream of status 200."""

_LATE_WORDS: Final[Mapping[str, Code]] = {
    "api_error": Code.PROVIDER_ERROR,
    "conflict_error": Code.OVERLOADED,
    "invalid_request_error": Code.INVALID_REQUEST,
}
"""They say less than a status: to OpenAI a wrong key and an unknown model are `invalid_request_error` too."""

_PHRASES: Final = (
    (re.compile(r"prompt is too long|context (length|window|limit)", re.I), Code.CONTEXT_TOO_LONG),
    (re.compile(r"credit balance is too low|exceeded your current quota", re.I), Code.QUOTA_EXCEEDED),
    (re.compile(r"blocked by content filtering", re.I), Code.CONTENT_FILTER),
)  # fmt: skip
"""For the providers that have no code for it."""

_NAMES: Final[Mapping[Code, str]] = {
    Code.AUTHENTICATION: "AuthenticationError CredentialsError IdentityTokenFileError OAuthError "
    "SubjectTokenProviderError WorkloadIdentityError",
    Code.PERMISSION: "PermissionDeniedError",
    Code.NOT_FOUND: "NotFoundError",
    Code.INVALID_REQUEST: "BadRequestError UnprocessableEntityError PreconditionFailedError InvalidURL "
    "RequestHeaderFieldsTooLargeError UnsupportedProtocol LocalProtocolError TooManyRedirects "
    "_AmbiguousModuleClientUsageError",
    Code.CONTEXT_TOO_LONG: "ContentTooLargeError RequestTooLargeError",
    Code.RATE_LIMIT: "RateLimitError",
    Code.QUOTA_EXCEEDED: "PaymentRequiredError ContractSpendLimitReachedError EnforcedSpendLimitReachedError",
    Code.OVERLOADED: "OverloadedError ServiceUnavailableError ConflictError WebSocketQueueFullError",
    Code.PROVIDER_ERROR: "InternalServerError HTTPNotImplementedError RetryableError",
    Code.CONTENT_FILTER: "ContentFilterFinishReasonError",
    Code.TIMEOUT: "APITimeoutError TimeoutException ConnectTimeout ReadTimeout WriteTimeout PoolTimeout "
    "RequestTimeoutError GatewayTimeoutError DeadlineExceededError",
    Code.CONNECTION_LOST: "APIConnectionError ClientClosedRequestError NetworkError ReadError WriteError "
    "ConnectError CloseError ProxyError ProtocolError RemoteProtocolError StreamError SSLError EndOfStream "
    "WebSocketConnectionClosedError ConnectionError TransportError",
    Code.TRUNCATED: "LengthFinishReasonError",
    Code.MALFORMED: "APIResponseValidationError APIWebhookValidationError InvalidWebhookSignatureError "
    "DecodingError JSONDecodeError UnicodeDecodeError",
}
_CLASSES: Final = {name: code for code, names in _NAMES.items() for name in names.split()}
_PACKAGES: Final = frozenset({"openai", "anthropic", "httpx2", "json", "builtins", "ssl", "anyio"})

_KEYS: Final = re.compile(r"\bsk-[\w*.-]{4,}|\borg-\w{16,}|\bBearer\s+[^\s'\"]+", re.I)
_LONGEST_MESSAGE: Final = 500


def class_code(kind: type[BaseException]) -> Code | None:
    """What an exception class alone says; None for one that no table names, nor any class above it."""
    for base in kind.__mro__:
        if base.__name__ in _CLASSES and base.__module__.partition(".")[0] in _PACKAGES:
            return _CLASSES[base.__name__]
    return None


def word_code(*words: object) -> Code | None:
    """What a provider's own word for an error means; None for a word that no table knows."""
    known = [
        table[word] for table in (_WORDS, _LATE_WORDS) for word in words if isinstance(word, str) and word in table
    ]
    return known[0] if known else None  # fmt: skip


def as_provider_error(error: Exception, secrets: Iterable[str] = ()) -> ProviderError:
    """Anything an SDK raises, as ProviderError. Raise it `from None`: the SDK's own words may quote a key."""
    if isinstance(error, ProviderError):  # of a fold: in its words a key may be quoted too
        error.message = redacted(error.message, secrets)
        return error
    body = said(error)
    response = getattr(error, "response", None)
    headers = getattr(response, "headers", {})
    return ProviderError(
        _code(error, body),
        redacted(_message(error, body), secrets),
        retry_after_s=_retry_after_s(headers),
        request_id=getattr(error, "request_id", None) or headers.get("x-request-id") or headers.get("request-id"),
    )


def said(error: Exception) -> Mapping[str, Any]:
    """The error object of the answer's body; empty where there was none. Only one of the SDKs unwraps it."""
    body = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, dict) else None
    return inner if isinstance(inner, dict) else {}


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without the given keys and all that looks like one, cut to a readable length."""
    for secret in secrets:
        if len(secret) >= 6:  # a placeholder such as "none" is no secret, and may be a word
            text = text.replace(secret, "[key]")
    return _KEYS.sub("[key]", text)[:_LONGEST_MESSAGE]


def _code(error: Exception, body: Mapping[str, Any]) -> Code:
    status = getattr(error, "status_code", None)
    details = body.get("details")
    words = [
        body.get("code"),
        body.get("type"),
        details.get("error_code") if isinstance(details, dict) else None,
    ]
    for word in words:
        if isinstance(word, str) and word in _WORDS:
            return _WORDS[word]
    return _phrase_code(str(body.get("message", ""))) or _status_code(status) or word_code(*words) or _own_code(error)


def _phrase_code(message: str) -> Code | None:
    return next((code for phrase, code in _PHRASES if phrase.search(message)), None)


def _status_code(status: object) -> Code | None:
    if not isinstance(status, int) or status < 400:
        return None
    return _STATUSES.get(status, Code.PROVIDER_ERROR if status >= 500 else Code.INVALID_REQUEST)


def _own_code(error: Exception) -> Code:
    """By class. A connection error is what its cause is: an impossible URL, say, is no lost connection."""
    code = class_code(type(error)) or Code.UNKNOWN
    if code is Code.CONNECTION_LOST and error.__cause__ is not None:
        return class_code(type(error.__cause__)) or code
    return code


def _message(error: Exception, body: Mapping[str, Any]) -> str:
    message = body.get("message")
    if isinstance(message, str) and message:
        return message
    return ": ".join(dict.fromkeys(filter(None, map(str, _chain(error))))) or type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes: `Connection error.` alone would not help anybody."""
    while True:
        yield error
        if error.__cause__ is None:
            return
        error = error.__cause__


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if (value := headers.get(name)) is not None:
            try:
                seconds = float(value) * unit_s
            except ValueError:
                return _until(value)
            return seconds if isfinite(seconds) and seconds >= 0 else None
    return None


def _until(date: str) -> float | None:
    try:
        wait = parsedate_to_datetime(date) - datetime.now(UTC)
    except (ValueError, TypeError):  # a header nobody can read says nothing
        return None
    return max(0.0, wait.total_seconds())
