"""Compaction: neighbouring deltas of a log as one entry, and back again to the byte. Pure.

The entry of a run has type, id and `at` of its last delta, the texts of all of them as `data`, and one more field:
`run`, one piece per delta, such as `5 3 12+40`: five bytes, three said in the same ms, and twelve said 40 ms later.
The bytes are those that stand in the JSON, escapes and all. So nothing is decoded, and what is split again is what was
joined, whoever encoded it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from shared.events import DELTAS, Event
from shared.ids import EventId

RUN_DELTAS: Final = 256
"""Most deltas of one run."""
RUN_BYTES: Final = 4096
"""Most text of one run, so that reading one entry stays small."""

Entry = tuple[bytes, Mapping[bytes, bytes]]
"""One entry of a stream as Redis gives it: id, fields."""

_OPEN, _CLOSE = b'{"text":"', b'"}'
PLAIN = re.compile(rb'\{"text":"(?:[^"\\\x00-\x1f]++|\\["\\bfnrt]|\\u00[01][0-9a-f])*+"\}')
"""Data that is a text and nothing else. Two such texts can be joined, and cut anywhere they were."""
_PIECE = re.compile(rb"(\d+)([+-]\d+)?")
_FIELDS = {b"type", b"data", b"at"}
_TYPES = {delta.encode() for delta in DELTAS}


@dataclass(eq=False, slots=True)
class Run(Event):
    """Deltas that are stored joined: as an event it is what merging them gives. It bears the last one's id."""

    pieces: bytes = b""
    """How to split it, as stored. Of the first piece only the size counts."""

    @property
    def count(self) -> int:
        return self.pieces.count(b" ") + 1

    @property
    def before(self) -> EventId:
        return EventId(self.id.epoch, self.id.seq - self.count)

    def follows(self, cursor: EventId) -> bool:
        return cursor == self.before

    def split(self) -> list[Event]:
        """The deltas as they were appended."""
        pieces = [(int(size), int(pause or 0)) for size, pause in _PIECE.findall(self.pieces)]
        at = self.at - sum(pause for _, pause in pieces[1:])
        deltas: list[Event] = []
        start = len(_OPEN)
        for n, (size, pause) in enumerate(pieces):
            at += pause if n else 0
            data = b"%b%b%b" % (_OPEN, self.data[start : start + size], _CLOSE)
            deltas.append(Event(EventId(self.id.epoch, self.before.seq + 1 + n), self.type, data, at))
            start += size
        return deltas

    def after(self, cursor: EventId) -> "Run":
        """Without the deltas up to `cursor`, which is one of its own, but the last, or the one before it."""
        left_out = cursor.seq - self.before.seq
        pieces = self.pieces.split(b" ")
        start = sum(int(size) for size, _ in _PIECE.findall(b" ".join(pieces[:left_out])))
        data = _OPEN + self.data[len(_OPEN) + start :]
        return Run(self.id, self.type, data, self.at, b" ".join(pieces[left_out:]))


def event_of(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Event:
    """The event of one entry; a Run where it holds several."""
    epoch, _, seq = entry_id.partition(b"-")
    event_id, at = EventId(int(epoch), int(seq)), int(fields.get(b"at", 0))
    if (pieces := fields.get(b"run")) is not None:
        return Run(event_id, fields[b"type"].decode(), fields[b"data"], at, pieces)
    return Event(event_id, fields[b"type"].decode(), fields[b"data"], at)


def text_of(data: bytes) -> bytes:
    """The text of plain data, as it stands in the JSON."""
    return data[len(_OPEN) : -len(_CLOSE)]


def of_text(text: bytes) -> bytes:
    """Plain data of a text, as it is to stand in the JSON."""
    return _OPEN + text + _CLOSE


def count(event: Event) -> int:
    """How many events of the log it stands for."""
    return event.count if isinstance(event, Run) else 1


def split(events: Iterable[Event]) -> list[Event]:
    """Every event as it was appended."""
    deltas: list[Event] = []
    for event in events:
        if isinstance(event, Run):
            deltas += event.split()
        else:
            deltas.append(event)
    return deltas


def after(cursor: EventId, events: list[Event]) -> list[Event]:
    """What lies after `cursor` of `events`, all of which end after it."""
    match events:
        case [Run() as run, *rest] if run.before < cursor:
            return [run.after(cursor), *rest]
    return events


def upto(end: EventId, events: list[Event]) -> list[Event]:
    """What lies up to and with `end`."""
    kept = [event for event in events if event.id <= end]
    match events[len(kept) :]:
        case [Run() as run, *_]:
            return kept + [delta for delta in run.split() if delta.id <= end]
    return kept


class Joiner:
    """Takes the entries of a log in order, and gives them back with the neighbouring deltas of each epoch joined.

    What is no delta, or one with more to say than its text, comes back as it was; so do runs, joined before.
    """

    def __init__(self) -> None:
        self.taken = self.given = 0
        """Entries so far."""
        self._run: list[Entry] = []
        self._open = False
        """Whether the last entry taken is one that others can be joined to."""
        self._bytes = 0
        """Of data in the run."""

    def take(self, entries: Iterable[Entry]) -> list[Entry]:
        """The next entries. Gives what is finished; the rest comes with a later call."""
        out: list[Entry] = []
        for entry in entries:
            self.taken += 1
            joinable = _joinable(entry[1])
            if not (self._open and joinable and self._next(entry)):
                out += self._sealed()
            self._run.append(entry)
            self._open = joinable
            self._bytes += len(entry[1].get(b"data", b""))
        self.given += len(out)
        return out

    def done(self) -> list[Entry]:
        """What is left at the end of the log."""
        out = self._sealed()
        self.given += len(out)
        return out

    def _next(self, entry: Entry) -> bool:
        """Whether a joinable entry goes on with the run."""
        last_id, last = self._run[-1]
        return (
            len(self._run) < RUN_DELTAS
            and self._bytes + len(entry[1][b"data"]) <= RUN_BYTES
            and entry[1][b"type"] == last[b"type"]
            and entry[0] == _following(last_id)
        )

    def _sealed(self) -> list[Entry]:
        run, self._run, self._bytes = self._run, [], 0
        return [_joined(run)] if len(run) > 1 else run


def _following(entry_id: bytes) -> bytes:
    epoch, _, seq = entry_id.partition(b"-")
    return b"%b-%d" % (epoch, int(seq) + 1)


def _joinable(fields: Mapping[bytes, bytes]) -> bool:
    return (
        fields.keys() == _FIELDS
        and fields[b"type"] in _TYPES
        and fields[b"at"].isdigit()
        and PLAIN.fullmatch(fields[b"data"]) is not None
    )


def _joined(run: list[Entry]) -> Entry:
    texts = [fields[b"data"][len(_OPEN) : -len(_CLOSE)] for _, fields in run]
    ats = [int(fields[b"at"]) for _, fields in run]
    pauses = [0, *(at - before for before, at in pairwise(ats))]
    pieces = [b"%d%b" % (len(t), b"%+d" % pause if pause else b"") for t, pause in zip(texts, pauses, strict=True)]
    entry_id, fields = run[-1]
    data = _OPEN + b"".join(texts) + _CLOSE
    return entry_id, {b"type": fields[b"type"], b"data": data, b"at": fields[b"at"], b"run": b" ".join(pieces)}
