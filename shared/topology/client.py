"""A client that tries again, for a while, what a lost connection may have undone."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

T = TypeVar("T")

PAUSES_S = (0.05, 0.1, 0.2, 0.4)
"""Between tries. Together less than a second: who wants more patience has their own."""


class Errors(Counter[str]):
    """What a client was not answered, or was refused, by the name of the error. Every try counts."""

    def note(self, error: object) -> None:
        if isinstance(error, RedisError) and not isinstance(error, NoScriptError):  # which is how a script is sent
            self[type(error).__name__] += 1


async def patiently(attempt: Callable[[], Awaitable[T]], patience_s: float, errors: Errors) -> T:
    """Try again after a lost connection. No try begins after `patience_s`, however long each takes.

    The last error is raised. What is tried must be harmless when repeated: it may have been carried out each time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    for pause in (*PAUSES_S, None):
        try:
            return await attempt()
        except RedisError as error:
            errors.note(error)
            passes = isinstance(error, (RedisConnectionError, RedisTimeoutError))
            if not passes or pause is None or loop.time() + pause > deadline:
                raise
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))
    raise AssertionError("the last try returns or raises")


def raise_first(replies: Sequence[Any]) -> None:
    """As it is: redis-py would put the whole command before the message, and tokens with it."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply


class Link(Protocol):
    """What a client reaches its server by."""

    @property
    def pool(self) -> ConnectionPool: ...

    @property
    def patience_s(self) -> float: ...

    async def aclose(self) -> None:
        """Everything but the pool's connections."""


class Patient(Redis):
    """Mixed into a client: every command and pipeline is tried again after a lost connection."""

    link: Link
    errors: Errors

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        execute: Any = super().execute_command
        return await patiently(lambda: execute(*args, **options), self.link.patience_s, self.errors)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> "PatientPipeline":
        return PatientPipeline(self.link, self.response_callbacks, transaction, self.errors)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        if close_connection_pool:
            await self.link.aclose()
        await super().aclose(close_connection_pool)


class PatientPipeline(Pipeline):
    def __init__(self, link: Link, callbacks: Any, transaction: bool, errors: Errors) -> None:
        super().__init__(link.pool, callbacks, transaction, None)
        self._link = link
        self._errors = errors

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        execute: Any = super().execute
        commands = self.command_stack

        async def attempt() -> Any:
            self.command_stack = commands
            return await execute(raise_on_error=False)

        replies: list[Any] = await patiently(attempt, self._link.patience_s, self._errors)
        for reply in replies:
            if isinstance(reply, Exception):
                self._errors.note(reply)
        if raise_on_error:
            raise_first(replies)
        return replies


class Client(Patient):
    def __init__(self, link: Link) -> None:
        super().__init__(connection_pool=link.pool)
        self.link = link
        self.errors = Errors()
