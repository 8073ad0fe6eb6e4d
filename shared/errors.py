"""Every error Holdfast raises on purpose.

    HoldfastError
    ├── InvalidRequest                  the caller said something that cannot be
    │   ├── InvalidEventId
    │   ├── UnknownModel
    │   ├── UnknownPipeline
    │   ├── InvalidJson
    │   ├── UnknownFrame
    │   └── IdempotencyMismatch
    ├── SessionNotFound
    ├── SessionExpired
    ├── SessionDeleted
    ├── SessionExists
    ├── GenerationRunning
    ├── NotTheGeneration
    ├── QuestionGone
    ├── Unauthorized                    who calls is not known
    ├── AuthenticationUnavailable       nor can it be found out at the moment
    ├── Forbidden
    │   ├── OriginNotAllowed            a foreign page
    │   └── HostNotAllowed              a foreign name of this host
    ├── TooMany                         a limit of the caller's: `retry_after_s` says when it may be tried again
    │   ├── RateLimited
    │   ├── TooManySessions
    │   └── TooManyStreams
    ├── RedisUnavailable
    └── ConfigurationError              a setting is wrong: said at start, not at use

`code` is stable and goes over the wire; `message` is for people.
"""


class HoldfastError(Exception):
    code = "internal"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(HoldfastError):
    code = "invalid_request"


class InvalidEventId(InvalidRequest):
    code = "invalid_last_event_id"

    def __init__(self, text: str) -> None:
        super().__init__(f"not an event id: {text[:64]!r}; expected <epoch>-<seq>, as sent in the id of an event")


class UnknownModel(InvalidRequest):
    code = "unknown_model"

    def __init__(self, model: str, known: str) -> None:
        super().__init__(f"unknown model {model[:100]!r}; a model is provider/name with a provider of: {known}")


class UnknownPipeline(InvalidRequest):
    code = "unknown_pipeline"

    def __init__(self, pipeline: str) -> None:
        super().__init__(f"unknown pipeline {pipeline[:100]!r}")


class InvalidJson(InvalidRequest):
    code = "invalid_json"


class UnknownFrame(InvalidRequest):
    code = "unknown_type"


class IdempotencyMismatch(InvalidRequest):
    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was used before with another body")


class SessionNotFound(HoldfastError):
    code = "session_not_found"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"no session {session_id!r}")


class SessionExpired(HoldfastError):
    code = "session_expired"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"the log of session {session_id!r} has expired")


class SessionDeleted(HoldfastError):
    code = "session_deleted"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {session_id!r} was deleted")


class SessionExists(HoldfastError):
    code = "session_exists"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {session_id!r} exists already")


class GenerationRunning(HoldfastError):
    code = "generation_running"

    def __init__(self, generation: str) -> None:
        super().__init__(f"{generation} is still running; wait for its end or stop it first")


class NotTheGeneration(HoldfastError):
    code = "other_generation"

    def __init__(self, asked: str, current: str) -> None:
        super().__init__(f"{asked} is not the current generation, {current} is")


class QuestionGone(HoldfastError):
    code = "question_gone"

    def __init__(self, question: str) -> None:
        super().__init__(f"question {question[:64]!r} is not open: it was answered, has expired, or never was")


class Unauthorized(HoldfastError):
    code = "unauthorized"

    def __init__(self, message: str = "no valid credentials; send Authorization: Bearer <key or token>") -> None:
        super().__init__(message)


class AuthenticationUnavailable(HoldfastError):
    code = "authentication_unavailable"

    def __init__(self) -> None:
        super().__init__("the keys that sign tokens cannot be had at the moment")


class Forbidden(HoldfastError):
    code = "forbidden"


class OriginNotAllowed(Forbidden):
    code = "origin_not_allowed"

    def __init__(self) -> None:
        super().__init__("pages of this origin may not use this node; see HOLDFAST_CORS_ORIGINS")


class HostNotAllowed(Forbidden):
    code = "host_not_allowed"

    def __init__(self) -> None:
        super().__init__("without authentication a node answers to localhost and IP addresses; see HOLDFAST_HOSTS")


class NotAnAdmin(Forbidden):
    code = "not_an_admin"

    def __init__(self) -> None:
        super().__init__("this is for admins; see HOLDFAST_ADMIN")


class TooMany(HoldfastError):
    """`retry_after_s`: whole seconds, at least 1."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimited(TooMany):
    code = "rate_limited"


class TooManySessions(TooMany):
    code = "too_many_sessions"


class TooManyStreams(TooMany):
    code = "too_many_streams"


class RedisUnavailable(HoldfastError):
    code = "redis_unavailable"

    def __init__(self) -> None:
        super().__init__("the log cannot be reached at the moment")


class NodeLeaving(HoldfastError):
    code = "draining"

    def __init__(self) -> None:
        super().__init__("the node is shutting down, or cannot go on with this")


class ConfigurationError(HoldfastError):
    code = "configuration"
