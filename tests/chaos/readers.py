"""Readers that come and go over every transport, and keep what they were sent."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from websockets.exceptions import WebSocketException

from shared.events import TERMINALS
from shared.ids import EventId
from tests.support.sse import SSE, Severed, events_path, parse
from tests.support.ws import WS, Closed

PAUSE_S = 0.1
"""Before a reader comes back."""
SILENCE_S = 30.0
"""A connection on which not even a keep-alive comes for this long is given up, and counted."""
LATER = frozenset({429, 502, 503, 504})
"""Statuses that pass."""


class Way(Enum):
    """How a reader reads."""

    SSE = "sse"
    SSE_FOLLOW = "sse, follow"
    SSE_UNMERGED = "sse, merge=0"
    WS = "ws"
    WS_UNMERGED = "ws, merge=0"
    CHAT = "/api/chat/stream"
    CHAT_SOCKET = "/ws/chat"


SOCKETS = frozenset({Way.WS, Way.WS_UNMERGED, Way.CHAT_SOCKET})
CHAT_NAMES = {
    "started": "generation.started", "chunk": "text.delta", "reasoning": "reasoning.delta",
    "done": "generation.completed", "stopped": "generation.cancelled", "error": "generation.failed",
    "tool_call": "tool.call", "tool_result": "tool.result",
}  # fmt: skip
"""Frames of `/ws/chat` → types of the log; all others are called the same."""


@dataclass
class Course:
    """One session, as those who take part in it know it."""

    sid: str = ""
    last: str = ""
    """The generation after which there will be no other; empty: that is not known yet."""


@dataclass(frozen=True, slots=True)
class Got:
    """One event, as it arrived."""

    id: EventId
    type: str
    data: dict[str, Any]


class Refused(Exception):
    """A session that is there was denied."""


@dataclass(eq=False)
class Reader:
    """One client: connects, reads, loses its connection or drops it, and comes back with its cursor until it has the
    end of the last generation. Ends only with that; raises Refused."""

    base: str
    course: Course
    way: Way
    restless: random.Random | None = None
    """Where given, the reader itself drops its connections after some events."""
    opening: tuple[str, dict[str, Any]] | None = None
    """Key and body by which a `/api/chat/stream` begins its session itself."""
    got: list[Got] = field(default_factory=list)
    gaps: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0
    silences: int = 0
    sever: Callable[[], None] | None = None
    """Resets the connection of the moment."""

    def __post_init__(self) -> None:
        self._news = asyncio.Event()
        self._patience = 0

    @property
    def over(self) -> bool:
        last = self.got[-1] if self.got else None
        return last is not None and last.type in TERMINALS and last.data["generation"] == self.course.last

    @property
    def cursor(self) -> str:
        return str(self.got[-1].id) if self.got else ""

    async def until(self, true: Callable[["Reader"], bool]) -> None:
        """Wait for something that what is read brings about."""
        while not true(self):
            self._news.clear()
            await self._news.wait()

    def told(self) -> None:
        """The course has changed; it may be over."""
        if self.over and self.sever:
            self.sever()

    async def follow(self) -> None:
        while not self.over:
            self.connections += 1
            self._patience = self.restless.randint(3, 60) if self.restless else 1 << 30
            try:
                await self._read()
            except TimeoutError:
                self.silences += 1
            except (Severed, Closed, OSError, EOFError, WebSocketException):
                pass  # a connection was lost: that is what all this is about
            finally:
                self.sever = None
            if not self.over:
                await asyncio.sleep(self.restless.uniform(0, 0.5) if self.restless else PAUSE_S)

    async def _read(self) -> None:
        """One connection, until it ends or nothing more is to come. Raises what it ends with."""
        coming = self._read_socket() if self.way in SOCKETS else self._read_stream()
        async with asyncio.timeout(SILENCE_S) as silence, aclosing(coming):
            async for _ in coming:
                silence.reschedule(asyncio.get_running_loop().time() + SILENCE_S)
                if self.over:
                    return

    # -- SSE

    async def _read_stream(self) -> AsyncGenerator[None, None]:
        """Yields whenever something came."""
        stream = self._stream()
        await stream.open()
        self.sever = stream.kill
        try:
            self.course.sid = self.course.sid or stream.headers.get("holdfast-session", "")
            if stream.status not in {200, 204} | LATER:
                raise Refused(f"{self.way.value}: {stream.status} {stream.body.decode()}")
            if stream.status == 200:
                buffer = b""
                async for chunk in stream.chunks():
                    *blocks, buffer = (buffer + chunk).split(b"\n\n")
                    for block in blocks:
                        frame = parse(block)
                        self._take(frame.id.rpartition("/")[2], frame.type, frame.data)
                    yield
        finally:
            stream.kill()

    def _stream(self) -> SSE:
        if self.way is Way.CHAT:
            return self._chat()
        query: dict[str, str | int] = {}
        if self.way is Way.SSE_FOLLOW:
            query["follow"] = 1
        if self.way is Way.SSE_UNMERGED:
            query["merge"] = 0
        return SSE(self.base, events_path(self.course.sid, **query), {"Last-Event-ID": self.cursor} if self.got else {})

    def _chat(self) -> SSE:
        if self.got or self.opening is None:
            cursor = f"{self.course.sid}/{self.cursor or '0-0'}"
            return SSE(self.base, "/api/chat/stream", {"Last-Event-ID": cursor})
        key, body = self.opening
        return SSE(self.base, "/api/chat/stream", {"Idempotency-Key": key}, json.dumps(body).encode())

    # -- WebSocket

    async def _read_socket(self) -> AsyncGenerator[None, None]:
        socket = WS(self.base, self._socket_path())
        await socket.open()
        self.sever = socket.kill
        try:
            while True:
                try:
                    frame = await socket.get()
                except Closed as closed:
                    if closed.code >= 4000:
                        raise Refused(f"{self.way.value}: {closed.code} {closed.reason}") from None
                    raise
                name, data = frame["type"], frame.get("data", frame)
                if self.way is Way.CHAT_SOCKET:
                    name = CHAT_NAMES.get(name, name)
                self._take(frame.get("id", ""), name, data)
                yield
        finally:
            socket.kill()

    def _socket_path(self) -> str:
        after = f"&after={self.cursor}" if self.got else ""
        if self.way is Way.CHAT_SOCKET:
            return f"/ws/chat?session={self.course.sid}{after}"
        merge = 0 if self.way is Way.WS_UNMERGED else 1
        return f"/v1/sessions/{self.course.sid}/ws?merge={merge}{after}"

    # -- both

    def _take(self, event_id: str, kind: str, data: dict[str, Any]) -> None:
        if not event_id:
            return
        if kind == "gap":
            self.gaps.append(data)
        self.got.append(Got(EventId.parse(event_id), kind, data))
        self._news.set()
        self._patience -= 1
        if self._patience == 0 and self.sever:
            self.sever()
