"""A feed: a node's in-memory tail of one session, shared by all readers of it."""

import asyncio
from collections.abc import Awaitable, Callable

from api.audience import WRITE_BYTES, Audience
from api.counts import Counts
from shared.compaction import split
from shared.events import Event, chained, next_delta, published
from shared.ids import START, EventId
from shared.reader import Decision, Verdict
from shared.views import SessionView

Look = Callable[[EventId], Awaitable[tuple[SessionView | None, list[Event], Decision]]]
"""Reads the log after a cursor and decides; raises redis.exceptions.RedisError."""


class Feed:
    """The ring holds recent events that chain without a hole, the newest being `last`.

    Invariant: `_ring[n]` has absolute position `_base + n`; `_after[id]` is the position right after event `id`, kept
    for every event in the ring and for the one just before it.
    """

    def __init__(self, sid: str, ring_events: int, ring_bytes: int, counts: Counts | None = None) -> None:
        self.sid = sid
        self._counts = counts or Counts()
        self.readers = 0
        self.idle_since = 0.0
        """Meaningful while there are no readers."""
        self.last: EventId | None = None
        """None until joined: subscribed, and the ring's beginning known."""
        self.version = 0
        """Moves when the ring was dropped because the log itself does not chain: readers go back to the log."""
        self.heard = 0.0
        """Loop time of the last sign that ring and log agree."""
        self.dirty = False
        """Something does not fit: the log must be looked at."""
        self.audience = Audience()
        """Invariant: it stands at `last`, or is empty."""
        self._pulse = asyncio.Event()
        self._ring: list[Event] = []
        self._bytes = 0
        self._base = 0
        self._after: dict[EventId, int] = {}
        self._ring_events, self._ring_bytes = ring_events, ring_bytes
        self._ahead_since: float | None = None

    # -- for readers

    def after(self, cursor: EventId) -> list[Event] | None:
        """What the ring has after `cursor`; None: it cannot say, ask the log."""
        if cursor == self.last:
            return []
        position = self._after.get(cursor)
        if position is not None:
            return self._ring[position - self._base :]
        return [] if self.last is not None and cursor > self.last else None

    async def changed(self) -> None:
        """Wait for the next wake-up: an event, a look at the log, a heartbeat tick, or the end of the node."""
        await self._pulse.wait()

    def wake(self) -> None:
        # set() releases those who wait now; clear() makes the next ones wait again.
        self._pulse.set()
        self._pulse.clear()

    # -- for the hub

    def start(self, last: EventId, now: float) -> None:
        """Begin the ring after `last`. Only after the subscription is confirmed."""
        self._ring, self._bytes = [], 0
        self._after = {last: self._base}
        self.last, self.heard = last, now
        self.audience.recall()
        self.wake()

    def take(self, payload: bytes, now: float) -> None:
        """A published batch. An empty one means: look at the log."""
        if self.last is None or not payload:
            self.dirty = True
            return
        if (delta := next_delta(payload, self.last)) is not None:
            self._push(delta)
            self._pass_on(payload, [delta])
        elif not self._take_others(payload):
            return
        self.heard = now
        self.wake()

    def _take_others(self, payload: bytes) -> bool:
        """A batch that is not just the next text. False: nobody of ours said this."""
        try:
            events = published(payload)
        except ValueError:
            self.dirty = True
            return False
        assert self.last is not None
        fresh: list[Event] = []
        for event in events:
            if event.follows(self.last):
                self._push(event)
                fresh.append(event)
            elif not self._known(event.id):
                self.dirty = True
                break
        if len(fresh) == len(events) and not any(event.terminal for event in events):
            self._pass_on(payload, events)
        elif fresh:
            self._counts.taken += len(fresh)
            self.audience.recall()
        return True

    def _pass_on(self, payload: bytes, events: list[Event]) -> None:
        """To the audience, all that was published, as it is; a large batch is dealt out to each by its own delivery."""
        counts = self._counts
        counts.taken += len(events)
        if not (listeners := len(self.audience)):
            return
        if len(payload) > WRITE_BYTES:
            self.audience.recall()
            return
        self.audience.tell(payload, events[-1].id)
        counts.live += listeners * len(events)
        if counts.lag.wanted:
            counts.lag.note(self.sid, events[-1].id)
        if counts.firsts is not None:
            counts.firsts.told(self.sid, events)

    async def look(self, look: Look, now: Callable[[], float], heal_wait_s: float, page: int) -> None:
        """Bring the ring to the log's end; drop it if the log does not chain to it."""
        while (asked := self.last) is not None:
            self.dirty = False
            view, events, decision = await look(asked)
            if self.last != asked:  # events came meanwhile, and chained: what was read is old
                if self.dirty:
                    continue
                return
            if decision.verdict is Verdict.SEND:
                self._extend(events)
                if len(events) == page:
                    continue
            elif decision.verdict in (Verdict.WAIT, Verdict.END):
                self._ahead_since = None
            elif not (decision.verdict is Verdict.HEALING and self._may_heal(now(), heal_wait_s)):
                self.reset(view.last if view else START, now())
            self.heard = now()
            self.wake()
            return

    def reset(self, last: EventId, now: float) -> None:
        self._ahead_since = None
        self._counts.dropped += 1
        self.version += 1
        self.start(last, now)

    # -- inside

    def _known(self, event_id: EventId) -> bool:
        """Heard before. Compared by place, never by size across epochs: a smaller id of another epoch is no old one."""
        if event_id in self._after:
            return True
        assert self.last is not None
        return event_id.epoch == self.last.epoch and event_id.seq <= self.last.seq

    def _may_heal(self, now: float, wait_s: float) -> bool:
        if self._ahead_since is None:
            self._ahead_since = now
        return now - self._ahead_since < wait_s

    def _extend(self, events: list[Event]) -> None:
        self._ahead_since = None
        assert self.last is not None
        before = self.last
        for event in split(chained(before, events)):
            self._push(event)
        if self.last != before:
            self._counts.refilled += 1
        self.audience.recall()

    def _push(self, event: Event) -> None:
        self._ring.append(event)
        self._bytes += len(event.data)
        self._after[event.id] = self._base + len(self._ring)
        self.last = event.id
        if len(self._ring) > self._ring_events or self._bytes > self._ring_bytes:
            self._drop(max(1, len(self._ring) // 4))

    def _drop(self, count: int) -> None:
        dropped = self._ring[:count]
        del self._ring[:count]
        self._base += count
        self._bytes -= sum(len(event.data) for event in dropped)
        self._after = {event_id: at for event_id, at in self._after.items() if at >= self._base}
