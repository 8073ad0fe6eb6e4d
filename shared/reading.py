"""Reading the log: every question about a session's keys. What many ask at one moment travels together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from shared import keys
from shared.compaction import after, event_of, split, upto
from shared.events import LIVE, Event
from shared.ids import EventId
from shared.pages import Page
from shared.redis import RedisError, transient
from shared.telemetry import get_logger
from shared.tracing import FIELD as TRACE
from shared.trips import Command, Trips
from shared.views import FIELDS, SessionView

_log = get_logger(__name__)

_SAID = """
-- KEYS[1] events stream, KEYS[2] session hash. ARGV: event id, field of the trace. Returns `at` of the event or nil,
-- TIME, and of the session epoch, generation, attempt and trace: all by the clock and in the moment of one server.
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
local at = false
if found then
  for i = 1, #found[2], 2 do
    if found[2][i] == 'at' then at = found[2][i + 1] end
  end
end
return { at, redis.call('TIME'), redis.call('HMGET', KEYS[2], 'epoch', 'generation', 'attempt', ARGV[2]) }
"""

_AT = """
-- KEYS[1] events stream. ARGV: event id. Returns `at` of the event or nil, and not its data: that may be large.
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not found then return false end
for i = 1, #found[2], 2 do
  if found[2][i] == 'at' then return found[2][i + 1] end
end
return false
"""


@dataclass(frozen=True)
class Said:
    """An event of the log, and the session it is of."""

    age_ms: int
    """Since it was appended, by Redis' clock."""
    epoch: int
    generation: str
    attempt: int
    trace: str
    """The `traceparent` of the newest turn, or empty."""


