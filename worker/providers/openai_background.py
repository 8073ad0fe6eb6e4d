"""Background responses: OpenAI goes on with them while nobody listens, and gives them out again from any place."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

from openai import APIStatusError, AsyncOpenAI, AsyncStream, NotFoundError
from pydantic_core import to_json

from shared.tasks import within
from shared.telemetry import get_logger
from worker.providers.base import Code, Part, ProviderError, Remote
from worker.providers.sdk import Chunk, Fold, Stream
from worker.providers.source import Lazy

_log = get_logger(__name__)

RESUMES: Final = 3
"""How often in a row a stream that gives nothing is asked for again."""
PAUSE_S: Final = 0.5
CANCEL_S: Final = 4.0
"""How long the provider may take to end a run. Below what a stopped pipeline is given to close."""
_BROKE_OFF: Final = frozenset({Code.CONNECTION_LOST, Code.TIMEOUT, Code.IDLE_TIMEOUT, Code.TRUNCATED, Code.OVERLOADED})
_ENDS: Final = frozenset({"response.completed", "response.failed", "response.incomplete", "error"})

Open = Callable[[], Awaitable[Stream]]
Follow = Callable[[Open, Fold], AsyncGenerator[Part, None]]
"""Gives out the parts of the stream that is opened."""


async def followed(
    client: Lazy[AsyncOpenAI], body: Callable[[], dict[str, Any]], fold: Fold, remote: Remote | None, follow: Follow
) -> AsyncGenerator[Part, None]:
    """Follow a run to its end: one of an earlier attempt where there is one, from its beginning, else a new one.

    A connection that breaks off is made again from where it was. Left before its end, the run is ended at the provider,
    unless the next attempt will ask for it.
    """
    run = _Run(client, body, remote)
    failures = 0
    try:
        while True:
            before = run.last
            try:
                async with aclosing(follow(run.open, fold)) as parts:
                    async for part in parts:
                        yield part
                return
            except ProviderError as error:
                failures = failures + 1 if run.last == before else 1
                if error.code not in _BROKE_OFF or not run.known or failures > RESUMES:
                    raise
                _log.warning("background response broke off; asking for the rest", code=error.code, after=run.last)
                await asyncio.sleep(PAUSE_S * (failures - 1))
    finally:
        await run.leave()


class _Run:
    """One background response."""

    def __init__(self, client: Lazy[AsyncOpenAI], body: Callable[[], dict[str, Any]], remote: Remote | None) -> None:
        self._client = client
        self._make_body = body
        self._remote = remote
        self._id: str | None = None
        self._call = ""
        """Meaningful once it was opened."""
        self._told = False
        """The log knows the id."""
        self._nameless = False
        """It was asked for, and may run, but has not said its id."""
        self._over = False
        self.last = -1
        """Number of the last event that was seen."""

    @property
    def known(self) -> bool:
        """It can be asked for again."""
        return self._id is not None and not self._over

    async def open(self) -> Stream:
        body = self._make_body()
        if self._id is None and self._remote is not None and not self._call:
            self._call = _digest(body, str(self._client.get().base_url))
            self._id = self._remote.ask(self._call)
        if self._id is not None:
            try:
                return await self._again(self._id)
            except NotFoundError:
                if self.last >= 0:
                    raise
                _log.warning("background response is gone; starting again", response=self._id)
                self._id = None
        create: Any = self._client.get().responses.with_raw_response.create
        self._nameless = True
        try:
            return self._noted(await create(**body))
        except APIStatusError:
            self._nameless = False
            raise

    async def _again(self, response_id: str) -> Stream:
        after = {"starting_after": self.last} if self.last >= 0 else {}
        retrieve: Any = self._client.get().responses.with_raw_response.retrieve
        return self._noted(await retrieve(response_id, stream=True, **after))

    def _noted(self, response: Any) -> Stream:
        stream: Stream = response.parse(to=AsyncStream[object])
        return _Noted(stream, self.note)

    def note(self, event: Chunk) -> None:
        """Learn from an event what is needed to come back; its shape is checked elsewhere."""
        self.last = event.get("sequence_number", self.last)
        self._over = self._over or event.get("type") in _ENDS
        if not self._told and (response_id := (event.get("response") or {}).get("id")):
            self._id, self._told, self._nameless = response_id, True, False
            if self._remote is not None:
                self._remote.open += 1
                self._remote.began(self._call, response_id)

    async def leave(self) -> None:
        if self._remote is not None:
            self._remote.open -= self._told
            self._remote.stray |= self._nameless
        if self.known and not (self._remote is not None and self._remote.goes_on):
            await _undisturbed(asyncio.create_task(self._cancel()))

    async def _cancel(self) -> None:
        """Closing the connection does not stop it."""
        try:
            await within(CANCEL_S, self._client.get().responses.cancel(str(self._id)))
        except Exception as error:  # noqa: BLE001 - whatever the SDK raises: all that can be done is to say so
            _log.error("background response goes on at the provider", response=self._id, error=type(error).__name__)
            if self._remote is not None:
                self._remote.stray = True


async def _undisturbed(task: asyncio.Task[None]) -> None:
    """Wait for a task that ends by itself soon; a cancellation meanwhile takes effect after that."""
    interrupted: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted


class _Noted:
    """A stream whose events are noted as they pass."""

    def __init__(self, stream: Stream, note: Callable[[Chunk], None]) -> None:
        self._stream = stream
        self._note = note

    @property
    def response(self) -> Any:
        return self._stream.response

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        event = await anext(self._stream)
        if isinstance(event, dict):
            self._note(event)
        return event

    async def close(self) -> None:
        await self._stream.close()


def _digest(body: dict[str, Any], url: str) -> str:
    return hashlib.sha256(to_json([url, body])).hexdigest()[:32]
