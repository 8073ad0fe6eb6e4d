"""The native SSE dialect: one block per event, with its id, its type and its data as stored.

LF only. Every block that a blank line ends has a data line: some clients fail on one without. So a keep-alive is
a comment with a single newline, and `retry:` rides in a block that has data.
"""

from api.delivery import CaughtUp, Events, Gap, KeepAlive, Output
from shared.events import Event, encode

KEEP_ALIVE = b": ka\n"
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}


def encode_output(output: Output, prefix: bytes = b"") -> bytes:
    """The bytes of one output; empty for those that are ends, not bytes. `prefix` is put before every id."""
    match output:
        case Events(events):
            return b"".join([event.frame if not prefix else _prefixed(event, prefix) for event in events])
        case KeepAlive():
            return KEEP_ALIVE
        case CaughtUp(last):
            return _block("caught_up", {"last_event_id": prefix.decode() + str(last)})
        case Gap():
            return b"id: %b%b\n" % (prefix, str(output.id).encode()) + _block("gap", gap_data(output, prefix.decode()))
    return b""


def _prefixed(event: Event, prefix: bytes) -> bytes:
    return b"id: %b%b" % (prefix, event.frame.removeprefix(b"id: "))


def gap_data(gap: Gap, prefix: str = "") -> dict[str, object]:
    return {
        "requested": f"{prefix}{gap.requested}",
        "earliest": f"{prefix}{gap.earliest}" if gap.earliest else None,
        "latest": f"{prefix}{gap.id}",
        "reason": gap.reason,
        "transcript": gap.transcript.model_dump(mode="json"),
    }


def retry_line(retry_ms: int) -> bytes:
    """To be put right before the first block that has data."""
    return b"retry: %d\n" % retry_ms


def _block(name: str, data: dict[str, object]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode(data))
