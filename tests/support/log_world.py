"""One session on a real Redis under attack: every script that runs is held against the model, every reader against
the log."""

import asyncio
from collections import Counter
from typing import Any

from api.hub import Hub
from api.outputs import Events, Gap, Refused
from shared import keys
from shared.compaction import event_of, split
from shared.directory import Directory
from shared.errors import SessionNotFound
from shared.events import TERMINALS, Event
from shared.ids import START, EventId, chains
from shared.log import Log, Retention
from shared.redis import connect
from shared.settings import Settings
from tests.support.log_model import Entry, Model
from tests.support.readers import Client, cancelled
from tests.support.sessions import Snapshot
from tests.support.wire import Sent, Wire
from worker.writer import Writer

RETENTION = Retention(log_ms=60_000, tombstone_ms=60_000)
SNAPSHOTS = 8
COMPARED = (
    "epoch", "token", "last", "generation", "attempt", "crashes", "worker", "stop", "question", "answer",
)  # fmt: skip
"""Fields of the hash that are also the model's."""
COMPACTION = ("session_stage", "session_compact")
"""Verbs that change how a log is stored, and nothing of what the model knows."""
SETTLE_S = 15.0
ALIVE = "alive"
"""The worker that has a lease."""


class _NoSubscriber:
    """The test carries messages itself, or loses them."""

    whole = True

    async def subscribe(self, channel: str) -> None:
        pass


