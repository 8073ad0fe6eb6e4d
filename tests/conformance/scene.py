"""A session whose log the test itself writes, by the product's verbs: so that it decides what happens when.

Ids are named by place, since epochs are random: `2-3` is the third event of the second epoch.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from shared import keys
from shared.directory import Directory
from shared.events import EventType, encode
from shared.ids import EventId, new_session_id, new_token
from shared.log import Log
from tests.support.sessions import FIELDS, Snapshot

WORKER = "writer-of-the-test"
FUTURE = 1_000_000_000
"""Added to an epoch: larger than any that will be opened here."""


class Scene:
    """One session, its pen, and what has been appended so far."""

    def __init__(self, redis: Any, log: Log) -> None:
        self.redis = redis
        self.log = log
        self.directory = Directory(redis)
        self.sid = new_session_id()
        self.epochs: list[int] = []
        """In the order in which they were opened, also those that were lost again."""
        self.last = EventId(0, 0)
        self.goes_on = True
        """Whether there can be a next turn."""
        self._token = ""
        self._turn = 1
        self._marked: tuple[Snapshot, EventId] | None = None

    # -- ids

    def id_of(self, place: str) -> str:
        """`2-3` → the id there. The epoch may also be `0`, `2+`: between that one and the next, and `9`: to come."""
        epoch, _, seq = place.partition("-")
        number = int(epoch.removesuffix("+"))
        if number == 0:
            return place
        if number > len(self.epochs):
            return f"{self.epochs[-1] + FUTURE}-{seq}"
        return f"{self.epochs[number - 1] + epoch.endswith('+')}-{seq}"

    def place_of(self, event_id: str) -> str:
        """The opposite; `?` where the epoch is none of the session's."""
        epoch, _, seq = event_id.partition("-")
        if epoch == "0":
            return event_id
        known = int(epoch) in self.epochs
        return f"{self.epochs.index(int(epoch)) + 1 if known else '?'}-{seq}"

    # -- turns

    async def open(self) -> None:
        opened = await self.log.create(self.sid, new_token(), "body", [_said("hello")], FIELDS)
        self._opened(opened.last)

    def adopt(self, sid: str, generation: str = "g1") -> None:
        """Go on with a turn that somebody else has opened."""
        self.sid, self._turn = sid, int(generation[1:])

    async def next_turn(self, *, interrupt: bool = False) -> None:
        by = "user" if interrupt else ""
        opened = await self.log.message(self.sid, new_token(), "body", _said("more"), {}, interrupt_by=by)
        self._turn += 1
        self._opened(opened.last)

    async def start(self) -> None:
        self._token = new_token()
        claimed = await self.log.claim(self.sid, self._token, f"g{self._turn}", WORKER)
        assert claimed is not None
        self._opened(EventId(claimed.epoch, 1))

    async def crash(self, *, attempts: int = 2) -> None:
        """The worker is gone, and judged: back to the queue, or the end where attempts are used up."""
        reaped = await self.log.reap(self.sid, self.last.epoch, attempts, 0)
        assert reaped is not None
        view = await self.log.view(self.sid)
        assert view is not None
        if not reaped.requeued:
            self._opened(view.last)

    async def append(self, kind: EventType, **data: Any) -> None:
        outcome = await self.log.append(
            self.sid, self._token, self.last.epoch, self.last.seq + 1, [(kind, encode(data))]
        )
        assert outcome[0] == "OK", outcome
        self.last = EventId(self.last.epoch, self.last.seq + 1)

    async def end(self, kind: EventType, **data: Any) -> None:
        await self.append(kind, generation=f"g{self._turn}", **data)

    # -- accidents

    async def mark(self) -> None:
        self._marked = (await Snapshot.of(self.redis, self.sid), self.last)

    async def roll_back(self) -> None:
        """A failover that lost everything since the mark."""
        assert self._marked is not None
        snapshot, self.last = self._marked
        await snapshot.restore()

    async def expire(self) -> None:
        self.goes_on = False
        await self.redis.delete(keys.events(self.sid))

    async def delete(self) -> None:
        self.goes_on = False
        await self.log.delete(self.sid)

    # -- what is there

    async def sessions(self) -> int:
        """How many Redis knows, of anybody."""
        return len([key async for key in self.redis.scan_iter(keys.session("*"), count=1000)])

    async def generations(self) -> list[str]:
        """Of this session, as its log says."""
        events = await self.log.events(self.sid)
        return [event.value["generation"] for event in events if event.type == EventType.MESSAGE]

    def _opened(self, at: EventId) -> None:
        """The newest epoch may have opened with more than one event."""
        self.epochs.append(at.epoch)
        self.last = at


