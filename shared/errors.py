"""Every error Holdfast raises on purpose.

    HoldfastError
    ├── InvalidRequest                  the caller said something that cannot be
    │   ├── InvalidEventId
    │   ├── UnknownModel
    │   ├── UnknownPipeline
    │   └── IdempotencyMismatch
    ├── SessionNotFound
    ├── SessionExpired
    ├── SessionDeleted
    ├── SessionExists
    ├── GenerationRunning
    ├── NotTheGeneration
    ├── QuestionGone
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


class RedisUnavailable(HoldfastError):
    code = "redis_unavailable"

    def __init__(self) -> None:
        super().__init__("the log cannot be reached at the moment")


class ConfigurationError(HoldfastError):
    code = "configuration"
