"""The Python client, with and without asyncio, seen alike: a test says what it does once, and runs over both."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import AbstractAsyncContextManager
from typing import Any

from shared.client import AsyncClient, Client, ClientError, Session

_END = object()

Connect = Callable[..., AbstractAsyncContextManager[Any]]
"""`connect(url, **behaviour)` is an AsyncClient, or what looks like one."""


class Threaded:
    """A Client that is used from other threads than the test's."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __repr__(self) -> str:
        return repr(self._client)

    async def create(self, **what: Any) -> "ThreadedSession":
        return ThreadedSession(await asyncio.to_thread(self._client.create, **what))

    def session(self, sid: str, **known: Any) -> "ThreadedSession":
        return ThreadedSession(self._client.session(sid, **known))

    def sessions(self, **query: Any) -> AsyncGenerator[Any, None]:
        return _read(self._client.sessions(**query))

    async def aclose(self) -> None:
        await asyncio.to_thread(self._client.close)


class ThreadedSession:
    def __init__(self, session: Session) -> None:
        self._session = session

    def __repr__(self) -> str:
        return repr(self._session)

    def __getattr__(self, name: str) -> Any:
        known = getattr(self._session, name)
        if not callable(known):
            return known
        if name in ("events", "text"):
            return lambda *given, **named: _read(known(*given, **named))
        return lambda *given, **named: asyncio.to_thread(known, *given, **named)


async def _read(items: Generator[Any, None, None]) -> AsyncGenerator[Any, None]:
    try:
        while (item := await asyncio.to_thread(next, items, _END)) is not _END:
            yield item
    finally:
        items.close()


@contextlib.asynccontextmanager
async def _threaded(url: str, **behaviour: Any) -> AsyncIterator[Threaded]:
    with Client(url, **behaviour) as client:
        yield Threaded(client)


CLIENTS: dict[str, Connect] = {"asyncio": AsyncClient, "threads": _threaded}


class Waits:
    """For `on_wait`: how long was waited, and why. `then` is done at the first."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.seconds: list[float] = []
        self.errors: list[ClientError] = []
        self._then = then

    def __call__(self, seconds: float, error: ClientError) -> None:
        if not self.seconds:
            self._then()
        self.seconds.append(seconds)
        self.errors.append(error)
