"""Where a command stands: its connection to Redis, and the way it ends, whatever happens."""

import asyncio
import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from rich.console import Console

from shared.console import render
from shared.console.options import Exit
from shared.directory import Directory
from shared.embedded import URL_FILE
from shared.errors import (
    ConfigurationError,
    HoldfastError,
    InvalidEventId,
    InvalidRequest,
    SessionDeleted,
    SessionExpired,
    SessionNotFound,
)
from shared.log import Log, Retention
from shared.redis import UNREACHABLE, connect
from shared.settings import Settings
from shared.telemetry import configure, without_secrets
from shared.topology.url import parse

CONNECTIONS = 4
TIMEOUT_S = 5.0
UNWRITABLE = (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT)
DEFAULT = "redis://127.0.0.1:6379/0"
DEV = Path(".holdfast")
"""Where `holdfast dev`, started in this folder, keeps its Redis."""


class Unreadable(HoldfastError):
    """What stands in Redis is nothing that Holdfast has written."""

    def __init__(self, why: Exception) -> None:
        said = str(why) if isinstance(why, ValueError | InvalidEventId) else repr(why)
        super().__init__(f"what Redis has cannot be read: {said}")


@contextlib.contextmanager
def legible() -> Iterator[None]:
    """Around what decodes a session's keys, and that alone. Raises Unreadable where they are not as they should be."""
    try:
        yield
    except (ValueError, LookupError, TypeError, InvalidEventId) as error:
        raise Unreadable(error) from error


@dataclass(frozen=True)
class Desk:
    url: str
    redis: Any
    log: Log
    directory: Directory
    out: Console


def redis_url(given: str) -> str:
    """The Redis that is meant: given, of the environment, of `holdfast dev` in this folder, or the usual one."""
    if url := given or os.environ.get("HOLDFAST_REDIS_URL", ""):
        return url
    try:
        return (DEV / URL_FILE).read_text().strip() or DEFAULT
    except OSError:
        return DEFAULT


def address(url: str) -> str:
    """Where that is, for people; without credentials."""
    at = parse(url)
    where = at.path or ",".join(f"{host}:{port}" for host, port in at.addresses)
    return f"{where} ({at.service})" if at.service else where


def at_desk(given: str, work: Callable[[Desk], Awaitable[int]], *, retention: bool = False) -> None:
    """Carry out a command, and end the process with its status. `retention`: it writes ends, and needs to know how long
    logs are kept."""
    url = redis_url(given)

    async def opened() -> int:
        parse(url)
        kept = Settings.load().retention if retention else Retention(0, 0)
        redis = connect(url, connections=CONNECTIONS, timeout_s=TIMEOUT_S)
        try:
            return await work(Desk(url, redis, Log(redis, kept), Directory(redis), render.console()))
        finally:
            await redis.aclose(close_connection_pool=True)

    finish(opened, url)


def finish(work: Callable[[], Awaitable[int]], url: str = "") -> None:
    """Run it, say in one line what went wrong, and end the process. Ctrl-C is typer's: status 130."""
    configure("debug" if _debugging() else "critical", "console")  # what is wrong is told by the command itself

    async def main() -> int:
        return await work()

    try:
        status = asyncio.run(main())
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read along has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = Exit.OK
    except (SessionNotFound, SessionDeleted, SessionExpired) as error:
        status = fail(error.message, Exit.NO_SESSION)
    except (ConfigurationError, InvalidRequest) as error:
        status = fail(error.message, Exit.USAGE)
    except HoldfastError as error:
        status = fail(error.message, Exit.AWAY, error)
    except (RedisError, OSError) as error:
        if unwritable := isinstance(error, OSError) and error.errno in UNWRITABLE:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor could what is left be written
        status = fail(f"the output cannot be written: {error}" if unwritable else why(error, url), Exit.AWAY)
    except (typer.BadParameter, typer.Exit, typer.Abort):
        raise
    except Exception as error:  # noqa: BLE001 - what nobody has thought of is told as such
        said = f"this is a bug of Holdfast, please report it: {type(error).__name__}: {error}"
        hint = "" if _debugging() else "; HOLDFAST_LOG_LEVEL=debug shows where"
        status = fail(f"{said}{hint}", Exit.BUG, error)
    raise typer.Exit(status)


def _debugging() -> bool:
    return os.environ.get("HOLDFAST_LOG_LEVEL", "").lower() == "debug"


def fail(message: str, status: Exit, error: Exception | None = None) -> Exit:
    """One line of stderr; before it, where somebody debugs, the place of `error`."""
    if error is not None and _debugging():
        sys.stderr.write(render.harmless(without_secrets("".join(traceback.format_exception(error)))))
    line = render.one_line(render.harmless(without_secrets(message)))
    render.console(errors=True).print(f"holdfast: {line}", style="red", soft_wrap=True)
    return status


def why(error: Exception, url: str) -> str:
    """What Redis, or the way to it, has against us."""
    where = address(url) if url else "the server"
    if isinstance(error, AuthenticationError):
        return f"Redis at {where} refuses these credentials: put user and password into HOLDFAST_REDIS_URL"
    if isinstance(error, NoPermissionError):
        return f"Redis at {where} does not let this user do that: {error}"
    if isinstance(error, UNREACHABLE):
        return f"Redis at {where} does not answer ({error}): is HOLDFAST_REDIS_URL, or --redis, right?"
    return f"Redis at {where} refuses: {error}"
