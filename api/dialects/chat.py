"""The dialect of `/ws/chat`: flat JSON frames, made for a client of ten lines.

What stands in the log bears its `id`. An event that has no name of its own here keeps its own, with `_` for `.`.
"""

from typing import Any

from api.dialects.native import gap_data
from api.outputs import CaughtUp, Events, Gap, KeepAlive, Output
from shared.errors import HoldfastError
from shared.events import Event, EventType, encode

_NAMES: dict[str, str] = {
    EventType.STARTED: "started",
    EventType.TEXT: "chunk",
    EventType.REASONING: "reasoning",
    EventType.COMPLETED: "done",
    EventType.CANCELLED: "stopped",
    EventType.FAILED: "error",
}
_OWN_ID: dict[str, str] = {
    EventType.QUESTION: "question",
    EventType.ANSWER: "question",
    EventType.TOOL_CALL: "call",
    EventType.TOOL_RESULT: "call",
}
"""Events whose data has an `id` of its own, and what that is called here: `id` is the event's."""


def encode_output(output: Output) -> list[str]:
    """The frames of one output; none for those that are ends."""
    match output:
        case Events(events):
            return [_of(event) for event in events if event.type != EventType.PROVIDER_RUN]
        case KeepAlive():
            return [_frame("keep_alive")]
        case CaughtUp(last):
            return [_frame("caught_up", last_event_id=str(last))]
        case Gap():
            return [_frame("gap", id=str(output.id), **gap_data(output))]
    return []


def opened(sid: str, generation: str) -> str:
    return _frame("session", session=sid, generation=generation)


def refusal(error: HoldfastError) -> str:
    return _frame("error", code=error.code, message=error.message)


def _of(event: Event) -> str:
    data = {name: value for name, value in event.value.items() if name not in ("prev", "id", "type")}
    if event.type in _OWN_ID:
        data = {_OWN_ID[event.type]: event.value["id"], **data}
    return _frame(_NAMES.get(event.type, event.type.replace(".", "_")), id=str(event.id), **data)


def _frame(type_: str, /, **fields: Any) -> str:
    return encode({"type": type_, **fields}).decode()
