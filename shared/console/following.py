"""A reader on Redis itself: every event after a cursor, once, in order, until the end or for ever."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from shared import keys
from shared.compaction import split
from shared.console.desk import Desk, legible
from shared.errors import SessionExpired, SessionNotFound
from shared.events import Event, chained
from shared.ids import EventId, generation_number
from shared.reader import Decision, Verdict, decide, gap
from shared.redis import RedisError
from shared.subscriber import Subscriber
from shared.views import SessionView

PAGE = 1000
LOOK_S = 1.0
"""What is published only wakes; if it is lost, the log is looked at after this long."""
AWAY_S = 0.5
HEAL_S = 10.0


@dataclass(frozen=True)
class Gap:
    """The log no longer has what follows `requested`; it goes on after `resumed`."""

    requested: EventId
    resumed: EventId
    reason: str


class Tail:
    """Reads from `cursor`. Unless it `stays`, it ends with the generation that is the newest when it begins."""

    def __init__(self, desk: Desk, sid: str, cursor: EventId, stays: bool, away: Callable[[Exception], None]) -> None:
        """`away` is told of each failure of Redis after the first look, which must succeed."""
        self._desk, self._sid, self._stays, self._away = desk, sid, stays, away
        self.cursor = cursor
        self._until = 0
        """The generation to end with; known after the first look."""
        self._over = False
        self._woken = asyncio.Event()
        self._ahead_since: float | None = None

    async def read(self) -> AsyncIterator[Event | Gap]:
        """Raises SessionNotFound, SessionExpired, Unreadable, and RedisError where Redis is away from the start."""
        async with self._ear():
            while not self._over:
                self._woken.clear()
                try:
                    with legible():
                        view, page = await self._desk.log.read(self._sid, self.cursor, PAGE)
                    alive = view is not None and await self._desk.directory.is_alive(view.worker)
                except RedisError as error:
                    if not self._until:
                        raise
                    self._away(error)
                    await asyncio.sleep(AWAY_S)
                    continue
                with legible():
                    items = self._taken(view, split(page), alive)
                for item in items:
                    yield item
                if not self._over and not page:
                    await self._more()

    def _taken(self, view: SessionView | None, page: list[Event], alive: bool) -> list[Event | Gap]:
        if view is not None and not self._until:
            self._until = generation_number(view.generation)
        decision = self._patient(decide(self.cursor, view, page, alive))
        match decision.verdict:
            case Verdict.SEND:
                return list(self._sent(chained(self.cursor, page)))
            case Verdict.GAP:
                assert view is not None
                return [self._passed(view, page, decision.reason)]
            case Verdict.END:
                self._over = not self._stays
            case Verdict.MISSING:
                raise SessionNotFound(self._sid)
            case Verdict.EXPIRED:
                raise SessionExpired(self._sid)
        return []

    def _sent(self, events: list[Event]) -> list[Event]:
        for n, event in enumerate(events):
            event.value.get("")  # whoever is given it may rely on its data
            self.cursor = event.id
            if not self._stays and event.terminal and generation_number(event.value["generation"]) >= self._until:
                self._over = True
                return events[: n + 1]
        return events

    def _passed(self, view: SessionView, page: list[Event], reason: str) -> Gap:
        requested = self.cursor
        self.cursor = page[0].before if page else view.last
        return Gap(requested, self.cursor, reason)

    def _patient(self, decision: Decision) -> Decision:
        """A live writer says a lost tail again; but one does not wait for that for ever."""
        if decision.verdict is not Verdict.HEALING:
            self._ahead_since = None
            return decision
        now = asyncio.get_running_loop().time()
        self._ahead_since = self._ahead_since or now
        return gap("ahead") if now - self._ahead_since > HEAL_S else decision

    async def _more(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await self._woken.wait()

    @contextlib.asynccontextmanager
    async def _ear(self) -> AsyncIterator[None]:
        """Hears the live channel for as long as the block lasts; reading does not wait for it to be heard."""
        wake = self._woken.set
        subscriber = Subscriber(self._desk.url, lambda *_: wake(), wake, near=keys.session(self._sid))
        tasks = [
            asyncio.create_task(subscriber.run()),
            asyncio.create_task(subscriber.subscribe(keys.live(self._sid))),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await subscriber.aclose()
