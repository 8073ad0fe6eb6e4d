"""Compaction of a log in Redis: readers see the same bytes as before; who changes the session meanwhile, wins."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from api.delivery import Delivery
from api.outputs import Events
from shared import keys, scripts, staging
from shared.compaction import Joiner
from shared.events import Event, encode
from shared.ids import START, EventId
from shared.log import Log, Retention
from shared.transcript import fold
from tests.support.cluster import cluster
from tests.support.inprocess import LiveNode, live_node
from tests.support.readers import Client, client, hub
from tests.support.redis_client import connected
from tests.support.sessions import (
    SID,
    Held,
    claim,
    create,
    deltas,
    field,
    finish,
    finished,
    next_turn,
    say,
    started,
    terminal,
)  # fmt: skip
from tests.support.sse import SSE, events_path, read_all, text_of

SAYINGS = ("Kelp ", "holds", "", " fast", '"\\', "é😀", "\n", "日本")
ENTRIES = 13
"""Of the compact log of `two_turns`."""


async def two_turns(log: Log) -> list[Event]:
    """A session with a lost attempt, reasoning among text, and data that cannot be joined. Gives its log."""
    lost = await started(log)
    await say(log, lost, 2, *SAYINGS)
    assert await log.reap(SID, lost.epoch, 9, 0) is not None
    held = await claim(log)
    thought = [("reasoning.delta", encode({"text": text})) for text in SAYINGS]
    odd = ("text.delta", b'{"text":"odd","list":[]}')
    batch = [*thought, *deltas(*SAYINGS), odd, *deltas(*SAYINGS), terminal()]
    assert (await log.append(SID, held.token, held.epoch, 2, batch))[0] == "OK"
    await next_turn(log)
    held = await claim(log, generation="g2")
    await say(log, held, 2, *SAYINGS)
    await say(log, held, 2 + len(SAYINGS), *SAYINGS)
    await finish(log, held, 2 + 2 * len(SAYINGS), generation="g2")
    return await log.events(SID)


def plain(events: list[Event]) -> list[tuple[Any, ...]]:
    return [(event.id, event.type, event.data, event.at) for event in events]


async def entries(redis: Any) -> list[Any]:
    found: list[Any] = await redis.xrange(keys.events(SID))
    return found


async def stages(redis: Any) -> list[bytes]:
    found: list[bytes] = await redis.keys(keys.stage(SID, "*").replace("{", "?").replace("}", "?"))
    return found


# -- the same for everybody


async def test_a_log_is_the_same_in_fewer_entries(log: Log, redis: Any) -> None:
    """Event by event, to the byte; nothing is left beside it, and the second time there is nothing to do."""
    before = await two_turns(log)
    assert await log.compact(SID)
    assert plain(await log.events(SID)) == plain(before)
    assert len(await entries(redis)) == ENTRIES < len(before)
    assert await stages(redis) == []
    compact = await entries(redis)
    assert not await log.compact(SID)
    assert (await entries(redis), await stages(redis)) == (compact, [])


@pytest.mark.parametrize("page", [1000, 3, 1], ids="page {}".format)
async def test_every_cursor_gets_the_same_bytes(log: Log, redis_url: str, page: int) -> None:
    """Before and after, from each id: the very same response with `merge=0`, and also merged where it is one page."""
    async with live_node(redis_url, replay_page=page) as node:
        ids = [START, *(event.id for event in await two_turns(log)), EventId(1 << 52, 7)]
        merges = (0, 1) if page == 1000 else (0,)
        before = {(cursor, merge): await response(node, cursor, merge) for cursor in ids for merge in merges}
        assert await log.compact(SID)
        for (cursor, merge), told in before.items():
            assert await response(node, cursor, merge) == told, (cursor, merge)


async def response(node: LiveNode, cursor: EventId, merge: int) -> tuple[int, bytes]:
    async with SSE(node.url, events_path(SID, merge=merge), {"Last-Event-ID": str(cursor)}) as stream:
        if stream.status == 200:
            async for _ in stream.chunks():
                pass
        return stream.status, stream.raw


async def test_a_long_log_is_replayed_in_bounded_writes(log: Log, redis_url: str) -> None:
    """Without merging, a page of runs is no more events than a page; merged, it says the same in one frame or two."""
    async with live_node(redis_url, replay_page=300) as node:
        held = await started(log)
        for first in range(2, 5002, 500):
            await say(log, held, first, *(f"w{first + n} " for n in range(500)))
        await finish(log, held, 5002)
        before = await log.events(SID)
        merged_before = await read_all(node.url, SID)
        assert await log.compact(SID)
        node.node.hub._kept.clear()  # pages that were read before it
        writes = [
            output.events
            async for output in Delivery(node.node.hub, SID, "anonymous", START, follow=False, merge=False).outputs()
            if isinstance(output, Events)
        ]
        assert plain([event for write in writes for event in write]) == plain(before)
        assert max(map(len, writes)) < 300 + 256
        merged = await read_all(node.url, SID)
        assert (text_of(merged), merged[-1].id) == (text_of(merged_before), merged_before[-1].id)
        assert len(merged) < 10


async def test_the_transcript_is_the_same(log: Log, redis_url: str) -> None:
    """Joined deltas are folded as they are, and what the next attempt is given says the same."""
    before = fold(await two_turns(log))
    assert await log.compact(SID)
    joined = await log.events(SID, joined=True)
    assert fold(joined) == before
    assert len(joined) == ENTRIES
    await next_turn(log)
    _, _, told = await log.claim_and_read(SID, "token", "g3", "w1")
    assert fold(told[:ENTRIES]) == before
    assert [event.type for event in told[ENTRIES:]] == ["message", "generation.started"]


async def test_reading_up_to_an_id_within_a_run(log: Log) -> None:
    """The end is where it was asked for, in pages of any size."""
    before = await two_turns(log)
    assert await log.compact(SID)
    for n, event in enumerate(before, 1):
        for page in (1, 1000):
            assert plain(await log.events(SID, until=event.id, page=page)) == plain(before[:n])


async def test_readers_that_replay_during_the_swap_notice_nothing(log: Log, redis: Any, redis_url: str) -> None:
    """At every place a reader can be between two pages: it gets the rest, once."""
    before = await two_turns(log)
    raw = await entries(redis)
    async with hub(redis_url, redis, replay_page=3) as running:
        for place in range(len(raw) // 3):
            await redis.delete(keys.events(SID))
            for entry_id, fields in raw:
                await redis.xadd(keys.events(SID), fields, id=entry_id)
            running._kept.clear()  # pages of the last place
            outputs = Delivery(running, SID, "anonymous", START, follow=False, merge=False).outputs()
            got: list[Event] = []
            for _ in range(place):
                got += (await anext(outputs)).events  # type: ignore[union-attr]  # a replay is events
            assert await log.compact(SID)
            got += [event async for output in outputs if isinstance(output, Events) for event in output.events]
            assert plain(got) == plain(before)


async def test_a_feed_that_missed_everything_finds_it_joined(log: Log, redis: Any, redis_url: str) -> None:
    """A node cut off while a generation ended and was compacted: its readers get each delta, without a gap."""
    held = await started(log)
    async with hub(redis_url, redis) as running, client(running) as reader:
        await reader.until_events(2)
        await running._subscriber.unsubscribe(keys.live(SID))
        await say(log, held, 2, *SAYINGS)
        await finish(log, held, 2 + len(SAYINGS))
        assert await log.compact(SID)
        await reader.until_over()
        assert ids_of(reader) == [event.id for event in await log.events(SID)]
        assert reader.gaps == []


def ids_of(reader: Client) -> list[EventId]:
    return [event.id for event in reader.events]


async def test_a_follower_goes_on_into_the_next_turn(log: Log, redis: Any, redis_url: str) -> None:
    """A reader that stays sees the next turn follow, though what it has was rewritten meanwhile."""
    await finished(log, *SAYINGS)
    async with hub(redis_url, redis) as running, client(running, follow=True) as reader:
        await reader.until_events(3 + len(SAYINGS))
        assert await log.compact(SID)
        await next_turn(log)
        await reader.until_events(4 + len(SAYINGS))
        assert ids_of(reader) == [event.id for event in await log.events(SID)]


# -- trimmed, and then read


async def test_a_trimmed_run_is_a_gap(log: Log, redis: Any, redis_url: str) -> None:
    """XTRIM takes whole runs: who stood in one is told the first id that is left; who stands in the rest reads on."""
    held = await started(log)
    texts = [f"<{n}>" for n in range(600)]
    for first in (0, 300):
        await say(log, held, 2 + first, *texts[first : first + 300])
    await finish(log, held, 602)
    assert await log.compact(SID)
    await redis.xtrim(keys.events(SID), maxlen=3, approximate=False)
    earliest = (await log.events(SID))[0].id
    assert earliest.seq > 2
    async with live_node(redis_url) as node:
        for cursor in (None, f"{held.epoch}-{earliest.seq - 2}"):
            frames = await read_all(node.url, SID, cursor)
            assert [frame.type for frame in frames] == ["gap", "generation.completed"]
            assert (frames[0].data["reason"], frames[0].data["earliest"]) == ("trimmed", str(earliest))
            assert frames[0].id == f"{held.epoch}-601"
            said = frames[0].data["transcript"]["messages"][-1]["content"]
            assert said == "".join(texts[earliest.seq - 2 :])
        for seq in (earliest.seq - 1, earliest.seq, earliest.seq + 7):
            frames = await read_all(node.url, SID, f"{held.epoch}-{seq}", merge=0)
            assert [frame.event_id.seq for frame in frames] == list(range(seq + 1, 603))


# -- who changes the session wins


async def _message(log: Log, redis: Any) -> None:
    await next_turn(log)


async def _turn(log: Log, redis: Any) -> None:
    await next_turn(log)
    held = await claim(log, generation="g2")
    await finish(log, held, 2, generation="g2")


async def _delete(log: Log, redis: Any) -> None:
    await log.delete(SID)


async def _delete_and_create(log: Log, redis: Any) -> None:
    await log.delete(SID)
    await finished(log, *SAYINGS)


async def _expire(log: Log, redis: Any) -> None:
    await redis.delete(keys.events(SID))


async def _forget(log: Log, redis: Any) -> None:
    await redis.delete(keys.events(SID), keys.session(SID))


async def _trim(log: Log, redis: Any) -> None:
    await redis.xtrim(keys.events(SID), maxlen=4, approximate=False)


async def _pick(log: Log, redis: Any) -> None:
    found = await entries(redis)
    await redis.xdel(keys.events(SID), found[4][0])


async def _compact(log: Log, redis: Any) -> None:
    await staging.compact(redis, SID, (await log.events(SID))[-1].id)


async def _lose_memory(log: Log, redis: Any) -> None:
    """As after a failover that rolled the hash back, and not the log."""
    await redis.hset(keys.session(SID), "last", "1-1")


async def _lose_stage(log: Log, redis: Any) -> None:
    await redis.delete(*await stages(redis))


async def _cut_stage(log: Log, redis: Any) -> None:
    await redis.xtrim((await stages(redis))[0], maxlen=2, approximate=False)


MEANWHILE: list[Callable[[Log, Any], Awaitable[None]]] = [
    _message, _turn, _delete, _delete_and_create, _expire, _forget, _trim, _pick, _compact, _lose_memory, _lose_stage,
    _cut_stage,
]  # fmt: skip


@pytest.mark.parametrize("happens", MEANWHILE, ids=lambda happens: happens.__name__.strip("_"))
async def test_whatever_happens_between_reading_and_the_swap_stays(
    happens: Callable[[Log, Any], Awaitable[None]], log: Log, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The swap is refused: log, hash and their time to live are what the other one made of them."""
    await finished(log, *SAYINGS, "one more")
    swap, states = staging._Stage.swap, []

    async def after_all_that(stage: Any, *args: Any) -> bool:
        monkeypatch.setattr(staging._Stage, "swap", swap)
        await happens(log, redis)
        states.append(await state(redis))
        return await swap(stage, *args)

    monkeypatch.setattr(staging._Stage, "swap", after_all_that)
    assert not await log.compact(SID)
    assert await state(redis) == states[0]
    assert await stages(redis) == []