def _said(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


# -- steps, for tables

Step = Callable[[Scene], Awaitable[None]]


def start(scene: Scene) -> Awaitable[None]:
    """A worker takes the pen: the first attempt, or the next one."""
    return scene.start()


def say(*texts: str) -> Step:
    """One event each."""

    async def step(scene: Scene) -> None:
        for text in texts:
            await scene.append(EventType.TEXT, text=text)

    return step


def status(scene: Scene) -> Awaitable[None]:
    return scene.append(EventType.STATUS, text="Looking", step="look", state="running")


def call_a_tool(scene: Scene) -> Awaitable[None]:
    return scene.append(EventType.TOOL_CALL, id="c1", name="look", arguments={"at": "the sea"})


def ask(scene: Scene) -> Awaitable[None]:
    return scene.append(EventType.QUESTION, id="q1", text="Which?", choices=["red", "blue"], expires_at=None)


def take_the_answer(scene: Scene) -> Awaitable[None]:
    return scene.append(EventType.ANSWER, id="q1", text="red", by="anonymous")


def finish(scene: Scene) -> Awaitable[None]:
    return scene.end(EventType.COMPLETED, finish_reason="stop")


def stopped(scene: Scene) -> Awaitable[None]:
    return scene.end(EventType.CANCELLED, by="user", confirmed=True)


def next_turn(scene: Scene) -> Awaitable[None]:
    return scene.next_turn()


def interrupt(scene: Scene) -> Awaitable[None]:
    """The next turn while one runs, which ends by it."""
    return scene.next_turn(interrupt=True)


def crash(scene: Scene) -> Awaitable[None]:
    """The worker is lost; the generation waits for the next attempt."""
    return scene.crash()


def verdict(scene: Scene) -> Awaitable[None]:
    """The worker is lost, and no attempt is left."""
    return scene.crash(attempts=1)


def alive(scene: Scene) -> Awaitable[None]:
    """The worker has a lease."""
    return scene.directory.refresh_lease(WORKER, 60_000, "{}")


def mark(scene: Scene) -> Awaitable[None]:
    return scene.mark()


def roll_back(scene: Scene) -> Awaitable[None]:
    return scene.roll_back()


def say_again(*texts: str) -> Step:
    """The writer heals the log: all that was lost, and more, in one append."""

    async def step(scene: Scene) -> None:
        batch = [(EventType.TEXT.value, encode({"text": text})) for text in texts]
        epoch, seq = scene.last
        assert (await scene.log.append(scene.sid, scene._token, epoch, seq + 1, batch))[0] == "OK"
        scene.last = EventId(epoch, seq + len(texts))

    return step


def keep(count: int) -> Step:
    """The head of the log is trimmed away; so many events stay."""

    async def step(scene: Scene) -> None:
        await scene.redis.xtrim(keys.events(scene.sid), maxlen=count, approximate=False)

    return step


async def compact(scene: Scene) -> None:
    assert await scene.log.compact(scene.sid)


def expire(scene: Scene) -> Awaitable[None]:
    return scene.expire()


def delete(scene: Scene) -> Awaitable[None]:
    return scene.delete()
