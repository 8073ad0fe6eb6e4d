"""The reader's rules: the decision table, and what a delivery makes of it. Each test fails without its rule."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from api import delivery
from api.outputs import CaughtUp, Cut, End, Gap, Nothing, Refused
from shared import keys
from shared.errors import InvalidEventId, SessionExpired, SessionNotFound
from shared.events import Event, State, chained
from shared.ids import START, EventId
from shared.log import Log
from shared.reader import Decision, Verdict, decide, gap
from shared.views import FIELDS, SessionView
from tests.support import sessions
from tests.support.readers import client, hub
from tests.support.sessions import SID, Snapshot


def _event(epoch: int, seq: int, prev: str = "") -> Event:
    data = b'{"prev":"%b"}' % prev.encode() if prev else b"{}"
    return Event(EventId(epoch, seq), "status", data)


def _view(state: State, last: str, *, log_exists: bool = True) -> SessionView:
    text = {"state": state.value, "last": last, "epoch": last.partition("-")[0], "generation": "g1", "worker": "w1"}
    view = SessionView.of([text.get(name, "").encode() for name in FIELDS], log_exists)
    assert view is not None
    return view


RUNNING, OVER = _view(State.RUNNING, "5-9"), _view(State.COMPLETED, "5-9")
EXPIRED = replace(OVER, log_exists=False)

CASES = {
    "missing": ("5-9", None, [], True, Decision(Verdict.MISSING)),
    "next of the epoch": ("5-7", RUNNING, [_event(5, 8), _event(5, 9)], True, Decision(Verdict.SEND)),
    "opens the next epoch": ("4-2", RUNNING, [_event(5, 1, "4-2")], True, Decision(Verdict.SEND)),
    "from the start": ("0-0", RUNNING, [_event(3, 1, "0-0")], True, Decision(Verdict.SEND)),
    "chain_on_read hole in the epoch": ("5-5", RUNNING, [_event(5, 8)], True, gap("trimmed")),
    "chain_on_read epoch opened later": ("4-2", RUNNING, [_event(5, 1, "4-6")], True, gap("trimmed")),
    "chain_on_read epoch opened before": ("4-6", RUNNING, [_event(5, 1, "4-2")], True, gap("lost")),
    "trimmed head without a cursor": ("0-0", RUNNING, [_event(5, 8)], True, gap("trimmed")),
    "at the end, live": ("5-9", RUNNING, [], True, Decision(Verdict.WAIT)),
    "at the end, queued": ("5-9", _view(State.QUEUED, "5-9"), [], False, Decision(Verdict.WAIT)),
    "at the end, waiting": ("5-9", _view(State.WAITING, "5-9"), [], True, Decision(Verdict.WAIT)),
    "at the end, over": ("5-9", OVER, [], False, Decision(Verdict.END)),
    "at the end, over and expired": ("5-9", EXPIRED, [], False, Decision(Verdict.END)),
    "behind, live": ("5-2", RUNNING, [], True, gap("trimmed")),
    "behind, over, log still there": ("5-2", OVER, [], False, gap("trimmed")),
    "behind, over, expired": ("5-2", EXPIRED, [], False, Decision(Verdict.EXPIRED)),
    "ahead_rule heals": ("5-12", RUNNING, [], True, Decision(Verdict.HEALING)),
    "ahead_rule owner gone": ("5-12", RUNNING, [], False, gap("ahead")),
    "ahead_rule other epoch": ("6-2", RUNNING, [], True, gap("ahead")),
    "ahead_rule over": ("5-12", OVER, [], True, gap("ahead")),
}


@pytest.mark.parametrize("case", CASES)
def test_decision_table(case: str) -> None:
    """Each line of the reader's table."""
    cursor, view, page, alive, expected = CASES[case]
    assert decide(EventId.parse(cursor), view, page, alive) == expected


def test_chain_on_read_stops_at_the_first_event_that_does_not_chain() -> None:
    """Of a page only the head that chains is sent; the reader then asks again."""
    page = [_event(5, 2), _event(5, 3), _event(5, 5), _event(5, 6)]
    assert chained(EventId(5, 1), page) == page[:2]


