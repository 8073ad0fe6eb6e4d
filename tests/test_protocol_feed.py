"""The feed's rules: what a node makes of published events, and how it finds what was lost. Each test fails without."""

from typing import Any

from api.feed import Feed
from api.outputs import CaughtUp, Gap
from shared import keys
from shared.events import Event, published
from shared.ids import START, EventId
from shared.log import Log
from shared.reader import Decision, Verdict
from shared.views import SessionView
from tests.support import sessions
from tests.support.readers import client, hub
from tests.support.sessions import SID, Snapshot


def _frame(id_: str, prev: str = "") -> bytes:
    data = f'{{"prev":"{prev}"}}' if prev else "{}"
    return f"event: status\ndata: {data}\nid: {id_}\n\n".encode()


def _feed(last: str, ring_events: int = 100) -> Feed:
    feed = Feed(SID, ring_events, 1 << 20)
    feed.start(EventId.parse(last), 0.0)
    return feed


def _ids(events: list[Event] | None) -> list[str] | None:
    return None if events is None else [str(event.id) for event in events]


# -- what is published


def test_chained_events_are_pushed() -> None:
    """A published event that chains is what readers get next."""
    feed = _feed("5-1")
    feed.take(_frame("5-2") + _frame("5-3"), 1.0)
    feed.take(_frame("7-1", "5-3"), 1.0)
    assert _ids(feed.after(EventId(5, 1))) == ["5-2", "5-3", "7-1"]
    assert not feed.dirty


def test_known_events_are_skipped() -> None:
    """What a healing writer says again is not pushed twice, and is no reason to look."""
    feed = _feed("5-1")
    feed.take(_frame("5-2") + _frame("5-3") + _frame("7-1", "5-3"), 1.0)
    feed.take(_frame("5-2") + _frame("5-3") + _frame("7-1", "5-3") + _frame("7-2"), 1.0)
    assert _ids(feed.after(EventId(5, 1))) == ["5-2", "5-3", "7-1", "7-2"]
    assert not feed.dirty


def test_a_hole_means_look_at_the_log() -> None:
    """An event that does not chain is not pushed: something before it was lost."""
    feed = _feed("5-1")
    feed.take(_frame("5-3"), 1.0)
    assert (feed.after(EventId(5, 1)), feed.dirty) == ([], True)


def test_low_epoch_check_looks_at_the_log() -> None:
    """A smaller id of another epoch is no old event: after a failover it may be what the log now holds."""
    feed = _feed("9-4")
    feed.take(_frame("7-1", "5-3"), 1.0)
    assert feed.dirty


def test_nothing_is_pushed_before_the_feed_joined() -> None:
    """Until the hash was read nobody knows where the ring begins."""
    feed = Feed(SID, 100, 1 << 20)
    feed.take(_frame("5-2"), 1.0)
    assert (feed.last, feed.dirty) == (None, True)


def test_a_reader_that_fell_off_the_ring_asks_the_log() -> None:
    """The ring is bounded; it says nothing where it does not know, and never leaves a hole."""
    feed = _feed("5-1", ring_events=4)
    for seq in range(2, 12):
        feed.take(_frame(f"5-{seq}"), 1.0)
    assert feed.after(EventId(5, 2)) is None
    kept = feed.after(EventId(5, 8))
    assert _ids(kept) == ["5-9", "5-10", "5-11"]
    assert feed.after(EventId(4, 8)) is None
    assert published(_frame("5-2"))[0].id == EventId(5, 2)


async def test_a_log_that_does_not_chain_drops_the_ring() -> None:
    """Where the log itself does not chain any more the version moves, and readers go back to the table."""

    async def look(_: EventId) -> tuple[SessionView | None, list[Event], Decision]:
        return None, [], Decision(Verdict.GAP, "lost")

    feed = _feed("5-1")
    feed.take(_frame("5-2"), 1.0)
    await feed.look(look, lambda: 1.0, 10.0, 100)
    assert (feed.version, feed.last) == (1, START)
    assert feed.after(EventId(5, 1)) is None or feed.after(EventId(5, 1)) == []


