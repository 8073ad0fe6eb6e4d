"""Pages that were read a moment ago: who is given one, and who is not; and a storm of readers who come back."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from api.feed import Feed
from api.hub import Hub
from api.kept import KeptPages
from api.outputs import CaughtUp, Cut, Gap, KeepAlive
from shared import keys
from shared.directory import Directory
from shared.events import encode
from shared.ids import START, EventId
from shared.log import Log
from shared.pages import Page
from shared.views import FIELDS, SessionView
from tests.support import sessions
from tests.support.far import far
from tests.support.inprocess import live_node
from tests.support.readers import Client, client, hub, settings
from tests.support.redis_client import connected
from tests.support.sessions import SID, Snapshot
from tests.support.sse import read_all

CURSOR = EventId(7, 1)


def _view() -> SessionView:
    values: dict[str, bytes] = {"state": b"running", "epoch": b"7", "last": b"7-9"}
    found = SessionView.of([values.get(name) for name in FIELDS], log_exists=True)
    assert found is not None
    return found


def _page(first: int = 2, text: str = "x") -> Page:
    data = encode({"text": text})
    return Page(CURSOR, [(b"7-%d" % first, [b"type", b"text.delta", b"data", data, b"at", b"1"])], 1, 1000)


def _feed(sid: str = SID) -> Feed:
    feed = Feed(sid, 100, 1 << 20)
    feed.start(EventId(7, 9), 0.0)
    return feed


# -- what is kept


def test_a_page_is_given_to_who_is_at_its_cursor() -> None:
    """With the session that was read before it: the two are never taken apart."""
    kept, feed, found = KeptPages(), _feed(), (_view(), _page())
    kept.keep(feed, feed.version, CURSOR, found, 0.0)
    assert kept.get(feed, CURSOR, 0.5) is found
    assert kept.get(feed, EventId(7, 2), 0.5) is None
    assert kept.get(_feed(sid="other"), CURSOR, 0.5) is None


def test_a_page_is_not_kept_past_its_time() -> None:
    """It is counted from the reading, however often it is given out; and its memory is given back."""
    kept, feed = KeptPages(seconds=1.0), _feed()
    kept.keep(feed, feed.version, CURSOR, (_view(), _page()), 0.0)
    assert kept.get(feed, CURSOR, 0.9) is not None
    assert kept.get(feed, CURSOR, 1.1) is None
    kept.tidy(1.1)
    assert kept.bytes == 0


def test_pages_are_bounded_in_bytes() -> None:
    """All together, whatever session they are of: the oldest go first."""
    size = _page(text="x" * 1000).size
    kept, feeds = KeptPages(most_bytes=size * 3), [_feed(sid=f"s{n}") for n in range(5)]
    for feed in feeds:
        kept.keep(feed, feed.version, CURSOR, (_view(), _page(text="x" * 1000)), 0.0)
    assert [kept.get(feed, CURSOR, 0.1) is not None for feed in feeds] == [False, False, True, True, True]
    assert kept.bytes == size * 3


def test_a_page_that_was_read_again_counts_once() -> None:
    """The new one takes the place of the old one."""
    kept, feed = KeptPages(), _feed()
    for now in (0.0, 0.5):
        kept.keep(feed, feed.version, CURSOR, (_view(), _page()), now)
    assert kept.bytes == _page().size
    assert kept.get(feed, CURSOR, 1.2) is not None


@pytest.mark.parametrize("found", [(_view(), Page(CURSOR, [], 1, 1)), (_view(), _page(first=4)), (None, _page())])
def test_only_what_goes_on_is_kept(found: tuple[SessionView | None, Page]) -> None:
    """The end of a log, a gap and a session that is not there are old in a moment."""
    kept, feed = KeptPages(), _feed()
    kept.keep(feed, feed.version, CURSOR, found, 0.0)
    assert (kept.get(feed, CURSOR, 0.0), kept.bytes) == (None, 0)


def _began_anew(feed: Feed) -> None:
    feed.reset(EventId(7, 9), 0.0)


def _in_doubt(feed: Feed) -> None:
    feed.take(b"", 0.0)


def _rolled_back(feed: Feed) -> None:
    feed.start(CURSOR, 0.0)


@pytest.mark.parametrize("happened", [_began_anew, _in_doubt, _rolled_back])
def test_the_feed_vouches_for_a_page(happened: Callable[[Feed], None]) -> None:
    """Once the feed has begun anew, doubts, or does not know the page's end, the log is asked."""
    kept, feed = KeptPages(), _feed()
    kept.keep(feed, feed.version, CURSOR, (_view(), _page()), 0.0)
    assert kept.get(feed, CURSOR, 0.0) is not None
    happened(feed)
    assert kept.get(feed, CURSOR, 0.0) is None


