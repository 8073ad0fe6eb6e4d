"""The hub: a node's feeds, their subscription, and the two ticks that keep them honest."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Coroutine, Hashable
from typing import Any

from api.audience import Listener
from api.counts import Counts
from api.feed import Feed
from api.kept import Found, KeptPages, goes_on
from api.quota import OpenStreams
from api.sharing import Sharing
from shared import keys
from shared.directory import Directory
from shared.events import Event
from shared.ids import START, EventId
from shared.log import Log
from shared.outage import Outage
from shared.pages import aligned
from shared.reader import Decision, decide
from shared.redis import RedisError
from shared.settings import Settings
from shared.subscriber import Subscriber
from shared.tasks import cancel
from shared.telemetry import get_logger
from shared.views import SessionView

_log = get_logger(__name__)

LINGER_S = 5.0
"""A feed without readers stays this long: a refresh finds it warm."""
HEADS = 500
"""Quiet feeds looked at in one round trip."""


class Reader:
    """One connected client, as the hub knows it: a feed, and whether it must go."""

    __slots__ = ("feed", "kicked", "listener", "since")

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.listener: Listener | None = None
        """There while it is in the audience of the feed."""
        self.since = _now()
        self.kicked = False
        """Leave, so that the client comes back: elsewhere when the node is shutting down, or with new credentials."""

    def kick(self) -> None:
        self.kicked = True
        if self.listener is not None:
            self.listener.recall()
        else:
            self.feed.wake()


class Hub:
    """All feeds of a node share one subscription and a few connections, however many readers there are."""

    def __init__(self, settings: Settings, log: Log, directory: Directory) -> None:
        self.settings = settings
        self.log = log
        self.directory = directory
        self.beat = 0
        """Counts keep-alive ticks: a reader that wrote nothing since the last one writes a comment."""
        self.draining = False
        self.readers: set[Reader] = set()
        self.streams = OpenStreams(settings)
        self.counts = Counts()
        self._empty = asyncio.Event()
        """Nobody is left; meaningful while draining."""
        self._feeds: dict[str, Feed] = {}
        self.sharing = Sharing(self.spawn)
        self._kept = KeptPages()
        self.outage = Outage("the log")
        self._tasks: set[asyncio.Task[Any]] = set()
        self._standing: list[asyncio.Task[Any]] = []
        """Tasks that end only with the node."""
        self._subscriber = Subscriber(settings.log_redis_url, self._on_message, self._on_reconnect)

    # -- life

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Hub"]:
        self._standing = [
            self.spawn(work) for work in (self._subscriber.run(), self._keep_alive(), self._check_quiet())
        ]
        try:
            yield self
        finally:
            await cancel(self._tasks)
            await self._subscriber.aclose()

    @property
    def feeds(self) -> int:
        return len(self._feeds)

    @property
    def healthy(self) -> bool:
        return not any(task.done() for task in self._standing)

    def drain(self) -> None:
        """Send all readers away, spread over the drain time: a deploy is no storm of reconnects."""
        if self.draining:
            return
        self.draining = True
        loop = asyncio.get_running_loop()
        for reader in self.readers:
            loop.call_later(random.uniform(0, self.settings.drain_s * 0.8), reader.kick)

    async def drained(self) -> None:
        """Drain, and wait until the readers have gone; no longer than the drain time."""
        self.drain()
        if self.readers:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), self.settings.drain_s)

    def hurry(self) -> None:
        """Send away whoever is left at once, and wait for nobody any more. Only while draining."""
        for reader in self.readers:
            reader.kick()
        self._empty.set()

    # -- for readers

    @contextlib.asynccontextmanager
    async def reading(self, sid: str) -> AsyncIterator[Reader]:
        """Enter the feed of a session, join it, and leave. Raises what `joined` does."""
        reader = self.enter(sid)
        try:
            await self.joined(reader.feed)
            yield reader
        finally:
            self.leave(reader)

    def enter(self, sid: str) -> Reader:
        """One more reader of a session; it must `leave`, and may read its feed when that is `joined`."""
        feed = self._feeds.get(sid)
        if feed is None:
            feed = self._feeds[sid] = Feed(sid, self.settings.ring_events, self.settings.ring_bytes, self.counts)
        feed.readers += 1
        reader = Reader(feed)
        reader.kicked = self.draining  # it came while the others were being sent away
        self.readers.add(reader)
        return reader

    async def joined(self, feed: Feed, cursor: EventId = START, count: int = 1) -> None:
        """Subscribed, before anything is read: nothing falls in between. `cursor`, `count`: what is about to be read.

        Raises redis.exceptions.RedisError, and TimeoutError when the subscription is not confirmed in time.
        """
        if feed.last is None:
            await self.sharing.one(("join", feed.sid), lambda: self._join(feed, cursor, count))

    def readers_of(self, sid: str) -> int:
        """How many of its readers are on this node."""
        feed = self._feeds.get(sid)
        return feed.readers if feed is not None else 0

    def leave(self, reader: Reader) -> None:
        self._left(reader)
        reader.feed.readers -= 1
        reader.feed.idle_since = _now()

    async def read(self, sid: str, cursor: EventId, count: int) -> Found:
        """A page of the log, of about `count` entries. Readers of the same session share pages, in step or not."""
        feed = self._feeds[sid]
        vouched = self._subscriber.whole and ("look", feed) not in self.sharing
        if vouched and (found := self._kept.get(feed, cursor, _now())):
            return found
        key = ("page", sid, cursor)
        if key in self.sharing:  # asked before this reader did: only what is past is still true
            found = await self._page(key, feed, cursor, count)
            if goes_on(cursor, found):
                return found
        return await self._page(key, feed, cursor, count)

    async def _page(self, key: Hashable, feed: Feed, cursor: EventId, count: int) -> Found:
        return await self.sharing.one(key, lambda: self._read(feed, cursor, count))

    async def _read(self, feed: Feed, cursor: EventId, count: int) -> Found:
        version, burst_bytes = feed.version, self.settings.replay_bytes // 4
        found = await self.log.page(feed.sid, cursor, aligned(cursor, count), burst_bytes)
        self._kept.keep(feed, version, cursor, found, _now())
        return found

    @contextlib.asynccontextmanager
    async def lobby(self, principal: str) -> AsyncIterator[Reader]:
        """For a client that follows nothing yet: counted, and sent away, like the others. Raises TooManyStreams."""
        reader = Reader(Feed("", 1, 1))
        reader.kicked = self.draining
        with self.streams.one(principal):
            self.readers.add(reader)
            try:
                yield reader
            finally:
                self._left(reader)

    def _left(self, reader: Reader) -> None:
        self.readers.discard(reader)
        self.outage.left(reader)
        if self.draining and not self.readers:
            self._empty.set()

    async def owner_alive(self, cursor: EventId, view: SessionView | None) -> bool:
        """Asked only where the decision needs it: for a cursor ahead of the log."""
        if view is None or cursor <= view.last:
            return False
        worker = view.worker
        return await self.sharing.one(("alive", worker), lambda: self.directory.is_alive(worker))

    # -- joining

    async def _join(self, feed: Feed, cursor: EventId, count: int) -> None:
        async with asyncio.timeout(self.settings.redis_timeout_s):
            await self._subscriber.subscribe(keys.live(feed.sid))
        view, _ = await self._read(feed, cursor, count)
        feed.start(view.last if view else START, _now())
        if feed.dirty:
            self._look(feed)

    # -- what Redis says

    def _on_message(self, channel: str, payload: bytes) -> None:
        feed = self._feeds.get(_sid_of(channel))
        if feed is None:
            return
        feed.take(payload, _now())
        if feed.dirty and feed.last is not None:
            self._look(feed)

    def _on_reconnect(self) -> None:
        """Messages may have been missed by any feed."""
        self._kept.clear()
        for feed in self._feeds.values():
            if feed.last is not None:
                self._look(feed)

    async def settle(self, feed: Feed) -> None:
        """Look at the log now: a reader found that it does not say what the ring may still hold."""
        await asyncio.shield(self._look(feed))

    def _look(self, feed: Feed) -> asyncio.Task[None]:
        """One look at a time; whoever asks for one meanwhile makes it look again: it is never older than the asking."""
        feed.dirty = True
        return self.sharing.begin(("look", feed), lambda: self._look_until_clean(feed))

    async def _look_until_clean(self, feed: Feed) -> None:
        async def look(cursor: EventId) -> tuple[SessionView | None, list[Event], Decision]:
            view, page = await self.log.read(feed.sid, cursor, self.settings.replay_page)
            return view, page, decide(cursor, view, page, await self.owner_alive(cursor, view))

        self.counts.looks += 1
        try:
            while feed.dirty:
                await feed.look(look, _now, self.settings.heal_wait_s, self.settings.replay_page)
        except RedisError as error:
            self.outage.failed(feed.sid, error)  # the next tick looks again
        else:
            self.outage.passed(feed.sid)

    # -- ticks

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self.settings.keepalive_s)
            self.beat += 1
            for feed in self._feeds.values():
                feed.audience.keep_alive()
                feed.wake()
            self._send_old_away()

    def _send_old_away(self) -> None:
        """Who was let in long ago must show again that they may."""
        if longest := self.settings.stream_max_s:
            for reader in self.readers:
                if _now() - reader.since > longest:
                    reader.kick()

    async def _check_quiet(self) -> None:
        """Finds a lost last message, and a session whose place in the live index was lost."""
        while True:
            await asyncio.sleep(self.settings.quiet_check_s)
            self._drop_idle()
            self._kept.tidy(_now())
            horizon = _now() - self.settings.quiet_check_s
            quiet = {
                sid: feed
                for sid, feed in self._feeds.items()
                if feed.last is not None and feed.readers and feed.heard <= horizon
            }
            for batches in self.log.by_server(list(quiet), HEADS):
                try:
                    for sids in batches:
                        await self._compare([quiet[sid] for sid in sids])
                except RedisError as error:
                    self.outage.failed("quiet", error)
                else:
                    self.outage.passed("quiet")

    async def _compare(self, feeds: list[Feed]) -> None:
        heads = await self.log.heads([feed.sid for feed in feeds])
        live = []
        for feed, head in zip(feeds, heads, strict=True):
            if head is not None and head[0]:
                live.append(feed.sid)
            if head is None or head[1] != feed.last:
                self._look(feed)
            else:
                feed.heard = _now()
                feed.wake()
        await self.directory.restore_live(live, time.time_ns() // 1_000_000)

    def _drop_idle(self) -> None:
        for feed in list(self._feeds.values()):
            if not feed.readers and ("join", feed.sid) not in self.sharing and _now() - feed.idle_since > LINGER_S:
                del self._feeds[feed.sid]
                self.outage.left(feed.sid)
                self.spawn(self._subscriber.unsubscribe(keys.live(feed.sid)))

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task that ends with the hub at the latest."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, (RedisError, TimeoutError)):  # whoever asked has those
            _log.error("a task of the hub failed", task=task.get_name(), error=repr(error))


def _now() -> float:
    return asyncio.get_running_loop().time()


_BEFORE, _, _AFTER = keys.live("|").partition("|")


def _sid_of(channel: str) -> str:
    return channel[len(_BEFORE) : -len(_AFTER)]
