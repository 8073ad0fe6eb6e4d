"""Every way to follow a session, seen alike: what arrived, and how it ended."""

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from tests.support.sse import SSE, Frame, Severed, events_path, parse
from tests.support.ws import WS, Closed, Message

CHAT = "/api/chat/stream"
COME_BACK = (1006, 1011, 1012, 1013)
QUESTION = {"message": "hello"}
"""What a client of the one-call forms has asked at first, and asks again when it comes back."""


class Whole(str):
    """A cursor of a one-call form as it is sent, with the session in it, or not; `{sid}` stands for that."""

    __slots__ = ()


# -- what can arrive


@dataclass(frozen=True)
class Got:
    """An event of the log; a gap, which bears an id too, has the type `gap`."""

    id: str
    type: str
    data: dict[str, Any]


@dataclass(frozen=True)
class CaughtUp:
    last: str


@dataclass(frozen=True)
class KeepAlive:
    pass


@dataclass(frozen=True)
class Ended:
    """A clean end: everything is there."""


@dataclass(frozen=True)
class Nothing:
    """There was nothing to send, and nothing will come."""


@dataclass(frozen=True)
class Refused:
    status: int
    """Of HTTP; a WebSocket is closed with 4000 more."""
    code: str


@dataclass(frozen=True)
class Cut:
    """Come back."""


Seen = Got | CaughtUp | KeepAlive | Ended | Nothing | Refused | Cut
FINAL = (Ended, Nothing, Refused, Cut)
"""Nothing follows these."""


class Reader(ABC):
    """One connection."""

    @abstractmethod
    async def get(self) -> Seen:
        """The next thing that arrives, or how the connection ended."""

    @abstractmethod
    def kill(self) -> None:
        """Reset the connection."""

    async def until(self, event_id: str) -> None:
        """Read as far as this event."""
        while True:
            seen = await self.get()
            assert not isinstance(seen, FINAL), seen
            if isinstance(seen, Got) and seen.id == event_id:
                return


# -- SSE


class EventStream(Reader):
    """`prefix` stands before every id, and in the session's header."""

    def __init__(self, stream: SSE, prefix: str = "") -> None:
        self._stream = stream
        self._prefix = prefix
        self._seen = self._all()

    async def get(self) -> Seen:
        return await anext(self._seen)

    def kill(self) -> None:
        self._stream.kill()

    async def _all(self) -> AsyncIterator[Seen]:
        if self._stream.status == 204:
            yield Nothing()
        elif self._stream.status != 200:
            yield Refused(self._stream.status, json.loads(self._stream.body)["error"]["code"])
        else:
            assert self._stream.headers.get("holdfast-session", "") == self._prefix.removesuffix("/")
            try:
                async for seen in self._blocks():
                    yield seen
                yield Ended()
            except Severed:
                yield Cut()

    async def _blocks(self) -> AsyncIterator[Seen]:
        buffer = b""
        async for chunk in self._stream.chunks():
            if chunk == b": ka\n":
                yield KeepAlive()
                continue
            *blocks, buffer = (buffer + chunk).split(b"\n\n")
            for frame in map(parse, blocks):
                if frame.type == "caught_up":
                    assert frame.id == ""
                    yield CaughtUp(self._bare(frame.data["last_event_id"]))
                else:
                    yield Got(self._bare(frame.id), frame.type, self._data(frame))

    def _data(self, frame: Frame) -> dict[str, Any]:
        """Of a gap too, every cursor has the form in which it can be sent back."""
        places = ("requested", "earliest", "latest") if frame.type == "gap" else ()
        return {name: self._bare(value) if name in places else value for name, value in frame.data.items()}

    def _bare(self, event_id: str) -> str:
        assert event_id.startswith(self._prefix), event_id
        return event_id.removeprefix(self._prefix)


# -- WebSocket


class Socket(Reader):
    def __init__(self, socket: WS, translate: Callable[[Message], Seen]) -> None:
        self._socket = socket
        self._translate = translate

    async def get(self) -> Seen:
        try:
            return self._translate(await self._socket.get())
        except Closed as closed:
            if closed.code in COME_BACK:
                return Cut()
            return Refused(closed.code - 4000, closed.reason)

    def kill(self) -> None:
        self._socket.kill()

    async def ping(self) -> None:
        await self._socket.ping()