async def state(redis: Any) -> tuple[Any, ...]:
    """All there is to know of a session but how many ms it has left."""
    ttls = [await redis.pttl(keys.events(SID)), await redis.pttl(keys.session(SID))]
    return await entries(redis), await redis.hgetall(keys.session(SID)), [min(ttl, 0) for ttl in ttls]


async def test_a_live_session_is_left_alone(log: Log, redis: Any) -> None:
    """Queued, running, waiting: nothing is written, and nothing expires."""
    held = await started(log)
    await say(log, held, 2, *SAYINGS)
    before = await state(redis)
    assert not await log.compact(SID)
    assert await state(redis) == before
    assert before[2] == [-1, -1]


async def test_the_swap_itself_refuses_a_live_session(log: Log, redis: Any) -> None:
    """Also with everything else as it was read."""
    held = await started(log)
    await say(log, held, 2, *SAYINGS)
    before = await state(redis)
    joiner, stage = Joiner(), staging._Stage(redis, SID)
    await stage.write(joiner.take(await entries(redis)) + joiner.done())
    assert not await stage.swap(joiner, end_of(before))
    assert (await state(redis), await stages(redis)) == (before, [])


def end_of(found: tuple[Any, ...]) -> EventId:
    return EventId.parse(found[0][-1][0].decode())


