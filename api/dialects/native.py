"""The native SSE dialect: one block per event, with its id, its type and its data as stored.

LF only. Every block that a blank line ends has a data line: some clients fail on one without. So a keep-alive is
a comment with a single newline, and `retry:` rides in a block that has data.
"""

from api.outputs import CaughtUp, Events, Gap, KeepAlive, Output
from shared.events import Event, encode

KEEP_ALIVE = b": ka\n"
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}


class NativeEncoder:
    """See `api.dialects.encoder.Encoder`. `retry_ms` is sent with the first output that has data."""

    __slots__ = ("_prefix", "_retry")

    dialect = "native"
    over = False
    partial = False

    def __init__(self, retry_ms: int, prefix: bytes = b"") -> None:
        self._prefix = prefix
        self._retry = b"retry: %d\n" % retry_ms
        """Empty once it was sent."""

    @property
    def plain(self) -> bool:
        """Events are sent as they were published."""
        return not self._prefix

    def __call__(self, output: Output) -> bytes:
        data = encode_output(output, self._prefix)
        if self._retry and not isinstance(output, KeepAlive):  # which ends no block
            data, self._retry = self._retry + data, b""
        return data


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
            return _block("gap", gap_data(output, prefix.decode()), b"id: %b%b\n" % (prefix, str(output.id).encode()))
    return b""


def _prefixed(event: Event, prefix: bytes) -> bytes:
    head, id_, tail = event.frame.rpartition(b"\nid: ")
    return b"%b%b%b%b" % (head, id_, prefix, tail)


def gap_data(gap: Gap, prefix: str = "") -> dict[str, object]:
    return {
        "requested": f"{prefix}{gap.requested}",
        "earliest": f"{prefix}{gap.earliest}" if gap.earliest else None,
        "latest": f"{prefix}{gap.id}",
        "reason": gap.reason,
        "transcript": gap.transcript.model_dump(mode="json"),
    }


def _block(name: str, data: dict[str, object], more: bytes = b"") -> bytes:
    return b"event: %b\ndata: %b\n%b\n" % (name.encode(), encode(data), more)