class Follower:
    """A client that comes back: what it believes the log to be since `base`."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.base = START
        self.got: list[Event] = []
        self.client: Client | None = None
        self._read = 0

    @property
    def cursor(self) -> EventId:
        return self.got[-1].id if self.got else self.base

    async def connect(self, cursor: EventId | None = None, *, follow: bool = False) -> None:
        await self.leave()
        if cursor is not None and cursor != self.cursor:
            self.base, self.got = cursor, []
        self.client, self._read = Client(self._world.hub, self.cursor, follow=follow, sid=self._world.sid), 0

    async def leave(self) -> None:
        self.listen()
        if self.client is not None:
            await self.client.leave()
            self.listen()
            self.client = None

    def listen(self) -> None:
        """Take over what the client was sent. A client that does not find the next event in its chain was cheated."""
        for output in self.client.outputs[self._read :] if self.client else ():
            self._read += 1
            if isinstance(output, Gap):
                assert output.requested == self.cursor
                self.base, self.got = output.id, []
            elif isinstance(output, Events):
                for event in output.events:
                    assert chains(self.cursor, event.id, event.prev)
                    self._world.same(event.id, event.type, event.data.decode())
                    self.got.append(event)

    @property
    def satisfied(self) -> bool:
        """It has exactly the log since `base`, or was told why not."""
        model = self._world.model
        refused = [o.error for o in self.client.outputs if isinstance(o, Refused)] if self.client else []
        if not model.known:
            return bool(refused) and isinstance(refused[0], SessionNotFound)
        if refused:
            return not model.live and not model.log
        return self.cursor == model.last and self.exact(model)

    def exact(self, model: Model) -> bool:
        places = {entry.id: n for n, entry in enumerate(model.history, 1)} | {START: 0}
        since = model.history[places[self.base] :] if self.base in places else None
        return since == [Entry(event.id, event.type, event.data.decode()) for event in self.got]


class World:
    def __init__(self, url: str, sid: str) -> None:
        self.sid = sid
        self.redis = connect(url, connections=8, timeout_s=5)
        self.model = Model()
        self.snapshots: list[tuple[Snapshot, Model]] = []
        self.writers: list[Writer] = []
        self.followers = [Follower(self) for _ in range(3)]
        self.network: list[bytes] = []
        """Published, and not yet delivered to the node."""
        self._seen: dict[EventId, tuple[str, str]] = {}
        """Every event there ever was, also those a failover lost."""
        told = Settings(redis_url=url, heal_wait_s=0.01, replay_page=3, ring_events=6)
        self.hub = Hub(told, Log(self.redis, RETENTION), Directory(self.redis))
        self.hub._subscriber = _NoSubscriber()  # type: ignore[assignment]

    async def open(self) -> "World":
        self.wire = await Wire(self.redis, self._check).open()
        self.log = Log(self.wire, RETENTION)
        self._listening = self.redis.pubsub()
        await self._listening.subscribe(keys.live(self.sid))
        await self.hub.directory.refresh_lease(ALIVE, 600_000, "")
        await self._remember()
        return self

    async def close(self) -> None:
        for follower in self.followers:
            await follower.leave()
        await cancelled(*self.hub._tasks)
        await self.redis.delete(*keys.session_keys(self.sid))
        await self._listening.aclose()
        await self.redis.aclose(close_connection_pool=True)

    # -- what may happen to it

    async def fail_over(self, lost: int) -> None:
        """Redis is as it was before the last `lost` changes, and so are the calls that were on their way: gone."""
        kept = max(len(self.snapshots) - 1 - lost, 0)
        snapshot, model = self.snapshots[kept]
        del self.snapshots[kept + 1 :]
        await snapshot.restore()
        self.model = model.copy()
        self.wire.sent.clear()

    async def lose_everything(self) -> None:
        await self.redis.delete(*keys.session_keys(self.sid))
        self.model = Model()
        self.snapshots.clear()
        self.wire.sent.clear()
        await self._remember()

    async def trim(self, keep: int) -> None:
        await self.redis.xtrim(keys.events(self.sid), maxlen=keep, approximate=False)
        self.model.trim(len(_kept(await self.redis.xrange(keys.events(self.sid)))))
        await self._remember()

    async def expire(self) -> None:
        await self.redis.delete(keys.events(self.sid))
        self.model.expire()
        await self._remember()

    def deliver(self, count: int, *, lost: bool = False) -> None:
        for payload in self.network[:count]:
            if not lost:
                self.hub._on_message(keys.live(self.sid), payload)
        del self.network[:count]

    async def tick(self) -> None:
        feeds = [feed for feed in self.hub._feeds.values() if feed.last is not None]
        if feeds:
            await self.hub._compare(feeds)

    async def settle(self) -> None:
        """Calm comes. Whoever reads gets the log, exactly, or is told of a gap."""
        self.deliver(len(self.network))
        deadline = asyncio.get_running_loop().time() + SETTLE_S
        while not all([await self._settled(follower) for follower in self.followers]):
            assert asyncio.get_running_loop().time() < deadline, self._stuck()
            await self.tick()
            await asyncio.sleep(0.002)

    async def _settled(self, follower: Follower) -> bool:
        follower.listen()
        if follower.satisfied:
            return True
        if follower.client is None or follower.client.over:
            await follower.connect()
        return False

    def _stuck(self) -> str:
        readers = [(f.base, f.got, f.client and f.client.outputs) for f in self.followers if not f.satisfied]
        return f"readers that never get there: {readers}\nlog: {self.model.history}\nstate: {self.model}"

    # -- what must hold

    def same(self, id_: EventId, type_: str, data: str) -> None:
        """Never two different events under one id."""
        assert self._seen.setdefault(id_, (type_, data)) == (type_, data)

    async def _check(self, sent: Sent, reply: list[Any]) -> None:
        """After each script: its answer, the hash, the log, and what was published are the model's."""
        before = self.model.copy()
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.time().hgetall(keys.session(self.sid)).xrange(keys.events(self.sid))
            pipe.pttl(keys.session(self.sid)).pttl(keys.events(self.sid))
            (seconds, micros), fields, entries, *ttls = await pipe.execute()
        stored = {name.decode(): value.decode() for name, value in fields.items()}
        clock, opened = seconds * 1000 + micros // 1000, int(stored.get("epoch", 0))
        told = [part.decode() if isinstance(part, bytes) else str(part) for part in reply]
        expected = told if sent.verb in COMPACTION else self.model.answer_to(sent, clock, opened)
        assert told[: len(expected)] == expected, (sent, told, before)
        assert len(told) == len(expected) or expected[0] in ("NO", "FENCED"), (sent, told)
        self._check_hash(stored, ttls)
        assert _kept(entries) == self.model.log, (sent, before)
        await self._check_published(before)
        self._check_history()
        await self._remember()

    def _check_hash(self, stored: dict[str, str], ttls: list[int]) -> None:
        model = self.model
        assert stored.get("state", "") == model.state
        if not model.known:
            return
        for name in COMPARED:
            assert stored[name] == str(getattr(model, name)), name
        assert all((ttl == -1) == model.live for ttl in ttls if ttl != -2)
        assert (stored["expire_at"] == "") == model.live

    async def _check_published(self, before: Model) -> None:
        """One message with the frames of what is new, and nothing else."""
        heard = await self._heard()
        if before.known and not self.model.known:
            assert heard == [b""]
        else:
            known = {entry.id for entry in before.history}
            new = [e for e in self.model.history if e.id not in known]
            frames = [Event(e.id, e.type, e.data.encode()).frame for e in new]
            assert heard == ([b"".join(frames)] if frames else [])
        self.network += heard

    async def _heard(self) -> list[bytes]:
        await self.redis.publish(keys.live(self.sid), b"end")
        heard: list[bytes] = []
        while True:
            message = await self._listening.get_message(timeout=5)
            if message is not None and message["type"] == "message":
                if message["data"] == b"end":
                    return heard
                heard.append(message["data"])

    def _check_history(self) -> None:
        history = self.model.history
        cursor = START
        for entry in history:
            prev = EventId.parse(entry.value["prev"]) if entry.id.seq == 1 else None
            assert chains(cursor, entry.id, prev)
            assert entry.id > cursor
            self.same(entry.id, entry.type, entry.data)
            cursor = entry.id
        ends = Counter(entry.value["generation"] for entry in history if entry.type in TERMINALS)
        turns = {e.value["generation"] for e in history if e.type == "message"}
        assert all(count == 1 for count in ends.values())
        assert set(ends) == (turns - {self.model.generation} if self.model.live else turns)

    async def _remember(self) -> None:
        self.snapshots.append((await Snapshot.of(self.redis, self.sid), self.model.copy()))
        del self.snapshots[:-SNAPSHOTS]


def _kept(entries: list[Any]) -> list[Entry]:
    """What the log has, however it is stored."""
    return [Entry(event.id, event.type, event.data.decode()) for event in split(event_of(*entry) for entry in entries)]
