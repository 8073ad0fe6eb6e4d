"""The client without asyncio: the same words, the same rules. What it does is in `place`, `following` and `reading`."""

import contextlib
import socket
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
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


class Client:
    """A Holdfast deployment. See `shared.client` for an example. May be used by several threads.

    Its methods raise ClientError: Refused at once for what asking again does not change, otherwise when patience is
    over.
    """

    def __init__(self, base: str = "http://127.0.0.1:8000", **behaviour: Unpack[Behaviour]) -> None:
        self.options = Options(base, **behaviour)
        self._http = httpx.Client(**self.options.for_httpx)
        self._closed = threading.Event()
        self._streams: set[socket.socket | None] = set()

    def __repr__(self) -> str:
        return f"<Client {self.options.base}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection. Whoever still waits for something here, in another thread, gets ClientClosed."""
        self._closed.set()
        for stream in filter(None, tuple(self._streams)):  # closing alone would not wake the thread that reads from it
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
        self._http.close()

    def create(self, **what: Unpack[models.Opening]) -> "Session":
        """Start a session with its first generation. However often it has to be asked for, there will be one."""
        session = Session(self, "")
        self.run(session.opening(what))
        return session

    def session(self, sid: str, *, cursor: str | None = None) -> "Session":
        """A session by its id. `cursor`: the one that was stored when it was followed before."""
        return Session(self, sid, cursor)

    def sessions(self, *, state: State | None = None, limit: int = 50) -> Generator[models.Summary, None, None]:
        """The caller's sessions, the one with the newest turn first; asked for in pages of `limit` as they are read."""
        query: dict[str, Any] = {"state": state, "limit": limit}
        while True:
            page = self.run(calls.page(query, self.options.patience()))
            yield from page.sessions
            if page.next_cursor is None:
                return
            query["cursor"] = page.next_cursor

    # -- carrying out

    def run(self, plan: Plan[T]) -> T:
        outcome: Outcome = None
        while True:
            try:
                step = plan.send(outcome)
            except StopIteration as done:
                result: T = done.value
                return result
            outcome = self._do(step)

    def _do(self, step: Call | Pause) -> Outcome:
        if isinstance(step, Pause):
            self.pause(step.seconds)
            return None
        self.check_open()
        try:
            return self._http.send(self._http.build_request(**step.request()))
        except httpx.RequestError as error:
            self.check_open()
            return error

    @contextlib.contextmanager
    def open(self, call: Call) -> Iterator[httpx.Response]:
        """The response, unread. Raises httpx.RequestError."""
        self.check_open()
        response = self._http.send(self._http.build_request(**call.request()), stream=True)
        stream = response.extensions.get("network_stream")
        underneath = stream.get_extra_info("socket") if stream else None
        self._streams.add(underneath)
        try:
            self.check_open()
            yield response
        finally:
            self._streams.discard(underneath)
            response.close()

    def pause(self, seconds: float) -> None:
        """Raises ClientClosed as soon as it is."""
        if self._closed.wait(seconds):
            raise ClientClosed

    def check_open(self) -> None:
        if self._closed.is_set():
            raise ClientClosed


class Session(Place):
    """One session. `cursor` moves with what was handed out: one reader at a time for each of these."""

    def __init__(self, client: Client, sid: str, cursor: str | None = None) -> None:
        super().__init__(client.options, sid, cursor)
        self._client = client

    def events(
        self, after: str | None = None, *, follow: bool = False, merge: bool = True
    ) -> Generator[Event, None, None]:
        """Every event after the cursor, once, whatever becomes of connections and nodes.

        Ends with the turn that is under way, the newest that was heard of here; with `follow` only when it is closed.
        `after`: another cursor, `0-0` for the start. `merge`: neighbouring deltas come as one where there are many at
        once. Leaving the loop closes the connection; where that must not wait for the garbage collector, use
        `contextlib.closing`.
        """
        reader = Following(self, after, follow=follow, merge=merge)
        while not reader.over:
            yield from self._connection(reader)
            if not reader.over:
                self._client.pause(reader.wait_s())

    def _connection(self, reader: Following) -> Generator[Event, None, None]:
        """Ends with the connection."""
        cut: httpx.RequestError | None = None
        try:
            with self._client.open(reader.call) as response:
                body = response.read() if response.status_code >= 300 else b""
                if not reader.answered(response, body):
                    return
                for block in EventSource(response).iter_sse():
                    if (event := reader.take(block)) is not None:
                        yield event
                    if reader.over:
                        return
        except httpx.RequestError as error:
            cut = error
        self._client.check_open()
        reader.ended(cut)

    def text(self) -> Generator[str, None, None]:
        """The text of the answer, as it comes; with a cursor in the middle of one, the rest of that is first.

        Raises GenerationFailed, GenerationCancelled and AnswerLost.
        """
        generation = self._client.run(self.naming())
        reader = Text(generation, self.cursor)
        with closing(self.events()) as events:
            for event in events:
                if words := reader.take(event):
                    yield words
        if not reader.over:
            self._client.run(self.concluding(generation))

    def result(self) -> Message:
        """The whole answer, once it is there. Raises GenerationFailed, GenerationCancelled and AnswerLost."""
        generation = self._client.run(self.naming())
        for _ in self.events():
            pass
        return self._client.run(self.concluding(generation))

    def message(self, input: str | None = None, **what: Unpack[models.NextTurn]) -> Self:
        """Say the next thing: what is read from now on ends with its answer.

        While another is being written: BadRequest `generation_running`, unless `interrupt` cuts that off.
        """
        self._client.run(self.saying(input, what))
        return self

    def stop(self, *, wait_s: float = 5.0) -> models.Stopped:
        """Stop the answer; what was said stays. Waits up to `wait_s` (30 at most) for its end. Over is no error.

        Meant is the newest turn that was heard of here: where somebody began another, BadRequest `other_generation`.
        """
        return self._client.run(self.stopping(wait_s))

    def answer(self, question: str, text: str) -> None:
        """Answer a question, by its id. The first answer wins; a later one is Gone."""
        self._client.run(self.answering(question, text))

    def get(self) -> models.Shown:
        """State and transcript."""
        return self._client.run(self.showing())

    def delete(self) -> None:
        """Stop and forget."""
        self._client.run(self.deleting())