class Reading:
    """Questions about sessions. Every method may raise redis.exceptions.RedisError."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._trips = Trips(redis)

    async def ping(self) -> None:
        await self._redis.ping()

    async def view(self, sid: str) -> SessionView | None:
        values, exists = await self._trips.ask(keys.session(sid), *view_of(sid))
        return SessionView.of(values, bool(exists))

    async def opened_by(self, sid: str, nonce: str) -> tuple[str, EventId] | None:
        """The generation that a turn with this nonce has opened, and the id of its last message."""
        asked = ("HMGET", keys.session(sid), f"idem:{nonce}", f"at:{nonce}")
        ((generation, at),) = await self._trips.ask(keys.session(sid), asked)
        return (generation.decode(), EventId.parse(at.decode())) if generation and at else None

    def by_server(self, sids: Sequence[str], most: int) -> list[list[list[str]]]:
        """For each server, batches of at most `most` sessions that can be looked at together: in a Cluster, a master
        that is gone must not hide the sessions of the others."""
        lanes: dict[str, list[str]] = {}
        for sid in sids:
            lanes.setdefault(self._trips.lane(keys.session(sid)), []).append(sid)
        return [[lane[n : n + most] for n in range(0, len(lane), most)] for lane in lanes.values()]

    async def views(self, sids: Sequence[str]) -> list[SessionView | None]:
        """Views of many sessions, in their order; not atomic. One that is broken is logged, and None."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for sid in sids:
                for command in view_of(sid):
                    pipe.execute_command(*command)
            replies = await pipe.execute(raise_on_error=False)
        return [_lenient(sid, replies[2 * n], replies[2 * n + 1]) for n, sid in enumerate(sids)]

    async def heads(self, sids: Sequence[str]) -> list[tuple[bool, EventId] | None]:
        """For each session whether it is live and its last event id; None where it is gone. Cheaper than `views`."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for sid in sids:
                pipe.hmget(keys.session(sid), "state", "last")
            replies = await pipe.execute()
        return [(s.decode() in LIVE, EventId.parse(last.decode())) if last else None for s, last in replies]

    async def read(self, sid: str, cursor: EventId, count: int) -> tuple[SessionView | None, list[Event]]:
        """The session, and then what the log has after `cursor`, at most `count` entries.

        Less than `count` means that the log ends there. Deltas that are stored joined come as a Run. The session is no
        newer than the page, which is what `shared.reader` needs. (A MULTI would be refused while the memory is full.)
        """
        asked = ("XRANGE", keys.events(sid), f"({cursor}", "+", b"COUNT", count)
        values, exists, entries = await self._trips.ask(keys.session(sid), *view_of(sid), asked, weight=count)
        return SessionView.of(values, bool(exists)), after(cursor, [event_of(*entry) for entry in entries])

    async def page(self, sid: str, cursor: EventId, count: int, burst_bytes: int) -> tuple[SessionView | None, Page]:
        """The same for many readers at once, and with neighbouring deltas as one, about `burst_bytes` of them at most.
        The page says itself whether the log ends there."""
        asked = (b"XRANGE", keys.events(sid), f"({cursor}", "+", b"COUNT", count)  # in bytes: redis-py leaves it raw
        values, exists, entries = await self._trips.ask(keys.session(sid), *view_of(sid), asked, weight=count)
        return SessionView.of(values, bool(exists)), Page(cursor, entries, count, burst_bytes)

    async def last_event(self, sid: str) -> tuple[SessionView | None, Event | None, EventId | None]:
        """The session, and then the newest event and the id of the oldest one kept."""
        events = keys.events(sid)
        ends = [("XREVRANGE", events, "+", "-", b"COUNT", 1), ("XRANGE", events, "-", "+", b"COUNT", 1)]
        values, exists, newest, oldest = await self._trips.ask(keys.session(sid), *view_of(sid), *ends)
        view = SessionView.of(values, bool(exists))
        if not newest or not oldest:
            return view, None, None
        return view, split([event_of(*newest[0])])[-1], split([event_of(*oldest[0])])[0].id

    async def times(self, events: Sequence[tuple[str, EventId]]) -> list[int | None]:
        """Of events of many sessions the ms at which each was appended; None where the log has it no longer."""
        if not events:
            return []
        async with self._redis.pipeline(transaction=False) as pipe:
            for sid, event_id in events:
                pipe.execute_command("EVAL", _AT, 1, keys.events(sid), str(event_id))
            replies = await pipe.execute()
        return [None if at is None else int(at) for at in replies]

    async def said(self, sid: str, event_id: EventId) -> Said | None:
        """How long ago the event was appended; None where the log has it no longer."""
        asked = (_SAID, 2, keys.events(sid), keys.session(sid), str(event_id), TRACE)
        at, (seconds, micros), values = await self._redis.eval(*asked)
        if at is None:
            return None
        epoch, generation, attempt, trace = ((value or b"").decode() for value in values)
        age_ms = int(seconds) * 1000 + int(micros) // 1000 - int(at)
        return Said(age_ms, int(epoch or 0), generation, int(attempt or 0), trace)

    async def events(
        self, sid: str, until: EventId | None = None, page: int = 1000, *, joined: bool = False
    ) -> list[Event]:
        """The whole log as it is kept, up to `until`; read in pages.

        `joined`: deltas that are stored joined come as a Run, which is cheaper, and all the same to `fold`.
        """
        found: list[Event] = []
        start = "-"
        while True:
            asked = ("XRANGE", keys.events(sid), start, "+", b"COUNT", page)
            (entries,) = await self._trips.ask(keys.session(sid), asked, weight=page)
            if not entries:
                break
            found += (event_of(*entry) for entry in entries)
            start = f"({found[-1].id}"
            if until is not None and found[-1].id >= until:
                break
        found = found if until is None else upto(until, found)
        return found if joined else split(found)


def view_of(sid: str) -> tuple[Command, Command]:
    """What a SessionView is made of the replies to."""
    return ("HMGET", keys.session(sid), *FIELDS), ("EXISTS", keys.events(sid))


def _lenient(sid: str, values: Any, exists: Any) -> SessionView | None:
    """One broken hash must not keep a reaper from all the others."""
    try:
        for reply in (values, exists):
            if isinstance(reply, Exception):
                raise reply
        return SessionView.of(values, bool(exists))
    except (ResponseError, ValueError) as error:
        if isinstance(error, RedisError) and transient(error):  # it is not the session that is broken
            raise
        _log.error("session cannot be read", session=sid, error=str(error))
        return None
