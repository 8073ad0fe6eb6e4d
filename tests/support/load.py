"""Generations under way with readers on them, while something breaks; and the account afterwards."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx

from shared.events import Event
from shared.ids import START, EventId
from shared.log import Log
from tests.support.flow import create, speech
from tests.support.sse import SSE, Frame, Severed, events_path
from worker.providers.demo import lorem

RECONNECT_S = 0.05
ENDS = ("generation.completed", "generation.failed", "generation.cancelled")


@dataclass
class Reader:
    """One client that comes back with its cursor until its generation is over or refused for good."""

    base: str
    sid: str
    frames: list[Frame] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)
    """Monotonic time of each frame."""
    statuses: list[int] = field(default_factory=list)
    """Of every response."""
    connections: int = 0

    @property
    def events(self) -> list[Frame]:
        return [frame for frame in self.frames if frame.id and frame.type != "gap"]

    @property
    def text(self) -> str:
        """What a client shows: an attempt begins anew, and a gap brings what is there."""
        shown = ""
        for frame in self.frames:
            if frame.type == "generation.started":
                shown = ""
            elif frame.type == "gap":
                last = frame.data["transcript"]["messages"][-1]
                shown = last["content"] if last["role"] == "assistant" else ""
            elif frame.type == "text.delta":
                shown += frame.data["text"]
        return shown

    @property
    def deltas(self) -> int:
        return sum(frame.type == "text.delta" for frame in self.frames)

    @property
    def over(self) -> bool:
        return bool(self.frames) and self.frames[-1].type in ENDS

    @property
    def silence_s(self) -> float:
        """The longest time between two events."""
        return max((b - a for a, b in zip(self.arrived, self.arrived[1:], strict=False)), default=0.0)

    async def read(self) -> None:
        """Ends with the terminal, or with a status that is final."""
        while not self.over:
            self.connections += 1
            with contextlib.suppress(Severed, OSError, asyncio.IncompleteReadError):
                if await self._connect():
                    return
            await asyncio.sleep(RECONNECT_S)

    async def _connect(self) -> bool:
        """True: there is no use in coming back."""
        cursor = next((frame.id for frame in reversed(self.frames) if frame.id), None)
        headers = {"Last-Event-ID": cursor} if cursor else {}
        async with SSE(self.base, events_path(self.sid, merge=0), headers) as stream:
            self.statuses.append(stream.status)
            if stream.status != 200:
                return stream.status in (204, 404, 410)
            async for frame in stream.frames():
                if frame.id:
                    self.arrived.append(time.monotonic())
                self.frames.append(frame)
        return False


@dataclass
class Account:
    """What came of a load. `lost` and `doubled` count readers, and are to be 0."""

    readers: int
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    second_attempts: int = 0
    slowest_s: float = 0.0

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.gaps)


class Load:
    """Sessions that say lorem ipsum, each with its readers."""

    def __init__(self, base: str, tokens: int, rate: float) -> None:
        self._base = base
        self._tokens = tokens
        self._rate = rate
        self.readers: list[Reader] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, sessions: int, readers_each: int = 2) -> None:
        """Returns when the sessions are there, queued, and have their readers."""
        async with httpx.AsyncClient(base_url=self._base, timeout=20) as client:
            for seed in range(sessions):
                sid = await create(client, **speech(self._tokens, self._rate, seed))
                for _ in range(readers_each):
                    reader = Reader(self._base, sid)
                    self.readers.append(reader)
                    self._tasks.append(asyncio.create_task(reader.read()))

    async def said(self, deltas: int) -> None:
        """Wait until every reader has so many deltas more than now, or is over."""
        goals = [(reader, reader.deltas + deltas) for reader in self.readers]
        while not all(reader.over or reader.deltas >= goal for reader, goal in goals):
            await asyncio.sleep(0.01)

    async def over(self, within_s: float) -> None:
        async with asyncio.timeout(within_s):
            await asyncio.gather(*self._tasks)

    async def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def scripts(self) -> list[tuple[Reader, str]]:
        """Every reader with the text it is to end with."""
        sids = list(dict.fromkeys(reader.sid for reader in self.readers))
        return [(reader, "".join(lorem(self._tokens, sids.index(reader.sid)))) for reader in self.readers]

    async def account(self, log: Log) -> Account:
        """Every reader against the script and against the log as it is now."""
        account = Account(len(self.readers))
        for reader, expected in self.scripts():
            account.slowest_s = max(account.slowest_s, reader.silence_s)
            account.second_attempts += any(
                f.type == "generation.started" and f.data["attempt"] > 1 for f in reader.events
            )
            if any(frame.type == "gap" for frame in reader.frames):
                account.gaps.append(reader.sid)
            if not reader.over or reader.frames[-1].type != "generation.completed" or reader.text != expected:
                account.lost.append(reader.sid)
            if not chained([frame.event_id for frame in reader.events], reader.events):
                account.doubled.append(reader.sid)
            account.lost += _differing(reader, await log.events(reader.sid))
        return account


def chained(ids: list[EventId], frames: list[Frame]) -> bool:
    """Each event follows the one before: the next of its epoch, or the first of one that names it."""
    last = START
    for event_id, frame in zip(ids, frames, strict=True):
        first = event_id.seq == 1 and EventId.parse(frame.data["prev"]) == last
        if not (first or (event_id.epoch == last.epoch and event_id.seq == last.seq + 1)):
            return False
        last = event_id
    return True


def _differing(reader: Reader, log: list[Event]) -> list[str]:
    """Ids under which the reader saw something else than the log has."""
    kept = {event.id: (event.type, event.value) for event in log}
    seen = {frame.event_id: (frame.type, frame.data) for frame in reader.events}
    return [f"{reader.sid}: {event_id}" for event_id, what in seen.items() if kept.get(event_id) != what]


@contextlib.asynccontextmanager
async def load(
    base: str, *, sessions: int, tokens: int, rate: float, readers_each: int = 2, speaking: bool = True
) -> AsyncIterator[Load]:
    """`speaking`: begin the block when every reader has seen its generation speak."""
    running = Load(base, tokens, rate)
    try:
        await running.start(sessions, readers_each)
        if speaking:
            await running.said(1)
        yield running
    finally:
        await running.cancel()
