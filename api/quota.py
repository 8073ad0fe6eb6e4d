"""How much of a node and of its workers one principal may have: turns a minute, live sessions, open streams.

While Redis is away nothing is refused here: it has the counts, but without it nothing can be started either.
"""

import contextlib
import math
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.storage.redis.redispy import RedispyBridge
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from shared import keys
from shared.directory import Directory
from shared.errors import RateLimited, TooManySessions, TooManyStreams
from shared.log import Log
from shared.redis import RedisError
from shared.settings import Settings
from shared.telemetry import get_logger

_log = get_logger(__name__)

TURNS, SESSIONS, STREAMS = 600, 200, 500
"""With authentication, where nothing else is said. Without, all callers are one, and are not limited."""
OPENING_MS = 60_000
"""A session that is not there yet was announced this recently by a create that is under way, or that failed."""
LATER_S = 5
"""When to try again where only an end of something else can help, and nobody knows when that is."""


class _SharedClient(RedisStorage):
    """limits' storage over the node's own client, whatever the topology is: no connections of its own."""

    STORAGE_SCHEME = ["async+holdfast"]  # noqa: RUF012 - limits' registry of schemes reads this

    def __init__(self, client: Any) -> None:
        self._client = client
        super().__init__("async+redis://", implementation="redispy", key_prefix=keys.RATES)

    def configure_bridge(self) -> None:
        bridge = cast(RedispyBridge, self.bridge)
        bridge.storage = self._client
        bridge.connection_getter = lambda _: self._client


class Quota:
    def __init__(self, settings: Settings, redis: Any, log: Log, directory: Directory) -> None:
        self._log = log
        self._directory = directory
        anonymous = settings.auth == "none"
        turns = _limit(settings.turns_per_minute, TURNS, anonymous)
        self._turns: RateLimitItem | None = RateLimitItemPerMinute(turns, namespace="turns") if turns else None
        self._limiter = SlidingWindowCounterRateLimiter(_SharedClient(redis))
        self._sessions = _limit(settings.live_sessions, SESSIONS, anonymous)

    async def turn(self, principal: str, sid: str) -> None:
        """To be asked before a turn is opened. Raises RateLimited, TooManySessions."""
        await self._check_rate(principal)
        await self._announce(principal, sid)

    # -- inside

    async def _check_rate(self, principal: str) -> None:
        if self._turns is None:
            return
        try:
            if await self._limiter.hit(self._turns, principal):
                return
            stats = await self._limiter.get_window_stats(self._turns, principal)
        except RedisError as error:
            _log.warning("the rate of turns could not be counted", error=str(error), rare=True)
            return
        wait_s = max(1, math.ceil(stats.reset_time - time.time()))
        raise RateLimited(f"more than {self._turns.amount} turns a minute", wait_s)

    async def _announce(self, principal: str, sid: str) -> None:
        """Count the session in. What has ended, or was never opened, is counted out only when that matters."""
        if not self._sessions:
            return
        try:
            fresh, count = await self._directory.announce_running(principal, sid, _now_ms())
            if not fresh or count <= self._sessions:
                return
            if count - await self._forget_ended(principal, sid) <= self._sessions:
                return
            await self._directory.remove_running(principal, sid)
        except RedisError as error:
            _log.warning("live sessions could not be counted", error=str(error), rare=True)
            return
        raise TooManySessions(f"{self._sessions} sessions have a generation under way", LATER_S)

    async def _forget_ended(self, principal: str, but: str) -> int:
        """The sessions themselves say whether they are live: whatever was missed or lost is put right here."""
        announced = await self._directory.running(principal)
        views = await self._log.views(list(announced))
        horizon = _now_ms() - OPENING_MS
        ended = []
        for (sid, at), view in zip(announced.items(), views, strict=True):
            live = at > horizon if view is None else view.live and view.principal == principal
            if not live and sid != but:
                ended.append(sid)
        await self._directory.remove_running(principal, *ended)
        return len(ended)


class OpenStreams:
    """Streams open on this node, by principal."""

    def __init__(self, settings: Settings) -> None:
        self._limit = _limit(settings.open_streams, STREAMS, settings.auth == "none")
        self._open: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return self._open.total()

    def check(self, principal: str) -> None:
        """Whether there is room for one more: asked before something is started for it. Raises TooManyStreams."""
        if self._limit and self._open[principal] >= self._limit:
            raise TooManyStreams(f"{self._limit} streams are open", LATER_S)

    @contextlib.contextmanager
    def one(self, principal: str) -> Iterator[None]:
        """As long as a stream is open. Raises TooManyStreams."""
        self.enter(principal)
        try:
            yield
        finally:
            self.leave(principal)

    def enter(self, principal: str) -> None:
        """A stream opens; it must `leave`. Raises TooManyStreams."""
        self.check(principal)
        self._open[principal] += 1

    def leave(self, principal: str) -> None:
        self._open[principal] -= 1
        if not self._open[principal]:
            del self._open[principal]


def _limit(given: int | None, default: int, anonymous: bool) -> int:
    if given is not None:
        return given
    return 0 if anonymous else default


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
