"""The writer: appends one generation's events to the log, in batches, off the provider's critical path."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic_core import from_json

from shared.events import TERMINALS, EventType, encode
from shared.ids import new_token
from shared.log import Appended, Log
from shared.outage import Outage
from shared.redis import RedisError, transient
from shared.telemetry import get_logger
from worker.budget import ENTRY_BYTES, Share
from worker.counts import Counts

_log = get_logger(__name__)

T = TypeVar("T")
APPEND_EVENTS = 500
"""Most events of one append."""
APPEND_BYTES = 512 * 1024
BACKOFF_S = (0.02, 0.05, 0.1, 0.2, 0.5)
TICK_S = 0.02
"""Deltas that waited are flushed on ticks that all writers share, so that their appends travel together."""


class PenLost(Exception):
    """Somebody else holds the pen, or the generation is over: write nothing more."""


class SessionGone(Exception):
    """The session was deleted, or Redis lost it."""


class AppendRefused(Exception):
    """Redis refuses what there is to say, and will again."""


class OutputLimit(Exception):
    """The generation said more than a writer keeps."""


@dataclass(frozen=True)
class Batching:
    flush_s: float
    flush_bytes: int
    backlog_bytes: int
    max_output_bytes: int
    max_event_bytes: int


@dataclass(frozen=True)
class Pen:
    """What proves the right to append to one generation."""

    sid: str
    generation: str
    worker: str
    token: str
    epoch: int


class _Delta:
    """Text that waits to become one event."""

    def __init__(self, type_: EventType) -> None:
        self.type = type_
        self.parts: list[str] = []
        self.chars = 0

    def add(self, text: str) -> None:
        self.parts.append(text)
        self.chars += len(text)


class Writer:
    """Holds the pen of one generation.

    `delta`, `event` and `end` never wait. One task, `run`, appends; it alone knows the log. Every event of the epoch
    stays in memory until the writer is dropped: event n of `_said` has seq n + 2 (seq 1 is generation.started), so
    after a failover that lost the log's tail the same events are said again under the same ids.
    """

    def __init__(
        self,
        log: Log,
        pen: Pen,
        batching: Batching,
        on_stop: Callable[[], None],
        on_answer: Callable[[str], None],
        on_reclaim: Callable[[Pen], None],
        share: Share,
        outage: Outage,
        counts: Counts | None = None,
    ) -> None:
        self.pen = pen
        self.on_first: Callable[[], None] = lambda: None
        """Called with the first delta."""
        self._counts = counts or Counts()
        self._counted = 0
        """Events that are in the counts: those that are said again are not, again."""
        self._log = log
        self._batching = batching
        self._on_stop = on_stop
        self._on_answer = on_answer
        self._on_reclaim = on_reclaim
        self._share = share
        self._outage = outage
        self._said: list[tuple[str, bytes]] = []
        self._acked = 0
        """Events of `_said` that the log is known to have."""
        self._bytes = 0
        self._acked_bytes = 0
        self._delta: _Delta | None = None
        self._spoke = False
        """The first delta was seen: it is flushed at once, later ones wait for company."""
        self._timer: asyncio.TimerHandle | None = None
        self._due = asyncio.Event()
        self._acknowledged = asyncio.Event()
        self._ended = False
        self._check = False
        """Ask the log at once, even if there is nothing to say."""

    # -- saying things: none of these waits

    def delta(self, type_: EventType, text: str) -> None:
        if not text or self._ended:
            return
        if self._delta is None or self._delta.type != type_:
            self._seal()
            self._delta = _Delta(type_)
        self._delta.add(text)
        if not self._spoke:
            self._spoke = True
            self._due.set()
            self.on_first()
        elif self._delta.chars >= self._batching.flush_bytes:
            self._seal()
            self._due.set()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(_due(loop.time(), self._batching.flush_s), self._flush)

    def event(self, type_: EventType, data: Mapping[str, Any]) -> None:
        """Anything that is no delta: flushed at once, after what was said before it. Raises OutputLimit."""
        if self._ended:
            return  # a pipeline that would not stop: nothing comes after the terminal
        encoded = encode(data)
        if len(encoded) > self._batching.max_event_bytes:
            raise OutputLimit(f"an event {type_} of {len(encoded)} bytes")
        self._seal()
        self._say(type_, encoded)
        self._due.set()

    def end(self, type_: EventType, data: Mapping[str, Any]) -> None:
        """The terminal, the first one only. `run` returns when the log has it. Never refused for its size."""
        assert type_ in TERMINALS
        if self._ended:
            return
        self._seal()
        self._ended = True
        self._say(type_, encode({"generation": self.pen.generation, **data}))
        self._due.set()

    def check(self) -> None:
        """Find out whether the pen is still ours: `run` raises if it is not, and claims again if a failover lost it."""
        self._check = True
        self._due.set()

    @property
    def text(self) -> str:
        """Of the answer, as far as it was said."""
        return "".join(from_json(data)["text"] for type_, data in self._said if type_ == EventType.TEXT)

    # -- waiting

    @property
    def full(self) -> bool:
        """More is unsaid than may be kept: whoever produces must wait for `room`."""
        return self._bytes - self._acked_bytes > self._batching.backlog_bytes

    async def room(self) -> None:
        """Wait until more may be said. Raises OutputLimit when it is enough."""
        if self._bytes > self._batching.max_output_bytes:
            raise OutputLimit("all of the output")
        while self.full:
            await self._progress()

    async def settled(self) -> None:
        """Wait until everything said so far is in the log. Meaningful only while `run` runs."""
        self._seal()
        self._due.set()
        goal = len(self._said)
        while self._acked < goal:
            await self._progress()

    async def _progress(self) -> None:
        self._acknowledged.clear()
        await self._acknowledged.wait()

    # -- appending: only `run` and `linger` touch the log

    async def run(self) -> None:
        """Append until the terminal is in the log. Redis being away only delays it.

        Ends only with the terminal, or by raising PenLost, SessionGone or AppendRefused. Cancelled, it leaves the log
        as it is.
        """
        try:
            while not (self._ended and self._acked == len(self._said)):
                await self._due.wait()
                self._due.clear()
                self._seal()
                await self._catch_up()
        finally:
            self._outage.left(self)

    async def end_refused(self, type_: EventType, data: Mapping[str, Any]) -> None:
        """After AppendRefused: say what the log takes up to the event it refuses, and this end in place of the rest.
        Ends as `run` does."""
        self._seal()
        with suppress(AppendRefused):
            while self._acked < len(self._said):
                await self._append([self._said[self._acked]])
        for _, dropped in self._said[self._acked :]:
            self._bytes -= len(dropped)
        del self._said[self._acked :]
        self._ended = False
        self.end(type_, data)
        await self.run()

    async def linger(self, pause_s: float) -> None:
        """Repeat the last append twice: a failover in this window cannot lose the end."""
        try:
            for _ in range(2):
                await asyncio.sleep(pause_s)
                self._forget_acknowledged(len(self._said) - 1)
                await self._catch_up()
        finally:
            self._outage.left(self)

    async def _catch_up(self) -> None:
        while self._acked < len(self._said) or self._check:
            self._check = False
            await self._append(self._next_batch())

    async def _append(self, batch: list[tuple[str, bytes]]) -> None:
        pen, first = self.pen, self._acked + 2
        begun = time.perf_counter()
        told: Appended = await self._persist(lambda: self._log.append(pen.sid, pen.token, pen.epoch, first, batch))
        self._counts.appends.observe(time.perf_counter() - begun)
        outcome, value, stop, answer = told
        match outcome:
            case "OK":
                self._acknowledge(max(int(value) - 1, self._acked + len(batch)))
                self._hear(stop, answer)
            case "BEHIND":
                _log.warning("the log lost its tail; saying it again", from_seq=int(value) + 1)
                self._counts.healed[("behind",)] += 1
                self._forget_acknowledged(max(int(value) - 1, 0))
            case "FENCED" if int(value or 0) < self.pen.epoch:
                await self._reclaim()
            case "FENCED" | "ENDED":
                raise PenLost(f"{outcome} {value}")
            case _:
                raise SessionGone(self.pen.sid)

    def _next_batch(self) -> list[tuple[str, bytes]]:
        batch: list[tuple[str, bytes]] = []
        size = 0
        for entry in self._said[self._acked : self._acked + APPEND_EVENTS]:
            size += len(entry[1])
            if batch and size > APPEND_BYTES:
                break
            batch.append(entry)
        return batch

    def _acknowledge(self, count: int) -> None:
        count = min(count, len(self._said))
        self._acked_bytes += sum(len(data) for _, data in self._said[self._acked : count])
        self._acked = count
        if count > self._counted:
            self._counts.appended += count - self._counted
            self._counted = count
        self._acknowledged.set()

    def _forget_acknowledged(self, count: int) -> None:
        """The log has less than we thought: only the first `count` events."""
        self._acked = count
        self._acked_bytes = sum(len(data) for _, data in self._said[:count])

    def _hear(self, stop: str, answer: str) -> None:
        if stop == self.pen.generation:
            self._on_stop()
        if answer:
            self._on_answer(answer)

    async def _reclaim(self) -> None:
        """A failover lost our claim, but nobody took the pen: claim again, and say everything under the new epoch."""
        token = new_token()
        pen = Pen(self.pen.sid, self.pen.generation, self.pen.worker, token, 0)
        self._on_reclaim(pen)
        claimed = await self._persist(lambda: self._log.claim(pen.sid, token, pen.generation, pen.worker))
        if claimed is None:
            raise PenLost("the claim was lost in a failover and could not be made again")
        _log.warning("claim was lost in a failover and made again", epoch=claimed.epoch)
        self._counts.healed[("fenced",)] += 1
        self.pen = Pen(pen.sid, pen.generation, pen.worker, token, claimed.epoch)
        self._on_reclaim(self.pen)
        self._forget_acknowledged(0)

    async def _persist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until Redis answers: the same again is harmless, and a reply may have been lost. Raises AppendRefused."""
        failures = 0
        while True:
            try:
                answer = await ask()
            except RedisError as error:
                if not transient(error):
                    raise AppendRefused(str(error)) from error
                self._outage.failed(self, error)
                pause = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)] * random.uniform(0.5, 1.5)
                failures += 1
                await asyncio.sleep(pause)
            else:
                self._outage.passed(self)
                return answer

    # -- batching

    def _flush(self) -> None:
        self._timer = None
        self._due.set()

    def _seal(self) -> None:
        """Make an event of the text that waits. From here on its id is fixed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (delta := self._delta) is not None:
            self._delta = None
            self._say(delta.type, encode({"text": "".join(delta.parts)}))

    def _say(self, type_: str, data: bytes) -> None:
        self._said.append((type_, data))
        self._bytes += len(data)
        self._share.add(len(data) + ENTRY_BYTES)


def _due(now: float, wait_s: float) -> float:
    """When to flush what waits since `now`, by the loop's clock: on the first tick after `wait_s`, unless that is less
    than a tick."""
    due = now + wait_s
    return due if wait_s < TICK_S else (due // TICK_S + 1) * TICK_S
