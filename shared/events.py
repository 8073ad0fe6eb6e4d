"""Events: the entries of a session's log, and what their types mean. Pure values."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from pydantic_core import PydanticSerializationError, from_json, to_json

from shared.errors import InvalidEventId
from shared.ids import EVENT_ID, EventId, chains


class EventType(StrEnum):
    MESSAGE = "message"
    STARTED = "generation.started"
    STATUS = "status"
    TEXT = "text.delta"
    REASONING = "reasoning.delta"
    TOOL_CALL = "tool.call"
    TOOL_RESULT = "tool.result"
    SOURCE = "source"
    DATA = "data"
    QUESTION = "question"
    ANSWER = "answer"
    USAGE = "usage"
    PROVIDER_RUN = "provider.run"
    COMPLETED = "generation.completed"
    FAILED = "generation.failed"
    CANCELLED = "generation.cancelled"


class State(StrEnum):
    """State of a session: of its newest generation."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


DELTAS: Final = frozenset({EventType.TEXT, EventType.REASONING})
TERMINALS: Final = {
    EventType.COMPLETED: State.COMPLETED,
    EventType.FAILED: State.FAILED,
    EventType.CANCELLED: State.CANCELLED,
}
"""The event that ends a generation → the state it leaves. Exactly one of them per generation."""
LIVE: Final = frozenset({State.QUEUED, State.RUNNING, State.WAITING})


def encode(data: Mapping[str, Any]) -> bytes:
    """Event data as one line of JSON. A lone surrogate becomes U+FFFD: it has no UTF-8.

    Raises PydanticSerializationError for what JSON cannot say.
    """
    try:
        return to_json(data, inf_nan_mode="null")
    except (PydanticSerializationError, UnicodeEncodeError):
        return to_json(_mended(data), inf_nan_mode="null")


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {_mended(name): _mended(item) for name, item in value.items()}
    return [_mended(item) for item in value] if isinstance(value, list | tuple) else value


@dataclass(eq=False, slots=True)
class Event:
    """One entry of the log. `data` is the JSON as stored, passed through unread wherever possible."""

    id: EventId
    type: str
    data: bytes
    at: int = 0
    """ms since 1970, by Redis' clock. 0 where it was not asked for."""
    _value: dict[str, Any] | None = field(default=None, init=False, repr=False)
    _frame: bytes | None = field(default=None, init=False, repr=False)
    _packet: str | None = field(default=None, init=False, repr=False)

    @property
    def value(self) -> dict[str, Any]:
        """The data, decoded."""
        if self._value is None:
            self._value = from_json(self.data)
        return self._value

    @property
    def frame(self) -> bytes:
        """The event as an SSE reader is sent it; also the form in which scripts publish it.

        The id comes last: some clients keep it once they have read its line, and would miss an event cut after it. (One
        that lacks no more than its very last byte they still miss.)
        """
        if self._frame is None:
            self._frame = b"event: %b\ndata: %b\nid: %b\n\n" % (self.type.encode(), self.data, str(self.id).encode())
        return self._frame

    @property
    def packet(self) -> str:
        """The event as a WebSocket reader is sent it."""
        if self._packet is None:
            self._packet = f'{{"id":"{self.id}","type":"{self.type}","data":{self.data.decode()}}}'
        return self._packet

    @property
    def prev(self) -> EventId | None:
        """The id before this one; only the first event of an epoch says it. None too where it says none that is one:
        such an event chains to nothing."""
        if self.id.seq != 1:
            return None
        try:
            return EventId.parse(self.value["prev"])
        except (InvalidEventId, ValueError, KeyError, TypeError):
            return None

    @property
    def before(self) -> EventId:
        """The id of the event right before this one in the log."""
        return self.prev or EventId(self.id.epoch, self.id.seq - 1)

    @property
    def terminal(self) -> bool:
        return self.type in TERMINALS

    def follows(self, cursor: EventId) -> bool:
        return chains(cursor, self.id, self.prev if self.id.seq == 1 else None)

    def __repr__(self) -> str:
        return f"<{self.id} {self.type} {self.data.decode(errors='replace')}>"


_FRAME = re.compile(rb"event: ([^\n]+)\ndata: ([^\n]+)\nid: %b\n\n" % EVENT_ID.encode())
_TEXT = EventType.TEXT.value
_DELTA_HEAD = b"event: text.delta\ndata: "
_TYPES = {type_.value.encode(): type_.value for type_ in EventType}
"""So that the events of a ring share them."""


def published(payload: bytes) -> list[Event]:
    """The events of one published batch. The frames are kept as they came. Raises ValueError where they are none."""
    events: list[Event] = []
    start, end = 0, len(payload)
    while start < end:
        found = _FRAME.match(payload, start)
        if found is None:
            raise ValueError(f"no frame at byte {start} of what was published")
        type_, data, epoch, seq = found.groups()
        event_id = tuple.__new__(EventId, (int(epoch), int(seq)))  # EventId(…) takes twice as long
        event = Event(event_id, _TYPES.get(type_) or type_.decode(), data)
        stop = found.end()
        event._frame = payload[start:stop]
        events.append(event)
        start = stop
    return events


def next_delta(payload: bytes, cursor: EventId) -> Event | None:
    """The event of a batch that is one text delta, and the next one after `cursor`, as most batches are. None: it is
    another one, or none of ours: `published` tells."""
    epoch, seq = cursor
    tail = b"\nid: %d-%d\n\n" % (epoch, seq + 1)
    begin, end = len(_DELTA_HEAD), len(payload) - len(tail)
    if (
        not payload.endswith(tail)
        or not payload.startswith(_DELTA_HEAD)
        or payload.find(b"\n", begin) != end
        or end <= begin
    ):
        return None
    event = Event(tuple.__new__(EventId, (epoch, seq + 1)), _TEXT, payload[begin:end])
    event._frame = payload
    return event


def chained(cursor: EventId, events: list[Event]) -> list[Event]:
    """The longest head of `events` that chains from `cursor` on."""
    for n, event in enumerate(events):
        if not event.follows(cursor):
            return events[:n]
        cursor = event.id
    return events


def merged(events: list[Event]) -> list[Event]:
    """Neighbouring deltas of one kind as one event that bears the last one's id. Everything else unchanged."""
    out: list[Event] = []
    run: list[Event] = []
    for event in events:
        if run and event.type != run[0].type:
            out.append(_joined(run))
            run = []
        if event.type in DELTAS:
            run.append(event)
        else:
            out.append(event)
    if run:
        out.append(_joined(run))
    return out


def _joined(run: list[Event]) -> Event:
    if len(run) == 1:
        return run[0]
    text = "".join([from_json(event.data)["text"] for event in run])  # not .value: nobody asks these again
    return Event(run[-1].id, run[-1].type, encode({"text": text}), run[-1].at)