def test_a_page_is_of_the_feed_before_it_was_read() -> None:
    """A feed that began anew while the page was read says nothing for it."""
    kept, feed = KeptPages(), _feed()
    version = feed.version
    feed.reset(EventId(7, 9), 0.0)
    kept.keep(feed, version, CURSOR, (_view(), _page()), 0.0)
    assert kept.get(feed, CURSOR, 0.0) is None


# -- readers of a hub


async def _calls(redis: Any, command: str) -> int:
    stats = await redis.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def _whole(running: Hub) -> None:
    async with asyncio.timeout(10):
        while not running._subscriber.whole:
            await asyncio.sleep(0.01)


async def test_readers_out_of_step_share_pages(log: Log, redis: Any, redis_url: str) -> None:
    """One that comes when another has read everything reads nothing again; one from elsewhere soon shares too."""
    held = await sessions.finished(log, *(f"<{n}>" for n in range(300)))
    async with hub(redis_url, redis, replay_page=40) as running:
        running._kept = KeptPages(seconds=600)
        first = await Client(running).until_over()
        reads = await _calls(redis, "xrange")
        assert reads > 300 // 40
        second = await Client(running).until_over()
        assert await _calls(redis, "xrange") == reads
        third = await Client(running, EventId(held.epoch, 77)).until_over()
        assert await _calls(redis, "xrange") <= reads + 3
    ids = [event.id for event in await log.events(SID)]
    assert [event.id for event in first.events] == [event.id for event in second.events] == ids
    assert [event.id for event in third.events] == ids[78:]


async def test_a_kept_page_is_not_given_out_after_a_failover(log: Log, redis: Any, redis_url: str) -> None:
    """The log was rolled back, and the subscription was lost with the server: a reader that comes then gets what the
    log has, though the page of another is still kept."""
    held = await sessions.started(log)
    before = await Snapshot.of(redis)
    async with hub(redis_url, redis, quiet_check_s=60) as running, client(running) as first:
        running._kept = KeptPages(seconds=600)
        await first.until(CaughtUp)
        await sessions.say(log, held, 2, "lost")
        await first.until_events(3)
        async with client(running) as second:
            await second.until_events(3)
        assert running._kept.bytes
        await before.restore()
        await redis.client_kill_filter(_type="pubsub")
        await first.until(Gap)
        await _whole(running)
        async with client(running) as third:
            await third.until(CaughtUp)
            assert [event.id for event in third.events] == [event.id for event in await log.events(SID)]
            assert third.gaps == []


async def test_no_kept_page_is_given_out_without_a_subscription(
    log: Log, redis: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the feed hears nothing it vouches for nothing: the log is asked. Once it hears again, pages that were
    read before are gone."""
    await sessions.finished(log, "a")
    async with hub(redis_url, redis, quiet_check_s=60) as running:
        running._kept = KeptPages(seconds=600)
        await Client(running).until_over()
        assert running._kept.bytes
        connect, back = running._subscriber._ear.connect, asyncio.Event()

        async def late() -> Any:
            await back.wait()
            return await connect()

        monkeypatch.setattr(running._subscriber._ear, "connect", late)
        await redis.client_kill_filter(_type="pubsub")
        async with asyncio.timeout(10):
            while running._subscriber.whole:
                await asyncio.sleep(0.01)
        reads = await _calls(redis, "xrange")
        await Client(running).until_over()
        assert await _calls(redis, "xrange") > reads
        assert running._kept.bytes
        back.set()
        await _whole(running)
        assert running._kept.bytes == 0


async def test_an_end_that_was_read_before_a_reader_came_is_no_end_for_it(
    log: Log, redis: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader at the end of a turn comes right after the next turn was opened, while the page of another reader who
    came before is still on its way: it is not told that there is nothing more."""
    held = await sessions.finished(log, "a")
    end = EventId(held.epoch, 3)
    async with hub(redis_url, redis, quiet_check_s=60) as running:
        await Client(running).until_over()
        read, answer = running.log.page, asyncio.Event()

        async def slow(*asked: Any) -> Any:
            found = await read(*asked)
            await answer.wait()
            return found

        monkeypatch.setattr(running.log, "page", slow)
        early = Client(running, end)
        while ("page", SID, end) not in running.sharing:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)  # by now it was answered
        opened = await sessions.next_turn(log)
        async with client(running, end) as late:
            while len(running.sharing._under_way) and not late.delivery._reader:
                await asyncio.sleep(0)
            await asyncio.sleep(0.05)
            answer.set()
            await early.until_over()
            await late.until_events(1)
            assert [event.id for event in late.events] == [opened.last]


