"""Sessions brought into the state a test is about, by the product's own verbs."""

import json
from dataclasses import dataclass
from typing import Any

from shared import keys
from shared.events import Event, encode
from shared.ids import new_token
from shared.log import Log, Opened

SID = "s1"
FIELDS = {"model": "demo/echo", "pipeline": "chat", "options": "{}", "on_crash": "retry", "principal": "anonymous"}
HELLO = {"role": "user", "content": "hello"}
COMPLETED = "generation.completed"


@dataclass(frozen=True)
class Held:
    """The pen of a generation, as its holder knows it."""

    token: str
    epoch: int
    attempt: int


async def create(log: Log, sid: str = SID, nonce: str | None = None) -> Opened:
    return await log.create(sid, nonce or new_token(), "body", [HELLO], FIELDS)


async def claim(log: Log, sid: str = SID, generation: str = "g1", worker: str = "w1") -> Held:
    token = new_token()
    claimed = await log.claim(sid, token, generation, worker)
    assert claimed is not None
    return Held(token, claimed.epoch, claimed.attempt)


async def started(log: Log, sid: str = SID, worker: str = "w1") -> Held:
    """A session whose first generation is held by `worker`."""
    await create(log, sid)
    return await claim(log, sid, worker=worker)


async def say(log: Log, held: Held, first: int, *texts: str, sid: str = SID) -> None:
    assert (await log.append(sid, held.token, held.epoch, first, deltas(*texts)))[0] == "OK"


async def finish(log: Log, held: Held, seq: int, sid: str = SID, generation: str = "g1") -> None:
    assert (await log.append(sid, held.token, held.epoch, seq, [terminal(generation)]))[0] == "OK"


async def finished(log: Log, *texts: str, sid: str = SID) -> Held:
    """A session whose first generation said `texts` and completed."""
    held = await started(log, sid)
    await say(log, held, 2, *texts, sid=sid)
    await finish(log, held, len(texts) + 2, sid)
    return held


async def next_turn(log: Log, sid: str = SID, nonce: str | None = None) -> Opened:
    return await log.message(sid, nonce or new_token(), "body", HELLO, {})


def deltas(*texts: str) -> list[tuple[str, bytes]]:
    return [("text.delta", encode({"text": text})) for text in texts]


def terminal(generation: str = "g1") -> tuple[str, bytes]:
    return (COMPLETED, encode({"generation": generation, "finish_reason": "stop"}))


def question(name: str) -> tuple[str, bytes]:
    return ("question", encode({"id": name, "text": "which?"}))


async def texts(log: Log, sid: str = SID) -> list[str]:
    return [event.value["text"] for event in await log.events(sid) if event.type == "text.delta"]


async def types(log: Log, sid: str = SID) -> list[str]:
    return [event.type for event in await log.events(sid)]


async def last(log: Log, sid: str = SID) -> Event:
    return (await log.events(sid))[-1]


@dataclass(frozen=True)
class Snapshot:
    """A session's keys at one moment. Putting them back is what a failover does that lost everything since."""

    redis: Any
    sid: str
    dumps: tuple[tuple[str, int, bytes | None], ...]
    """Key, ms it had left to live, and what was in it."""

    @classmethod
    async def of(cls, redis: Any, sid: str = SID) -> "Snapshot":
        names = (keys.events(sid), keys.session(sid))
        return cls(redis, sid, tuple([(n, max(await redis.pttl(n), 0), await redis.dump(n)) for n in names]))

    async def restore(self) -> None:
        for name, ttl, dump in self.dumps:
            await self.redis.delete(name)
            if dump is not None:
                await self.redis.restore(name, ttl, dump)


async def field(redis: Any, name: str, sid: str = SID) -> str:
    return ((await redis.hget(keys.session(sid), name)) or b"").decode()


def decoded(data: bytes) -> Any:
    return json.loads(data)
