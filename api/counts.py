"""What a node counts. Plain numbers: whoever adds to one does nothing else. `api.metrics` says what they mean."""

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from shared.ids import EventId
from shared.metrics import SIZES, Distribution

if TYPE_CHECKING:
    from api.first_delivery import FirstDeliveries

Kind = tuple[str, str]
"""Of a reader: its transport and its dialect."""
NONE: Kind = ("none", "none")


class Counts:
    __slots__ = (
        "appended", "dropped", "ended", "firsts", "from_log", "from_ring", "gaps", "lag", "live", "looks", "opened",
        "readers", "refilled", "replays", "requests", "responses", "resumed", "taken",
    )  # fmt: skip

    def __init__(self) -> None:
        self.taken = 0
        self.live = 0
        """Delivered to audiences, at once."""
        self.from_ring = 0
        self.from_log = 0
        self.looks = 0
        self.refilled = 0
        self.dropped = 0
        self.appended = 0
        self.gaps: Counter[tuple[str]] = Counter()
        self.readers: Counter[Kind] = Counter()
        """Here now."""
        self.opened: Counter[Kind] = Counter()
        self.resumed: Counter[Kind] = Counter()
        self.ended: Counter[tuple[str, str]] = Counter()
        """Generations that ended without a worker: how, and why."""
        self.requests: Counter[tuple[str, str, str]] = Counter()
        """By method, template of the route, and status."""
        self.responses: dict[tuple[str, str], Distribution] = {}
        """Seconds until a response began, by method and route."""
        self.replays = Distribution(SIZES)
        self.lag = Lag()
        self.firsts: FirstDeliveries | None = None
        """There while traces are on."""

    def arrived(self, kind: Kind, *, resumes: bool) -> None:
        self.readers[kind] += 1
        self.opened[kind] += 1
        if resumes:
            self.resumed[kind] += 1


class Lag:
    """Which event is to be looked at: how long ago it was appended when it was written to its readers."""

    __slots__ = ("_noted", "_there", "seconds", "wanted")

    def __init__(self) -> None:
        self.seconds = Distribution()
        self.wanted = False
        """Whoever writes an event next is to `note` it."""
        self._noted: tuple[str, EventId, float] | None = None
        self._there = asyncio.Event()

    def note(self, sid: str, event_id: EventId) -> None:
        """It has just been written."""
        self.wanted = False
        self._noted = (sid, event_id, asyncio.get_running_loop().time())
        self._there.set()

    async def next(self) -> tuple[str, EventId, float]:
        """Session, event, and loop time at which it was written."""
        self.wanted = True
        await self._there.wait()
        self._there.clear()
        assert self._noted is not None
        return self._noted
