"""Structured logs. The session, generation and attempt at hand are bound once and stand in every line, and so does the
process.

What users and models say is in no line, unless that is asked for; nor is a line there for every request or every event.
A line that `rare=True` marks is one that many would say at once, such as each request while Redis is away: it is said
once in a while, with the number of those that were not.
"""

import logging
import os
import re
import socket
import sys
import time

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

bound = structlog.contextvars.bound_contextvars
"""Context manager: binds fields such as `session` to every log line of this task and those it starts."""


def get_logger(name: str) -> FilteringBoundLogger:
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger


RARELY_S = 10.0


def process_name() -> str:
    """What this process is called in its lines, where it has no name of its own."""
    return f"{socket.gethostname()}-{os.getpid()}"


def configure(level: str, style: str, *, content: bool = False, **process: str) -> None:
    """Send this process's logs, the libraries' too, to stderr. `style`: `console` for people or `json`.

    `content`: libraries too may log what users and models say. `process`: fields of every line.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _about(process),
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            _Rarely(),
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
    _quiet_libraries(content, root.level)


def _about(process: dict[str, str]) -> Processor:
    def about(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
        return {**process, **line}

    return about


class _Rarely:
    """Of lines that are marked, each once in a while."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[float, int]] = {}
        """Line → when it was said, and how often it was not since. As many as there are such lines in the code."""

    def __call__(self, _: WrappedLogger, __: str, line: EventDict) -> EventDict:
        if not line.pop("rare", False):
            return line
        now, name = time.monotonic(), str(line["event"])
        at, unsaid = self._said.get(name, (float("-inf"), 0))
        if now - at < RARELY_S:
            self._said[name] = (at, unsaid + 1)
            raise structlog.DropEvent
        self._said[name] = (now, 0)
        return {**line, "unsaid": unsaid} if unsaid else line


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
    plain = structlog.dev.plain_traceback  # the default one shows local variables: prompts, answers, credentials
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)


def _quiet_libraries(content: bool, level: int) -> None:
    for name in ("arq", "httpx", "httpx2", "openai", "anthropic", "httpcore2", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("uvicorn.error", "websockets", "httpcore", "asyncio"):  # at debug they show frames, and with them text
        logging.getLogger(name).setLevel(logging.NOTSET if content else max(level, logging.INFO))
    logging.getLogger("uvicorn.error").addFilter(_an_error_of_ours)


_NO_ERRORS = (
    "returned without completing response",  # a stream that is aborted on purpose is left unfinished
    "Invalid UTF-8 sequence received",  # by a WebSocket, whose client is told; with a traceback each time
)


def _an_error_of_ours(record: logging.LogRecord) -> bool:
    return not any(words in record.getMessage() for words in _NO_ERRORS)
