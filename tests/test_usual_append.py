"""The append of one delta goes a way of its own through its script: the same rules, and the same traces in Redis."""

import asyncio
import time
from importlib.resources import files
from typing import Any

import pytest

from shared import keys, scripts
from shared.events import EventType, encode
from shared.log import Log
from tests.support import sessions
from tests.support.sessions import SID, Held

DELTAS = (EventType.TEXT.value, EventType.REASONING.value)
UNEVEN = encode({"text": 'a "b"\n\n\\ é [] %s %1'})
"""What would show if a script looked into it."""


async def _traces(log: Log, redis: Any, held: Held, *appends: list[tuple[str, bytes]]) -> tuple[Any, ...]:
    """What these appends leave: outcomes, entries without their time, the hash, what was published."""
    async with redis.pubsub() as listening:
        await listening.subscribe(keys.live(SID))
        await listening.get_message(timeout=5)
        seq, outcomes = 2, []
        for batch in appends:
            outcomes.append(await log.append(SID, held.token, held.epoch, seq, batch))
            seq += len(batch)
        heard = [(await listening.get_message(timeout=5))["data"] for _ in appends]
    entries = await redis.xrange(keys.events(SID), min=f"{held.epoch}-2")
    for _, fields in entries:
        fields.pop(b"at")
    told = [(entry_id, list(fields.items())) for entry_id, fields in entries]
    return outcomes, told, await redis.hgetall(keys.session(SID)), b"".join(heard)


async def test_a_delta_alone_leaves_the_traces_of_one_in_a_batch(log: Log, redis: Any) -> None:
    """Appended one by one or together, deltas leave the same entries, hash and published frames, to the byte."""
    batch = [(kind, UNEVEN) for kind in DELTAS]
    held = await sessions.started(log)
    before = await sessions.Snapshot.of(redis)
    outcomes, *alone = await _traces(log, redis, held, *([each] for each in batch))
    await before.restore()
    [together], *joined = await _traces(log, redis, held, batch)
    assert alone == joined
    assert outcomes[-1] == together == ("OK", 3, "", "")
    assert alone[2] == b"".join(event.frame for event in (await log.events(SID))[-2:])


async def test_a_delta_bears_the_time_in_whole_milliseconds(log: Log) -> None:
    """Also right after a full second, where the microseconds have fewer digits."""
    held, seq, early = await sessions.started(log), 2, False
    await asyncio.sleep(1 - time.time() % 1)
    async with asyncio.timeout(30):
        while not early:
            before = time.time_ns() // 1_000_000
            await sessions.say(log, held, seq, "x")
            at = (await sessions.last(log)).at
            assert before <= at <= time.time_ns() // 1_000_000
            seq, early = seq + 1, at % 1000 < 100


@pytest.mark.parametrize("kind", DELTAS)
async def test_a_delta_is_told_of_a_stop(kind: str, log: Log) -> None:
    """Each append says whether the generation was asked to stop."""
    held = await sessions.started(log)
    await log.stop(SID, "user", "g1")
    assert await log.append(SID, held.token, held.epoch, 2, [(kind, UNEVEN)]) == ("OK", 2, "g1", "")


async def test_a_delta_said_while_waiting_is_told_the_answer(log: Log) -> None:
    """A question does not keep others from speaking: whoever appends next is told the answer to it."""
    held = await sessions.started(log)
    await log.append(SID, held.token, held.epoch, 2, [sessions.question("q1")])
    await log.answer(SID, "n1", "q1", "yes", "user")
    outcome, seq, _, answer = await log.append(SID, held.token, held.epoch, 3, sessions.deltas("x"))
    assert (outcome, seq) == ("OK", 3)
    assert sessions.decoded(answer.encode())["text"] == "yes"


async def test_a_delta_without_a_token_is_fenced(log: Log, redis: Any) -> None:
    """No token holds no pen, not even one that nobody holds."""
    held = await sessions.started(log)
    await redis.hset(keys.session(SID), "token", "")
    assert (await log.append(SID, "", held.epoch, 2, sessions.deltas("x")))[0] == "FENCED"


async def test_a_delta_costs_five_commands(log: Log, redis: Any) -> None:
    """Reading the hash, the clock, the entry, what is published, and the last id: nothing else is run for a delta."""
    held = await sessions.started(log)
    await sessions.say(log, held, 2, "the script is known")
    await redis.config_resetstat()
    await sessions.say(log, held, 3, "x")
    calls = {name: stats["calls"] for name, stats in (await redis.info("commandstats")).items()}
    calls.pop("cmdstat_config|resetstat", None)
    assert calls == {f"cmdstat_{name}": 1 for name in ("evalsha", "hmget", "time", "xadd", "publish", "hset")}


@pytest.mark.parametrize("verb", ["generation_append", "generation_claim"])
def test_every_verb_has_the_prelude_once(verb: str) -> None:
    """At its top, or where the verb says so: after the usual append, which does without."""
    prelude = (files("shared") / "lua" / "prelude.lua").read_text()
    before, *after = scripts.source(verb).split(prelude)
    assert len(after) == 1
    assert ("XADD" in before) == (verb == "generation_append")
