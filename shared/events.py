"""Events: the entries of a session's log, and what their types mean. Pure values."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

from pydantic_core import PydanticSerializationError, from_json, to_json

from shared.ids import EventId, chains


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


@dataclass(eq=False)
class Event:
    """One entry of the log. `data` is the JSON as stored, passed through unread wherever possible."""

    id: EventId
    type: str
    data: bytes
    at: int = 0
    """ms since 1970, by Redis' clock. 0 where it was not asked for."""

    @cached_property
    def value(self) -> dict[str, Any]:
        """The data, decoded."""
        value: dict[str, Any] = from_json(self.data)
        return value

    @cached_property
    def frame(self) -> bytes:
        """The event as an SSE reader is sent it; also the form in which scripts publish it."""
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (str(self.id).encode(), self.type.encode(), self.data)

    @cached_property
    def packet(self) -> str:
        """The event as a WebSocket reader is sent it."""
        return f'{{"id":"{self.id}","type":"{self.type}","data":{self.data.decode()}}}'

    @property
    def prev(self) -> EventId | None:
        """The id before this one; only the first event of an epoch says it."""
        return EventId.parse(self.value["prev"]) if self.id.seq == 1 else None

    @property
    def before(self) -> EventId:
        """The id of the event right before this one in the log."""
        return self.prev or EventId(self.id.epoch, self.id.seq - 1)

    @property
    def terminal(self) -> bool:
        return self.type in TERMINALS

    def follows(self, cursor: EventId) -> bool:
        return chains(cursor, self.id, self.prev)

    def __repr__(self) -> str:
        return f"<{self.id} {self.type} {self.data.decode(errors='replace')}>"


def published(payload: bytes) -> list[Event]:
    """The events of one published batch. The frames are kept as they came."""
    return [_of_frame(frame) for frame in payload.split(b"\n\n")[:-1]]


def _of_frame(frame: bytes) -> Event:
    id_line, type_line, data_line = frame.split(b"\n")
    event = Event(EventId.parse(id_line[4:].decode()), type_line[7:].decode(), data_line[6:])
    event.frame = frame + b"\n\n"
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