@pytest.mark.parametrize("text", ["0-0", "1-0", "9999999999999999-9999999999999999", "1795337152950-12"])
def test_cursor_syntax_is_accepted(text: str) -> None:
    """A cursor is `<epoch>-<seq>`, each of at most 16 digits."""
    assert str(EventId.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "-", "1", "1-", "-1", "01-1", "1-01", "12345678901234567-1", "1-12345678901234567", "1-1 ", "1-1\n", "$",
     "+1-1", "1-1-1", "١-1", "1_0-1"],
)  # fmt: skip
def test_cursor_syntax_is_refused(text: str) -> None:
    """Anything else is no cursor: it must not reach Redis."""
    with pytest.raises(InvalidEventId):
        EventId.parse(text)


# -- from the log


async def test_a_reader_gets_exactly_the_log(log: Log, redis: Any, redis_url: str) -> None:
    """Without faults a reader gets every event once, in order, and a clean end."""
    await sessions.finished(log, "a", "b", "c")
    async with hub(redis_url, redis, replay_page=2) as running, client(running) as reader:
        await reader.until_over()
        assert [e.id for e in reader.events] == [e.id for e in await log.events(SID)]
        assert isinstance(reader.outputs[-1], End)


async def test_at_the_end_of_a_finished_session_there_is_nothing(log: Log, redis: Any, redis_url: str) -> None:
    """A reader that has everything of a finished session is told so: 204 stops an EventSource."""
    await sessions.finished(log, "a")
    end = (await sessions.last(log)).id
    async with hub(redis_url, redis) as running, client(running, end) as reader:
        await reader.until_over()
        assert reader.outputs == [Nothing()]


async def test_gap_no_cursor_with_a_trimmed_head(log: Log, redis: Any, redis_url: str) -> None:
    """No cursor goes through the same table: a trimmed head is a gap, not a silent start."""
    held = await sessions.started(log)
    await sessions.say(log, held, 2, "a", "b", "c")
    await redis.xtrim(keys.events(SID), maxlen=2, approximate=False)
    async with hub(redis_url, redis) as running, client(running) as reader:
        await reader.until(CaughtUp)
        assert [g.reason for g in reader.gaps] == ["trimmed"]
        assert reader.events == []


async def test_gap_id_moves_the_cursor(log: Log, redis: Any, redis_url: str) -> None:
    """A gap bears the latest id: a client that comes back with it goes on, and is not told again."""
    held = await sessions.started(log)
    await sessions.say(log, held, 2, "a", "b", "c")
    await redis.xtrim(keys.events(SID), maxlen=1, approximate=False)
    async with hub(redis_url, redis) as running, client(running, EventId(held.epoch, 1)) as reader:
        await reader.until(Gap)
        assert reader.gaps[0].id == reader.delivery.cursor == (await sessions.last(log)).id
        await reader.until(CaughtUp)
        await sessions.say(log, held, 5, "d")
        await reader.until_events(1)
        assert (len(reader.gaps), reader.events[0].value) == (1, {"text": "d"})


async def test_gap_before_end_still_sends_the_terminal(log: Log, redis: Any, redis_url: str) -> None:
    """When the session is over, a gap's id is the one before the terminal, so that the terminal still comes."""
    held = await sessions.finished(log, "a", "b", "c")
    await redis.xtrim(keys.events(SID), maxlen=1, approximate=False)
    async with hub(redis_url, redis) as running, client(running, EventId(held.epoch, 1)) as reader:
        await reader.until_over()
        assert reader.gaps[0].id == EventId(held.epoch, 4)
        assert [e.type for e in reader.events] == [sessions.COMPLETED]
        assert isinstance(reader.outputs[-1], End)