async def test_a_look_that_is_overtaken_changes_nothing() -> None:
    """Events that came while the log was read are not overwritten by what was read."""
    feed = _feed("5-1")
    asked = []

    async def look(cursor: EventId) -> tuple[SessionView | None, list[Event], Decision]:
        asked.append(str(cursor))
        if len(asked) == 1:
            feed.take(_frame("5-2"), 1.0)
            return None, published(_frame("5-2")), Decision(Verdict.SEND)
        return None, [], Decision(Verdict.WAIT)

    await feed.look(look, lambda: 1.0, 10.0, 100)
    assert asked == ["5-1"]
    assert _ids(feed.after(EventId(5, 1))) == ["5-2"]


# -- the hub


async def test_tick_wakes_readers_after_a_lost_last_message(log: Log, redis: Any, redis_url: str) -> None:
    """A lost *last* message is found: a quiet feed looks at the hash, then at the log."""
    held = await sessions.started(log)
    async with hub(redis_url, redis) as running, client(running) as reader:
        await reader.until(CaughtUp)
        feed, take = running._feeds[SID], running._feeds[SID].take
        feed.take = lambda *_: None  # type: ignore[method-assign]  # every message is lost
        await sessions.say(log, held, 2, "a")
        await reader.until_events(3)
        feed.take = take  # type: ignore[method-assign]
        assert reader.gaps == []


async def test_tick_wakes_a_reader_that_is_not_where_the_feed_is(log: Log, redis: Any, redis_url: str) -> None:
    """A reader that read further than the feed heard, in a log that then lost its tail, is woken by the tick and goes
    back to the table, though feed and log agree."""
    held = await sessions.started(log)
    async with hub(redis_url, redis, quiet_check_s=60) as running, client(running) as first:
        await first.until(CaughtUp)
        feed = running._feeds[SID]
        feed.take = lambda *_: None  # type: ignore[method-assign]  # every message is lost
        before = await Snapshot.of(redis)
        await sessions.say(log, held, 2, "a")
        running._kept.clear()  # the next one comes when the page that the first one read is not kept any more
        async with client(running) as ahead:
            await ahead.until(CaughtUp)
            await before.restore()
            await running._compare([feed])
            await ahead.until(Gap)
            assert (ahead.gaps[0].reason, first.gaps) == ("ahead", [])


async def test_ring_follows_a_failover_to_the_next_attempt(log: Log, redis: Any, redis_url: str) -> None:
    """Redis' tail and the writer are lost together: readers ahead get a gap, then the next attempt."""
    held = await sessions.started(log)
    before = await Snapshot.of(redis)
    async with hub(redis_url, redis) as running, client(running) as reader:
        await sessions.say(log, held, 2, "lost")
        await reader.until_events(3)
        await before.restore()
        assert await log.reap(SID, held.epoch, 9, 0)
        second = await sessions.claim(log, worker="w2")
        await sessions.say(log, second, 2, "again")
        await sessions.finish(log, second, 3)
        await reader.until_over()
        assert [gap.reason for gap in reader.gaps] in (["lost"], ["ahead"])
        assert reader.events[-1].terminal
        after = reader.outputs.index(reader.gaps[0])
        told = [e for o in reader.outputs[after:] for e in getattr(o, "events", [])]
        assert _ids(told) == _ids((await log.events(SID))[-len(told) :])


async def test_feed_readd_puts_a_live_session_back(log: Log, redis: Any, redis_url: str) -> None:
    """A node puts back into the live index what it sees is live: a failover may have lost the entry."""
    await sessions.started(log)
    async with hub(redis_url, redis, quiet_check_s=60) as running, client(running) as reader:
        await reader.until(CaughtUp)
        assert await running.directory.live() == {}
        await running._compare([running._feeds[SID]])
        assert list(await running.directory.live()) == [SID]
        await redis.zadd(keys.LIVE_INDEX, {SID: 7})
        await running._compare([running._feeds[SID]])
        assert await running.directory.live() == {SID: 7}


async def test_a_lost_subscription_is_looked_over(log: Log, redis: Any, redis_url: str) -> None:
    """What was published while the subscription was away is found as soon as it is back."""
    held = await sessions.started(log)
    async with hub(redis_url, redis, quiet_check_s=60) as running, client(running) as reader:
        await reader.until(CaughtUp)
        await redis.client_kill_filter(_type="pubsub")
        await sessions.say(log, held, 2, "a")
        await reader.until_events(3)
        assert reader.gaps == []
