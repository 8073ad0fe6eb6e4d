"""The client for asyncio. What it does is in `place`, `following` and `reading`; here it is carried out."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Self, TypeVar, Unpack

import httpx
from httpx_sse import EventSource

from shared.client import calls, models
from shared.client.calls import Call, Outcome, Pause, Plan
from shared.client.errors import ClientClosed
from shared.client.events import Event
from shared.client.following import Following
from shared.client.options import Behaviour, Options
from shared.client.place import Place
from shared.client.reading import Text
from shared.events import State
from shared.transcript import Message

T = TypeVar("T")


class AsyncClient:
    """A Holdfast deployment. See `shared.client` for an example.

    Its methods raise ClientError: Refused at once for what asking again does not change, otherwise when patience is
    over. Cancelling any of them leaves nothing open.
    """

    def __init__(self, base: str = "http://127.0.0.1:8000", **behaviour: Unpack[Behaviour]) -> None:
        self.options = Options(base, **behaviour)
        self._http = httpx.AsyncClient(**self.options.for_httpx)
        self._closed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<AsyncClient {self.options.base}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection. Whoever still waits for something here gets ClientClosed."""
        self._closed.set()
        await self._http.aclose()

    async def create(self, **what: Unpack[models.Opening]) -> "AsyncSession":
        """Start a session with its first generation. However often it has to be asked for, there will be one."""
        session = AsyncSession(self, "")
        await self.run(session.opening(what))
        return session

    def session(self, sid: str, *, cursor: str | None = None) -> "AsyncSession":
        """A session by its id. `cursor`: the one that was stored when it was followed before."""
        return AsyncSession(self, sid, cursor)

    async def sessions(self, *, state: State | None = None, limit: int = 50) -> AsyncGenerator[models.Summary, None]:
        """The caller's sessions, the one with the newest turn first; asked for in pages of `limit` as they are read."""
        query: dict[str, Any] = {"state": state, "limit": limit}
        while True:
            page = await self.run(calls.page(query, self.options.patience()))
            for summary in page.sessions:
                yield summary
            if page.next_cursor is None:
                return
            query["cursor"] = page.next_cursor

    # -- carrying out

    async def run(self, plan: Plan[T]) -> T:
        outcome: Outcome = None
        while True:
            try:
                step = plan.send(outcome)
            except StopIteration as done:
                result: T = done.value
                return result
            outcome = await self._do(step)

    async def _do(self, step: Call | Pause) -> Outcome:
        if isinstance(step, Pause):
            await self.pause(step.seconds)
            return None
        self.check_open()
        try:
            return await self._http.send(self._http.build_request(**step.request()))
        except httpx.RequestError as error:
            self.check_open()
            return error

    async def open(self, call: Call) -> httpx.Response:
        """The response, unread; the caller closes it. Raises httpx.RequestError."""
        self.check_open()
        return await self._http.send(self._http.build_request(**call.request()), stream=True)

    async def pause(self, seconds: float) -> None:
        """Raises ClientClosed as soon as it is."""
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return
        raise ClientClosed

    def check_open(self) -> None:
        if self._closed.is_set():
            raise ClientClosed


class AsyncSession(Place):
    """One session. `cursor` moves with what was handed out: one reader at a time for each of these."""

    def __init__(self, client: AsyncClient, sid: str, cursor: str | None = None) -> None:
        super().__init__(client.options, sid, cursor)
        self._client = client

    async def events(
        self, after: str | None = None, *, follow: bool = False, merge: bool = True
    ) -> AsyncGenerator[Event, None]:
        """Every event after the cursor, once, whatever becomes of connections and nodes.

        Ends with the turn that is under way, the newest that was heard of here; with `follow` only when it is closed.
        `after`: another cursor, `0-0` for the start. `merge`: neighbouring deltas come as one where there are many at
        once. Leaving the loop closes the connection; where that must not wait for the garbage collector, use
        `contextlib.aclosing`.
        """
        reader = Following(self, after, follow=follow, merge=merge)
        while not reader.over:
            async with aclosing(self._connection(reader)) as events:
                async for event in events:
                    yield event
            if not reader.over:
                await self._client.pause(reader.wait_s())

    async def _connection(self, reader: Following) -> AsyncGenerator[Event, None]:
        """Ends with the connection."""
        response: httpx.Response | None = None
        cut: httpx.RequestError | None = None
        try:
            response = await self._client.open(reader.call)
            body = await response.aread() if response.status_code >= 300 else b""
            if not reader.answered(response, body):
                return
            async with aclosing(EventSource(response).aiter_sse()) as blocks:
                async for block in blocks:
                    if (event := reader.take(block)) is not None:
                        yield event
                    if reader.over:
                        return
        except httpx.RequestError as error:
            self._client.check_open()
            cut = error
        finally:
            if response is not None:
                await response.aclose()
        reader.ended(cut)

    async def text(self) -> AsyncGenerator[str, None]:
        """The text of the answer, as it comes; with a cursor in the middle of one, the rest of that is first.

        Raises GenerationFailed, GenerationCancelled and AnswerLost.
        """
        generation = await self._client.run(self.naming())
        reader = Text(generation, self.cursor)
        async with aclosing(self.events()) as events:
            async for event in events:
                if words := reader.take(event):
                    yield words
        if not reader.over:
            await self._client.run(self.concluding(generation))

    async def result(self) -> Message:
        """The whole answer, once it is there. Raises GenerationFailed, GenerationCancelled and AnswerLost."""
        generation = await self._client.run(self.naming())
        async with aclosing(self.events()) as events:
            async for _ in events:
                pass
        return await self._client.run(self.concluding(generation))

    async def message(self, input: str | None = None, **what: Unpack[models.NextTurn]) -> Self:
        """Say the next thing: what is read from now on ends with its answer.

        While another is being written: BadRequest `generation_running`, unless `interrupt` cuts that off.
        """
        await self._client.run(self.saying(input, what))
        return self

    async def stop(self, *, wait_s: float = 5.0) -> models.Stopped:
        """Stop the answer; what was said stays. Waits up to `wait_s` (30 at most) for its end. Over is no error.

        Meant is the newest turn that was heard of here: where somebody began another, BadRequest `other_generation`.
        """
        return await self._client.run(self.stopping(wait_s))

    async def answer(self, question: str, text: str) -> None:
        """Answer a question, by its id. The first answer wins; a later one is Gone."""
        await self._client.run(self.answering(question, text))

    async def get(self) -> models.Shown:
        """State and transcript."""
        return await self._client.run(self.showing())

    async def delete(self) -> None:
        """Stop and forget."""
        await self._client.run(self.deleting())