async def test_ahead_rule_waits_for_the_writer_to_heal(
    log: Log, redis: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader ahead of a log whose writer lives waits, gets no gap and nothing twice."""
    monkeypatch.setattr(delivery, "HEAL_POLL_S", 0.01)
    held = await sessions.started(log)
    await sessions.say(log, held, 2, "a")
    before = await Snapshot.of(redis)
    await sessions.say(log, held, 3, "b")
    ahead = (await sessions.last(log)).id
    await before.restore()
    async with hub(redis_url, redis, heal_wait_s=8) as running, client(running, ahead) as reader:
        await running.directory.refresh_lease("w1", 60_000, "")
        await asyncio.sleep(0.05)
        assert (reader.events, reader.gaps) == ([], [])
        await sessions.say(log, held, 3, "b", "c")
        await reader.until_events(1)
        assert [e.value["text"] for e in reader.events] == ["c"]
        assert reader.gaps == []


async def test_ahead_rule_is_bounded(log: Log, redis: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader ahead of a log that does not heal in time is told by a gap."""
    monkeypatch.setattr(delivery, "HEAL_POLL_S", 0.01)
    held = await sessions.started(log)
    async with hub(redis_url, redis) as running:
        await running.directory.refresh_lease("w1", 60_000, "")
        async with client(running, EventId(held.epoch, 7)) as reader:
            await reader.until(Gap)
            assert (reader.gaps[0].reason, reader.gaps[0].id) == ("ahead", EventId(held.epoch, 1))


async def test_target_ge_ends_at_a_later_terminal(log: Log, redis: Any, redis_url: str) -> None:
    """A reader that came for a generation whose terminal it will never see ends at that of the next one."""
    held = await sessions.started(log)
    start = EventId(held.epoch, 1)
    async with hub(redis_url, redis, quiet_check_s=60) as running, client(running, start) as reader:
        await reader.until(CaughtUp)
        running._feeds[SID].take = lambda *_: None  # type: ignore[method-assign]  # every message is lost
        await sessions.finish(log, held, 2)
        await sessions.next_turn(log)
        held = await sessions.claim(log, generation="g2")
        await sessions.finish(log, held, 2, generation="g2")
        await redis.xtrim(keys.events(SID), maxlen=1, approximate=False)
        await running._compare([running._feeds[SID]])
        await reader.until_over()
        assert [e.value["generation"] for e in reader.events if e.terminal] == ["g2"]
        assert isinstance(reader.outputs[-1], End)


async def test_cut_end_sends_nothing_of_the_next_turn(log: Log, redis: Any, redis_url: str) -> None:
    """What is sent is cut at the terminal of the generation the reader is here for."""
    held = await sessions.started(log)
    async with hub(redis_url, redis, quiet_check_s=60) as running, client(running) as reader:
        await reader.until(CaughtUp)
        feed = running._feeds[SID]
        feed.take = lambda *_: None  # type: ignore[method-assign]  # every message is lost
        await sessions.finish(log, held, 2)
        await sessions.next_turn(log)
        await running._compare([feed])
        await reader.until_over()
        assert [e.type for e in reader.events] == ["message", "generation.started", sessions.COMPLETED]


async def test_cut_end_of_a_follower_goes_on(log: Log, redis: Any, redis_url: str) -> None:
    """With `follow` the reader stays for later turns."""
    await sessions.finished(log)
    async with hub(redis_url, redis) as running, client(running, follow=True) as reader:
        await reader.until(CaughtUp)
        await sessions.next_turn(log)
        await reader.until_events(4)
        assert reader.events[-1].type == "message"


async def test_missing_and_expired_are_refused(log: Log, redis: Any, redis_url: str) -> None:
    """An unknown session is 404; one whose log has expired is 410, unless the reader has all of it."""
    await sessions.finished(log, "a")
    end = (await sessions.last(log)).id
    await redis.delete(keys.events(SID))
    async with hub(redis_url, redis) as running:
        async with client(running) as reader:
            await reader.until_over()
        async with client(running, end) as complete:
            await complete.until_over()
        await redis.delete(keys.session(SID))
        async with client(running) as stranger:
            await stranger.until_over()
    refused = reader.outputs[0], stranger.outputs[0]
    assert isinstance(refused[0], Refused)
    assert isinstance(refused[0].error, SessionExpired)
    assert isinstance(refused[1], Refused)
    assert isinstance(refused[1].error, SessionNotFound)
    assert complete.outputs == [Nothing()]


async def test_deleted_under_a_reader_aborts_it(log: Log, redis: Any, redis_url: str) -> None:
    """A session deleted under its readers is no clean end: the connection is cut, and the next one gets 404."""
    await sessions.started(log)
    async with hub(redis_url, redis, quiet_check_s=60) as running, client(running) as reader:
        await reader.until(CaughtUp)
        await log.delete(SID)
        await reader.until_over()
        assert isinstance(reader.outputs[-1], Cut)


async def test_atomic_read_sees_one_moment(log: Log, redis: Any) -> None:
    """View and page are of one moment: whatever is appended meanwhile, the page ends where the view says."""
    held = await sessions.started(log)
    writing = asyncio.create_task(_write_many(log, held))
    while not writing.done():
        view, page = await log.read(SID, START, 10_000)
        assert view is not None
        assert page[-1].id == view.last
    await writing


async def _write_many(log: Log, held: sessions.Held) -> None:
    for n in range(300):
        await sessions.say(log, held, n + 2, "x")
