"""Pages: what one read of the log gives. Neighbouring deltas are decoded as one, because most readers want them so."""

from collections.abc import Sequence
from functools import cached_property
from typing import Final

from shared.compaction import PLAIN, Run, after, event_of, of_text, text_of
from shared.events import DELTAS, Event
from shared.ids import EventId

RawEntry = tuple[bytes, list[bytes]]
"""One entry of a stream as it comes from Redis: its id, and its fields' names and values in turn."""

_DELTAS: Final = frozenset(delta.encode() for delta in DELTAS)
_NAMES: Final = [b"type", b"data", b"at"]
_ENTRY_BYTES: Final = 200
"""About what an entry takes in memory beside its data."""


class Burst(Run):
    """Deltas of one kind that follow one another in the log, and were read together: a Run, made by the reader."""

    def __init__(self, last: EventId, entries: Sequence[RawEntry]) -> None:
        _, fields = entries[-1]
        data = of_text(b"".join([text_of(each[3]) for _, each in entries]))
        super().__init__(last, fields[1].decode(), data, int(fields[5]))
        self._entries = entries

    @property
    def count(self) -> int:
        return len(self._entries)

    @cached_property
    def deltas(self) -> list[Event]:
        """What it is made of: made once for all who want that."""
        first = self.before.seq + 1
        return [
            Event(EventId(self.id.epoch, first + n), self.type, fields[3], int(fields[5]))
            for n, (_, fields) in enumerate(self._entries)
        ]

    def split(self) -> list[Event]:
        return self.deltas

    def after(self, cursor: EventId) -> Run:
        return Burst(self.id, self._entries[cursor.seq - self.before.seq :])


class Page(list[Event]):
    """Events in the log's order; Runs among them stand for many. `entries` of the log were read for it.

    `full`: as many as were asked for, so that more may follow. Otherwise the log ended with it.
    """

    __slots__ = ("entries", "full")

    def __init__(self, cursor: EventId, entries: Sequence[RawEntry], asked: int, burst_bytes: int) -> None:
        super().__init__(after(cursor, decode(entries, burst_bytes)))
        self.entries = len(entries)
        self.full = self.entries >= asked

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes."""
        return sum(len(event.data) for event in self) * 2 + self.entries * _ENTRY_BYTES


def aligned(cursor: EventId, count: int) -> int:
    """How many entries to ask for after `cursor`, `count` at most: so many that readers who came with different cursors
    soon ask for the same pages, which end where the number of an event can be divided by `count`."""
    quarter, left = count // 4, count - cursor.seq % count
    return left if left >= quarter else left + 3 * quarter


def decode(entries: Sequence[RawEntry], burst_bytes: int) -> list[Event]:
    """The events of neighbouring entries. Raises ValueError, KeyError for what is no event.

    `burst_bytes`: about the most data of what is decoded as one.
    """
    events: list[Event] = []
    n = 0
    while n < len(entries):
        end = _joinable(entries, n, burst_bytes)
        if end - n > 1 and (last := _dense(entries[n][0], entries[end - 1][0], end - n)) is not None:
            events.append(Burst(last, entries[n:end]))
        else:
            end = max(end, n + 1)
            events += [_event(entry) for entry in entries[n:end]]
        n = end
    return events


def _joinable(entries: Sequence[RawEntry], start: int, most_bytes: int) -> int:
    """Where the deltas end that begin at `start`, are of one kind, and are texts and nothing else."""
    kind = entries[start][1][1]
    if kind not in _DELTAS:
        return start
    size = 0
    for n in range(start, len(entries)):
        fields = entries[n][1]
        if fields[1] != kind or fields[::2] != _NAMES or PLAIN.fullmatch(fields[3]) is None:
            return n
        size += len(fields[3])
        if size >= most_bytes:
            return n + 1
    return len(entries)


def _dense(first: bytes, last: bytes, count: int) -> EventId | None:
    """The last id, if `count` entries from `first` to `last` leave nothing out: in a stream ids only grow."""
    (epoch, first_seq), (last_epoch, last_seq) = _numbers(first), _numbers(last)
    return EventId(last_epoch, last_seq) if epoch == last_epoch and last_seq - first_seq == count - 1 else None


def _numbers(entry_id: bytes) -> tuple[int, int]:
    epoch, _, seq = entry_id.partition(b"-")
    return int(epoch), int(seq)


def _event(entry: RawEntry) -> Event:
    entry_id, fields = entry
    return event_of(entry_id, dict(zip(fields[::2], fields[1::2], strict=True)))
