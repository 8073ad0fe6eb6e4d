"""Structured logs. The session, generation and attempt at hand are bound once and stand in every line."""

import logging
import re
import sys

import structlog
from structlog.typing import FilteringBoundLogger, Processor

bound = structlog.contextvars.bound_contextvars
"""Context manager: binds fields such as `session` to every log line of this task and those it starts."""


def get_logger(name: str) -> FilteringBoundLogger:
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger


def configure(level: str, style: str) -> None:
    """Send this process's logs, the libraries' too, to stderr. `style`: `console` for people or `json`."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Discreet(foreign_pre_chain=shared, processor=_renderer(style)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    _quiet_libraries()


_SECRETS = re.compile(
    r"(?<=[?&]token=)[^\s&\"']+"  # in the URL of a stream
    r"|\bhf_[\w-]{20,}"  # an API key
    r"|\beyJ[\w-]+\.[\w-]+\.[\w-]*"  # a JWT
    r"|(?<=://)[^\s/@\"']+(?=@)"  # user and password of a URL
)


def without_secrets(text: str) -> str:
    return _SECRETS.sub("…", text)


class _Discreet(structlog.stdlib.ProcessorFormatter):
    """The last to see a line, whoever wrote it: the server and libraries log URLs and headers as they came."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


def _renderer(style: str) -> Processor:
    if style == "json":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())


def _quiet_libraries() -> None:
    for name in ("arq", "httpx", "httpx2", "openai", "anthropic", "httpcore2", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_an_error_of_ours)


_NO_ERRORS = (
    "returned without completing response",  # a stream that is aborted on purpose is left unfinished
    "Invalid UTF-8 sequence received",  # by a WebSocket, whose client is told; with a traceback each time
)


def _an_error_of_ours(record: logging.LogRecord) -> bool:
    return not any(words in record.getMessage() for words in _NO_ERRORS)
