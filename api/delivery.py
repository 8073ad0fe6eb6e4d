"""Delivery: decides what one reader gets. Every transport and dialect sends what comes out of here, no more."""

import asyncio
from collections.abc import AsyncGenerator

from api.audience import WRITE_BYTES, Listener
from api.counts import NONE
from api.feed import Feed
from api.hub import Hub, Reader
from api.outputs import CaughtUp, Cut, End, Events, Gap, Idle, KeepAlive, Nothing, Output, Refused
from shared.compaction import count, split
from shared.errors import SessionExpired, SessionNotFound, TooManyStreams
from shared.events import Event, chained, merged
from shared.ids import START, EventId, generation_number
from shared.pages import Page
from shared.reader import Verdict, decide
from shared.redis import RedisError
from shared.telemetry import get_logger
from shared.transcript import Transcript, fold

_log = get_logger(__name__)

REDIS_AWAY_S = 0.5
HEAL_POLL_S = 1.0
FIRST_PAGE = 400
BEHIND = 32
"""A reader that has this many events to catch up with is slow: it gets them merged, in fewer and larger ones."""


class Delivery:
    """One reader of one session: a cursor that moves through the log, and, once there, through the feed's ring."""

    __slots__ = (
        "_ahead_since", "_arrived", "_beat", "_caller", "_caught_up", "_count", "_final", "_follow", "_hub", "_merge",
        "_on_ring", "_owner", "_reader", "_replayed", "_sent", "_sid", "_target", "_version", "cursor", "idles", "kind",
        "over",
    )  # fmt: skip

    def __init__(
        self, hub: Hub, sid: str, caller: str, cursor: EventId, *, follow: bool, merge: bool, owner: str | None = None
    ) -> None:
        """`owner`: whose the session is, where that is not who reads it."""
        self.cursor = cursor
        self.idles = False
        """Whoever reads is able to join an audience, and is given Idle where otherwise `next` would wait."""
        self.kind = NONE
        """Transport and dialect, for the counts; set by whoever reads, before it asks for more."""
        self.over = False
        """The last output was given: it was End, Nothing, Refused or Cut, and none follows."""
        self._hub = hub
        self._sid = sid
        self._caller = caller
        self._owner = caller if owner is None else owner
        self._follow = follow
        self._merge = merge
        self._arrived = False
        """Counted among the streams of its caller."""
        self._reader: Reader | None = None
        """None until it may read; and after the end."""
        self._target = 0
        """Number of the generation that was current on arrival: its terminal, or a later one, ends the stream."""
        self._sent = False
        self._caught_up = False
        self._replayed = 0
        """Events from the log so far; meaningful until it has caught up."""
        self._on_ring = False
        self._version = 0
        """Of the feed when the log was last asked; meaningful while on the ring."""
        self._count = min(FIRST_PAGE, hub.settings.replay_page)
        """Entries to ask the log for next."""
        self._ahead_since: float | None = None
        self._beat = hub.beat
        self._final: Output | None = None

    async def outputs(self) -> AsyncGenerator[Output, None]:
        """What to send, in order, up to the last. Cancelling it leaves nothing behind."""
        try:
            while not self.over:
                handed = [await self.next()]
                yield handed.pop()  # it is the client's now: not kept here while that takes its time
        finally:
            self.close()

    async def next(self) -> Output:
        """What to send next. Redis being away only delays it. Cancelled, it can be asked again.

        Whoever calls it must `close` in the end.
        """
        while self._final is None:
            output = await (self._arrive() if self._reader is None else self._advance(self._reader))
            if output is not None:
                self._beat = self._hub.beat
                self._sent = self._reader is not None
                return output
        self.over = True
        return self._final

    def close(self) -> None:
        """Nothing of it is left in the hub. May be called again."""
        self._hub.outage.left(self)
        if self._reader is not None:
            self._hub.leave(self._reader)
            self._reader = None
            self._hub.counts.readers[self.kind] -= 1
            if not self._caught_up:
                self._hub.counts.replays.observe(self._replayed)
        if self._arrived:
            self._arrived = False
            self._hub.streams.leave(self._caller)

    # -- the audience

    @property
    def in_audience(self) -> bool:
        return self._reader is not None and self._reader.listener is not None

    def join_audience(self, listener: Listener) -> bool:
        """To be called as soon as Idle was given. False: there is something to send by now: ask `next`."""
        reader = self._reader
        if reader is None or reader.kicked or not reader.feed.audience.join(listener, self.cursor):
            return False
        reader.listener = listener
        return True

    def leave_audience(self) -> bool:
        """The cursor is where the audience is. False: it was not there."""
        reader = self._reader
        if reader is None or reader.listener is None:
            return False
        audience = reader.feed.audience
        audience.leave(reader.listener)
        reader.listener = None
        self.cursor = audience.at
        return True

    # -- arriving

    async def _arrive(self) -> Output | None:
        if not self._arrived:
            try:
                self._hub.streams.enter(self._caller)
            except TooManyStreams as error:
                self._final = Refused(error)
                return None
            self._arrived = True
        view = await self._view()
        if view is None:
            return KeepAlive()
        if isinstance(view, Refused):
            self._final = view
            return None
        self._target = view
        self._reader = self._hub.enter(self._sid)
        self._hub.counts.arrived(self.kind, resumes=self.cursor != START)
        return None

    async def _view(self) -> int | Refused | None:
        """The generation that is current now; None: Redis is away, ask again."""
        try:
            view = await self._hub.log.view(self._sid)
        except RedisError as error:
            self._hub.outage.failed(self, error)
            await asyncio.sleep(REDIS_AWAY_S)
            return None
        self._hub.outage.passed(self)
        if view is None or view.principal != self._owner:  # an id is no capability
            return Refused(SessionNotFound(self._sid))
        return generation_number(view.generation)

    # -- reading

    async def _advance(self, reader: Reader) -> Output | None:
        try:
            await self._hub.joined(reader.feed, self.cursor, self._count)
            return await self._step(reader)
        except (RedisError, TimeoutError) as error:  # joining failed: the client comes back
            _log.warning(
                "feed could not be joined", session=self._sid, generation=f"g{self._target}", error=str(error),
                rare=True,
            )  # fmt: skip
            self._final = self._final or Cut()
            return await self._parting()

    async def _step(self, reader: Reader) -> Output | None:
        """One output, or None where nothing is to be sent yet."""
        if reader.kicked:
            self._final = Cut()
            return await self._parting()
        if self._on_ring:
            return await self._from_ring(reader)
        try:
            output = await self._from_log(reader)
        except RedisError as error:
            self._hub.outage.failed(self, error)
            await asyncio.sleep(REDIS_AWAY_S)
            return KeepAlive()
        self._hub.outage.passed(self)
        return output

    async def _parting(self) -> Output | None:
        """For a client that is sent away before it got anything: a page of the log. It comes back
        with a cursor then, and no connection was for nothing."""
        if self._sent:
            return None
        try:
            view, page = await self._hub.read(self._sid, self.cursor, self._count)
        except RedisError:
            return None
        return self._page(page) if decide(self.cursor, view, page, False).verdict is Verdict.SEND else None

    # -- the ring

    async def _from_ring(self, reader: Reader) -> Output | None:
        feed = reader.feed
        events = feed.after(self.cursor) if feed.version == self._version else None
        if events is None:
            self._on_ring = False
            return None
        if events:
            behind = len(events) >= BEHIND
            return self._take(_one_write(events), merge=self._merge and behind, of=feed)
        if not self._caught_up:
            self._caught_up = True
            self._hub.counts.replays.observe(self._replayed)
            return CaughtUp(self.cursor)
        if self.idles and self.cursor == feed.last:
            return Idle()
        heard = feed.heard
        await feed.changed()
        if feed.heard != heard and self.cursor != feed.last and not feed.after(self.cursor):
            self._on_ring = False  # the feed looked at the log, and is elsewhere
        return KeepAlive() if self._beat != self._hub.beat and not feed.after(self.cursor) else None

    # -- the log

    async def _from_log(self, reader: Reader) -> Output | None:
        self._version = reader.feed.version
        view, page = await self._hub.read(self._sid, self.cursor, self._count)
        decision = decide(self.cursor, view, page, await self._hub.owner_alive(self.cursor, view))
        if decision.verdict is not Verdict.HEALING:
            self._ahead_since = None
        match decision.verdict:
            case Verdict.SEND:
                return self._page(page)
            case Verdict.WAIT:
                return await self._wait(reader)
            case Verdict.END:
                return await self._end(reader)
            case Verdict.HEALING:
                return await self._heal(reader)
            case Verdict.GAP:
                return await self._gap(reader, decision.reason)
            case Verdict.MISSING:
                self._final = Cut() if self._sent else Refused(SessionNotFound(self._sid))
            case Verdict.EXPIRED:
                self._final = Cut() if self._sent else Refused(SessionExpired(self._sid))
        return None

    def _page(self, page: Page) -> Output:
        events = self._cut(chained(self.cursor, page))
        self._on_ring = len(events) == len(page) and not page.full
        self._count = self._next_count(page)
        return self._take(events, merge=True) if self._merge else self._take(split(events))

    def _cut(self, events: list[Event]) -> list[Event]:
        """As many as make one write; the rest is read again."""
        settings = self._hub.settings
        size = number = 0
        for n, event in enumerate(events):
            size += len(event.data)
            number += count(event)
            if n and (size > settings.replay_bytes or (number > settings.replay_page and not self._merge)):
                return events[:n]
        return events

    def _next_count(self, page: Page) -> int:
        """Pages grow quickly from a small one, and shrink where entries are large: no write is to be huge."""
        settings = self._hub.settings
        average = sum(len(event.data) for event in page) // page.entries + 1
        events = 1 if self._merge else sum(map(count, page)) // page.entries
        return max(1, min(self._count * 4, settings.replay_page // events, settings.replay_bytes // average))

    async def _wait(self, reader: Reader) -> Output | None:
        if reader.feed.after(self.cursor) is not None:
            self._on_ring = True
            return None
        await reader.feed.changed()  # the feed is elsewhere; it will look, and then one of us moves
        return None

    async def _end(self, reader: Reader) -> Output | None:
        if self._follow:
            return await self._wait(reader)
        self._final = End() if self._sent else Nothing()
        return None

    async def _heal(self, reader: Reader) -> Output:
        """Ahead of the log: its writer will say the tail again, if it lives."""
        now = asyncio.get_running_loop().time()
        self._ahead_since = self._ahead_since or now
        if now - self._ahead_since > self._hub.settings.heal_wait_s:
            self._ahead_since = None
            return await self._gap(reader, "ahead") or KeepAlive()
        await asyncio.sleep(HEAL_POLL_S)
        return KeepAlive()

    async def _gap(self, reader: Reader, reason: str) -> Output | None:
        await self._hub.settle(reader.feed)  # the ring must not give out what a failover took back
        sharing, log = self._hub.sharing, self._hub.log
        view, newest, earliest = await sharing.one(("last", self._sid), lambda: log.last_event(self._sid))
        if view is None:
            return None  # the next look says missing
        if not view.live and newest is None:
            self._final = Cut() if self._sent else Refused(SessionExpired(self._sid))
            return None
        over = not view.live and newest is not None
        latest = newest.before if over and newest is not None else view.last
        transcript = await sharing.one(("transcript", self._sid, latest), lambda: self._transcript(latest))
        requested, self.cursor = self.cursor, latest
        self._hub.counts.gaps[(reason,)] += 1
        _log.info(
            "gap", session=self._sid, generation=view.generation, attempt=view.attempt, reason=reason,
            requested=str(requested), latest=str(latest),
        )  # fmt: skip
        return Gap(latest, requested, earliest, reason, transcript)

    async def _transcript(self, until: EventId) -> Transcript:
        return fold(await self._hub.log.events(self._sid, until=until, joined=True))

    # -- both

    def _take(self, events: list[Event], *, merge: bool = False, of: Feed | None = None) -> Events:
        """Move the cursor over `events`, cut at the terminal this reader is here for. `of`: whose ring has them; None:
        the log has."""
        if not self._follow:
            for n, event in enumerate(events):
                if event.terminal and generation_number(event.value["generation"]) >= self._target:
                    events = events[: n + 1]
                    self._final = End()
                    break
        self.cursor = events[-1].id
        self._taken(events, of)
        return Events(merged(events) if merge else events)

    def _taken(self, events: list[Event], of: Feed | None) -> None:
        counts = self._hub.counts
        if of is None:
            number = sum(map(count, events))
            counts.from_log += number
            self._replayed += number
        else:
            counts.from_ring += len(events)
            if counts.lag.wanted and self.cursor == of.last:  # a slow client's lag is its own
                counts.lag.note(self._sid, self.cursor)
        if counts.firsts is not None:
            counts.firsts.told(self._sid, events)


def _one_write(events: list[Event]) -> list[Event]:
    """The head of `events` that is not too large; at least one."""
    size = 0
    for n, event in enumerate(events):
        size += len(event.data)
        if n and size > WRITE_BYTES:
            return events[:n]
    return events