def _packet(frame: Message) -> Seen:
    match frame:
        case {"type": "keep_alive"}:
            return KeepAlive()
        case {"type": "caught_up", "data": {"last_event_id": last}}:
            return CaughtUp(last)
    assert frame.keys() == {"id", "type", "data"}, frame
    return Got(frame["id"], frame["type"], frame["data"])


_TYPES = {
    "message": "message",
    "started": "generation.started",
    "chunk": "text.delta",
    "reasoning": "reasoning.delta",
    "tool_call": "tool.call",
    "tool_result": "tool.result",
    "done": "generation.completed",
    "stopped": "generation.cancelled",
    "error": "generation.failed",
}
_OWN_IDS = {"question": "question", "answer": "question", "tool_call": "call", "tool_result": "call"}
"""Where the `id` of the data is: that of the frame is the event's."""


def _flat(frame: Message) -> Seen:
    kind: str = frame.pop("type")
    if kind == "keep_alive":
        return KeepAlive()
    if kind == "caught_up":
        return CaughtUp(frame["last_event_id"])
    event_id = frame.pop("id")
    if kind in _OWN_IDS:
        frame["id"] = frame.pop(_OWN_IDS[kind])
    return Got(event_id, _TYPES.get(kind, kind), frame)


# -- the list


class Transport(ABC):
    name: str
    stays = False
    """A socket does not end with the answer: the next turn arrives on it."""
    says_prev = True
    """Whether the first event of an epoch names the id before it."""

    @abstractmethod
    def _reader(self, url: str, sid: str, cursor: str | None) -> tuple[SSE | WS, Callable[[], Reader]]:
        """A connection that is not open yet, and how to read it."""

    @asynccontextmanager
    async def reader(self, url: str, sid: str, cursor: str | None) -> AsyncIterator[Reader]:
        """Follow a session from the cursor on; None: say none."""
        connection, reading = self._reader(url, sid, cursor)
        async with connection:
            yield reading()


class NativeSSE(Transport):
    name = "SSE"

    def _reader(self, url: str, sid: str, cursor: str | None) -> tuple[SSE, Callable[[], Reader]]:
        stream = SSE(url, events_path(sid), _header(cursor))
        return stream, lambda: EventStream(stream)


class NativeSocket(Transport):
    name = "WS"
    stays = True

    def _reader(self, url: str, sid: str, cursor: str | None) -> tuple[WS, Callable[[], Reader]]:
        query = "" if cursor is None else "?" + urlencode({"after": cursor})
        socket = WS(url, f"/v1/sessions/{sid}/ws{query}")
        return socket, lambda: Socket(socket, _packet)


class ChatPost(Transport):
    name = "POST /api/chat/stream"

    def _reader(self, url: str, sid: str, cursor: str | None) -> tuple[SSE, Callable[[], Reader]]:
        assert cursor is not None, "without one this would ask"
        stream = SSE(url, CHAT, _header(_whole(sid, cursor)), post=json.dumps(QUESTION).encode())
        return stream, lambda: EventStream(stream, f"{sid}/")


class ChatGet(Transport):
    name = "GET /api/chat/stream"

    def _reader(self, url: str, sid: str, cursor: str | None) -> tuple[SSE, Callable[[], Reader]]:
        assert cursor is not None, "without one this would ask"
        stream = SSE(url, f"{CHAT}?{urlencode(QUESTION)}", _header(_whole(sid, cursor)))
        return stream, lambda: EventStream(stream, f"{sid}/")


class ChatSocket(Transport):
    name = "WS /ws/chat"
    stays = True
    says_prev = False

    def _reader(self, url: str, sid: str, cursor: str | None) -> tuple[WS, Callable[[], Reader]]:
        after = {} if cursor is None else {"after": cursor}
        socket = WS(url, "/ws/chat?" + urlencode({"session": sid, **after}))
        return socket, lambda: Socket(socket, _flat)


def _whole(sid: str, cursor: str) -> str:
    return cursor.replace("{sid}", sid) if isinstance(cursor, Whole) else f"{sid}/{cursor}"


def _header(cursor: str | None) -> dict[str, str]:
    return {} if cursor is None else {"Last-Event-ID": cursor}


TRANSPORTS: dict[str, Transport] = {
    transport.name: transport for transport in (NativeSSE(), NativeSocket(), ChatPost(), ChatGet(), ChatSocket())
}
ONE_CALL = (ChatPost.name, ChatGet.name)
