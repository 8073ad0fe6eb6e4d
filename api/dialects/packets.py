"""The native dialect over WebSocket: one JSON text frame per event, with its id, its type and its data as stored."""

from typing import Any

from api.dialects.native import gap_data
from api.outputs import CaughtUp, Events, Gap, KeepAlive, Output
from shared.errors import HoldfastError, TooMany
from shared.events import encode

Ref = str | int | None
"""What a client calls its command; it comes back with the reply."""

KEEP_ALIVE = '{"type":"keep_alive"}'


def encode_output(output: Output) -> list[str]:
    """The frames of one output; none for those that are ends."""
    match output:
        case Events(events):
            return [event.packet for event in events]
        case KeepAlive():
            return [KEEP_ALIVE]
        case CaughtUp(last):
            return [_frame({"type": "caught_up", "data": {"last_event_id": str(last)}})]
        case Gap():
            return [_frame({"id": str(output.id), "type": "gap", "data": gap_data(output)})]
    return []


def reply(ref: Ref, data: dict[str, Any]) -> str:
    return _frame({"type": "reply", "ref": ref, "data": data})


def pong(ref: Ref) -> str:
    return _frame({"type": "pong", "ref": ref})


def refusal(ref: Ref, error: HoldfastError) -> str:
    data: dict[str, Any] = {"code": error.code, "message": error.message}
    if isinstance(error, TooMany):
        data["retry_after_s"] = error.retry_after_s
    return _frame({"type": "error", "ref": ref, "data": data})


def _frame(value: dict[str, Any]) -> str:
    return encode(value).decode()
