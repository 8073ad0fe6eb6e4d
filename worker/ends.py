"""Every way a pipeline can end, as the terminal it becomes."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from shared.errors import HoldfastError
from shared.events import EventType
from shared.telemetry import get_logger
from worker.pipelines.answering import TooManyRounds
from worker.pipelines.questions import QuestionExpired
from worker.providers.base import ProviderError
from worker.writer import OutputLimit

_log = get_logger(__name__)


@dataclass(frozen=True)
class End:
    """The terminal a generation comes to."""

    type: EventType
    data: Mapping[str, Any]


def _failed(code: str, message: str, *, retryable: bool) -> End:
    return End(EventType.FAILED, {"code": code, "message": message, "retryable": retryable})


TIMED_OUT: Final = _failed("timeout", "the generation took too long", retryable=True)
TOO_MUCH_TOGETHER: Final = _failed("output_limit", "the worker keeps more output than it may", retryable=True)
LOG_REFUSED: Final = _failed("log_refused", "the log did not take what was said", retryable=False)


def cancelled(by: str, *, confirmed: bool) -> End:
    """`confirmed`: the provider's connection is closed."""
    return End(EventType.CANCELLED, {"by": by, "confirmed": confirmed})


async def end_of(work: Callable[[], Awaitable[str]]) -> End:
    """Run `work`, which gives the finish reason; whatever else happens in it becomes a failure with its code.

    Raises only CancelledError, and only when it is the caller who cancels.
    """
    try:
        return End(EventType.COMPLETED, {"finish_reason": await work()})
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return _failed("internal", "the pipeline was cancelled from within", retryable=True)
    except Exception as error:  # noqa: BLE001 - users' code: whatever it raises must become a terminal
        return _failure(error)


def _failure(error: Exception) -> End:
    match error:
        case ProviderError():
            _log.warning("provider failed", code=error.code, error=error.message, request_id=error.request_id)
            return _failed(error.code, error.message, retryable=error.retryable)
        case TimeoutError():
            return _failed("timeout", "the generation took too long", retryable=True)
        case OutputLimit():
            return _failed("output_limit", f"the generation said more than is allowed: {error}", retryable=False)
        case QuestionExpired():
            return _failed("question_expired", str(error), retryable=True)
        case TooManyRounds():
            return _failed("too_many_rounds", str(error), retryable=False)
        case HoldfastError():
            return _failed(error.code, error.message, retryable=False)
    _log.error("pipeline failed", exc_info=error)
    return _failed("internal", "the pipeline failed", retryable=True)