async def test_a_log_that_lost_its_end_is_left_alone(log: Log, redis: Any) -> None:
    """Somebody removed the last event by hand: what is left is not joined, so that its id never comes again."""
    await finished(log, *SAYINGS)
    await redis.xdel(keys.events(SID), str((await log.events(SID))[-1].id))
    before = await state(redis)
    assert not await log.compact(SID)
    assert (await state(redis), await stages(redis)) == (before, [])


async def test_what_gains_nothing_is_left_alone(log: Log, redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log without neighbouring deltas, in one page or more; none at all; an unknown session."""
    assert not await log.compact(SID)
    await finished(log, "one")
    before = await entries(redis)
    for page in (500, 2):
        monkeypatch.setattr(staging, "PAGE", page)
        assert not await log.compact(SID)
        assert (await entries(redis), await stages(redis)) == (before, [])
    await log.delete(SID)
    assert not await log.compact(SID)


async def test_many_at_once_are_like_one(log: Log, redis: Any) -> None:
    """Each has a stage of its own: one wins, and nothing is left of the others."""
    before = await two_turns(log)
    done = await asyncio.gather(*(log.compact(SID) for _ in range(8)))
    assert any(done)
    assert plain(await log.events(SID)) == plain(before)
    assert await stages(redis) == []


async def test_a_swap_that_arrives_late_does_nothing(log: Log, redis: Any) -> None:
    """The reply was lost and the call is repeated, or arrives after another turn."""
    await finished(log, *SAYINGS)
    last = (await log.events(SID))[-1].id
    joiner = Joiner()
    stage = staging._Stage(redis, SID)
    await stage.write(joiner.take(await entries(redis)) + joiner.done())
    assert await stage.swap(joiner, last)
    compact = await state(redis)
    assert not await stage.swap(joiner, last)
    assert await state(redis) == compact


async def test_a_repeated_append_is_answered_as_before(log: Log, redis: Any) -> None:
    """A writer that lingers longer than it should: all is there already, nothing is added; a stale one is refused."""
    held = await finished(log, *SAYINGS)
    assert await log.compact(SID)
    before = await state(redis)
    seq = 2 + len(SAYINGS)
    assert tuple(await log.append(SID, held.token, held.epoch, seq, [terminal()]))[:2] == ("OK", seq)
    assert (await log.append(SID, held.token, held.epoch, 4, [*deltas(*SAYINGS[2:]), terminal()]))[0] == "OK"
    assert (await log.append(SID, held.token, held.epoch, seq + 1, deltas("more")))[0] == "ENDED"
    assert (await log.append(SID, "other", held.epoch, seq, [terminal()]))[0] == "FENCED"
    assert await state(redis) == before


async def test_the_next_turn_is_appended_to_a_compact_log(log: Log, redis: Any) -> None:
    """It chains, it keeps the log from expiring, and is compacted in its turn; what was compact is not touched."""
    await finished(log, *SAYINGS)
    assert await log.compact(SID)
    first = await entries(redis)
    await next_turn(log)
    held: Held = await claim(log, generation="g2")
    assert await redis.pttl(keys.events(SID)) == -1
    await say(log, held, 2, *SAYINGS)
    await finish(log, held, 2 + len(SAYINGS), generation="g2")
    before = await log.events(SID)
    assert await log.compact(SID)
    assert plain(await log.events(SID)) == plain(before)
    assert (await entries(redis))[: len(first)] == first
    cursor = START
    for event in before:
        assert event.follows(cursor)
        cursor = event.id


# -- time to live, memory, errors


async def test_the_log_expires_when_it_would_have(log: Log, redis: Any) -> None:
    """Neither the retention begins anew, nor does the log stay for ever, nor is the hash touched."""
    await finished(log, *SAYINGS)
    await redis.pexpire(keys.events(SID), 30_000)
    info = await field(redis, "expire_at"), await field(redis, "last")
    assert await log.compact(SID)
    assert 0 < await redis.pttl(keys.events(SID)) <= 30_000
    assert 30_000 < await redis.pttl(keys.session(SID)) <= 120_000
    assert (await field(redis, "expire_at"), await field(redis, "last")) == info


async def test_a_log_that_an_operator_keeps_is_kept(log: Log, redis: Any) -> None:
    """PERSIST by hand stays what it was."""
    await finished(log, *SAYINGS)
    await redis.persist(keys.events(SID))
    assert await log.compact(SID)
    assert await redis.pttl(keys.events(SID)) == -1


async def test_a_compact_log_takes_a_fraction_of_the_memory(log: Log, redis: Any) -> None:
    """A thousand words: less than half of what they took one by one."""
    held = await started(log)
    await say(log, held, 2, *(f"word{n} " for n in range(1000)))
    await finish(log, held, 1002)
    before = await redis.memory_usage(keys.events(SID), samples=0)
    assert await log.compact(SID)
    assert await redis.memory_usage(keys.events(SID), samples=0) < before / 2


async def test_redis_lost_on_the_way_leaves_the_log_and_nothing_for_ever(
    log: Log, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is as it was; what was staged expires."""
    await finished(log, *SAYINGS)
    before = await state(redis)
    run = scripts.run

    async def lost(redis: Any, verb: str, *args: Any) -> Any:
        if verb == "session_compact":
            raise RedisConnectionError("lost")
        return await run(redis, verb, *args)

    monkeypatch.setattr(scripts, "run", lost)
    with pytest.raises(RedisConnectionError):
        await log.compact(SID)
    assert await state(redis) == before
    (stage,) = await stages(redis)
    assert 0 < await redis.pttl(stage) <= staging.STAGE_MS


async def test_a_full_memory_leaves_the_log(log: Log, redis: Any) -> None:
    """Redis refuses the stage: nothing has changed."""
    await finished(log, *SAYINGS)
    before = await state(redis)
    await redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(Exception, match=r"OOM|maxmemory"):
            await log.compact(SID)
    finally:
        await redis.config_set("maxmemory", 0)
    assert (await state(redis), await stages(redis)) == (before, [])


async def test_a_log_larger_than_a_page_is_compacted_page_by_page(
    log: Log, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read and written in small pages, also where a run goes over the edge of one."""
    before = await two_turns(log)
    monkeypatch.setattr(staging, "PAGE", 3)
    assert await log.compact(SID)
    assert plain(await log.events(SID)) == plain(before)
    assert len(await entries(redis)) == ENTRIES


async def test_a_cluster_takes_it() -> None:
    """All keys of compaction share a slot: the same on a Cluster, wherever the session lives."""
    with cluster() as nodes:
        async with connected(nodes.url) as spread:
            log = Log(spread, Retention(log_ms=60_000, tombstone_ms=60_000))
            for sid in ("s1", "s2", "s3", "s4"):
                await finished(log, *SAYINGS, sid=sid)
                before = await log.events(sid)
                assert await log.compact(sid)
                assert plain(await log.events(sid)) == plain(before)
                assert await spread.xlen(keys.events(sid)) == 4


async def test_creating_anew_after_a_delete_begins_an_empty_log(log: Log) -> None:
    """Nothing of a compacted log is left for a session of the same name."""
    await finished(log, *SAYINGS)
    assert await log.compact(SID)
    await log.delete(SID)
    await create(log)
    assert [event.type for event in await log.events(SID)] == ["message"]


async def test_a_repeated_write_is_written_once(log: Log, redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call comes twice, as after a lost reply: the log is as compact, and the same."""
    before = await two_turns(log)
    run = scripts.run

    async def twice(redis: Any, verb: str, *args: Any) -> Any:
        if verb == "session_stage":
            await run(redis, verb, *args)
        return await run(redis, verb, *args)

    monkeypatch.setattr(scripts, "run", twice)
    monkeypatch.setattr(staging, "PAGE", 3)
    assert await log.compact(SID)
    assert plain(await log.events(SID)) == plain(before)


async def test_a_stage_that_went_away_is_not_begun_in_its_middle(log: Log, redis: Any) -> None:
    """It expired between two writes: nothing is written after a hole, and the swap is refused."""
    await finished(log, *SAYINGS)
    joiner, stage = Joiner(), staging._Stage(redis, SID)
    read = await entries(redis)
    await stage.write(joiner.take(read[:4]))
    await redis.delete(*await stages(redis))
    await stage.write(joiner.take(read[4:]) + joiner.done())
    assert await stages(redis) == []
    assert not await stage.swap(joiner, (await log.events(SID))[-1].id)
    assert await entries(redis) == read