async def test_a_storm_takes_two_connections(log: Log, redis_url: str) -> None:
    """Many readers of many sessions at once, a Redis that is far away, and little patience: nobody is refused a
    connection, none is needed beyond those of the trips, and all of them get everything."""
    sids = [f"s{n}" for n in range(200)]
    for sid in sids:
        await sessions.finished(log, "a", "b", sid=sid)
    async with far(redis_url, 0.1) as distant, connected(distant, timeout_s=2.0) as redis:
        told = settings(distant, quiet_check_s=60)
        async with Hub(told, Log(redis, told.retention), Directory(redis)).running() as running:
            readers = [Client(running, sid=sid) for sid in sids]
            for reader in readers:
                await reader.until_over()
            assert len(redis.connection_pool._available_connections) <= 2
    assert not any(isinstance(output, Cut) for reader in readers for output in reader.outputs)
    assert {len(reader.events) for reader in readers} == {5}


async def test_a_storm_of_looks_takes_two_connections(log: Log, redis: Any, redis_url: str) -> None:
    """The subscription was lost: the log of every feed is looked at, and nobody is refused a connection for it."""
    sids = [f"s{n}" for n in range(100)]
    held = {sid: await sessions.started(log, sid) for sid in sids}
    async with far(redis_url, 0.1) as distant, connected(distant, timeout_s=1.0) as slow:
        told = settings(distant, quiet_check_s=60, replay_page=40)
        async with Hub(told, Log(slow, told.retention), Directory(slow)).running() as running:
            readers = [Client(running, sid=sid) for sid in sids]
            for reader in readers:
                await reader.until(CaughtUp)
            await redis.client_kill_filter(_type="pubsub")
            for sid, pen in held.items():
                await sessions.say(log, pen, 2, "a", sid=sid)
            for reader in readers:
                await reader.until_events(3)
            assert len(slow.connection_pool._available_connections) <= 2
            for reader in readers:
                await reader.leave()


async def test_readers_ahead_of_the_log_ask_once_for_its_owner(log: Log, redis: Any, redis_url: str) -> None:
    """After a failover a crowd may be ahead: whether the writer lives is one question, not one for each of them."""
    held = await sessions.started(log)
    await Directory(redis).refresh_lease("w1", 60_000, "")
    async with hub(redis_url, redis, quiet_check_s=60, heal_wait_s=60) as running:
        before = await _calls(redis, "exists")
        readers = [Client(running, EventId(held.epoch, 9)) for _ in range(50)]
        async with asyncio.timeout(10):
            while sum(reader.delivery._ahead_since is not None for reader in readers) < 50:
                await asyncio.sleep(0.01)
        assert await _calls(redis, "exists") - before < 50 + 25  # one of each when it came, for the session
        for reader in readers:
            await reader.leave()


async def test_many_channels_are_subscribed_by_one_command(log: Log, redis: Any, redis_url: str) -> None:
    """Those that are asked for in one turn of the loop; each is heard."""
    async with hub(redis_url, redis) as running:
        heard: set[str] = set()
        running._subscriber._on_message = lambda channel, _: heard.add(channel)
        await _whole(running)
        before = await _calls(redis, "subscribe")
        channels = {keys.live(f"s{n}") for n in range(100)}
        await asyncio.gather(*map(running._subscriber.subscribe, channels))
        assert await _calls(redis, "subscribe") - before == 1
        for channel in channels:
            await redis.publish(channel, b"")
        async with asyncio.timeout(10):
            while heard != channels:
                await asyncio.sleep(0.01)


async def test_readers_go_on_after_a_connection_was_lost(log: Log, redis: Any, redis_url: str) -> None:
    """The connections are cut while the reads of a crowd are under way, and no command is tried again by itself: nobody
    misses anything, nobody gets anything twice."""
    await sessions.finished(log, *(f"<{n}>" for n in range(200)))
    ids = [event.id for event in await log.events(SID)]
    async with far(redis_url, 0.05) as distant, connected(distant) as hasty:
        told = settings(distant, quiet_check_s=60, replay_page=40)
        hasty.link.patience_s = 0.0
        of = Hub(told, Log(hasty, told.retention), Directory(hasty))
        async with of.running() as running, client(running, follow=True) as staying:
            await staying.until_events(len(ids))
            running._kept.clear()
            readers = [Client(running, event_id) for event_id in [START, *ids[:-1:10]]]
            for pause in (0.02, 0.07):
                await asyncio.sleep(pause)
                await redis.client_kill_filter(_type="normal", skipme=True)
            for reader in readers:
                await reader.until_over()
    for at, reader in zip([0, *range(1, len(ids), 10)], readers, strict=True):
        assert [event.id for event in reader.events] == ids[at:]
        assert reader.gaps == []
    assert any(isinstance(output, KeepAlive) for reader in readers for output in reader.outputs)


async def test_a_reader_needs_no_thread(log: Log, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """FastAPI hands every dependency that is no coroutine to a thread: a storm would queue for them."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a thread for a request")

    await sessions.finished(log, "a")
    async with live_node(redis_url) as node:
        monkeypatch.setattr("fastapi.dependencies.utils.run_in_threadpool", refuse)
        monkeypatch.setattr("fastapi.routing.run_in_threadpool", refuse)
        assert len(await read_all(node.url, SID)) == 4
