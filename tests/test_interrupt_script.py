"""A turn that interrupts: the end of the one that runs and the message of the next are one step of the log."""

from typing import Any

import pytest

from shared.errors import GenerationRunning, IdempotencyMismatch, SessionExpired
from shared.events import encode
from shared.log import Log, Opened
from tests.support import sessions
from tests.support.sessions import HELLO, SID


async def interrupt(log: Log, nonce: str = "n") -> Opened:
    return await log.message(SID, nonce, "body", HELLO, {}, interrupt_by="user")


async def test_a_running_generation_ends_right_before_the_message(log: Log) -> None:
    """One epoch holds both, the terminal first; what was said stays, and the worker that must let go is named."""
    held = await sessions.started(log, worker="w7")
    await sessions.say(log, held, 2, "so far")
    opened = await interrupt(log)
    events = await log.events(SID)
    assert [event.type for event in events[-3:]] == ["text.delta", "generation.cancelled", "message"]
    assert events[-2].value == {
        "prev": str(events[-3].id),
        "generation": "g1",
        "by": "user",
        "confirmed": False,
    }
    assert events[-1].value == {"generation": "g2", **HELLO}
    assert (events[-2].id.epoch, events[-2].id.seq, events[-1].id) == (opened.last.epoch, 1, opened.last)
    assert (opened.generation, opened.interrupted) == ("g2", "w7")


async def test_the_interrupted_worker_can_write_nothing_more(log: Log) -> None:
    """Its token is refused from the moment of the message on, also for its own terminal."""
    held = await sessions.started(log)
    opened = await interrupt(log)
    outcome = await log.append(SID, held.token, held.epoch, 2, [sessions.terminal()])
    assert outcome[:2] == ("FENCED", str(opened.last.epoch))
    assert await sessions.types(log) == ["message", "generation.started", "generation.cancelled", "message"]


@pytest.mark.parametrize("state", ["queued", "waiting"])
async def test_a_generation_that_waits_is_ended_too(log: Log, state: str) -> None:
    """Queued, it has no worker to tell; with an open question, that question is gone."""
    if state == "queued":
        await sessions.create(log)
    else:
        held = await sessions.started(log)
        await log.append(SID, held.token, held.epoch, 2, [sessions.question("q1")])
    opened = await interrupt(log)
    view = await log.view(SID)
    assert view is not None
    assert (view.state, view.generation, view.question) == ("queued", "g2", "")
    assert opened.interrupted == ("" if state == "queued" else "w1")
    assert (await sessions.claim(log, generation="g2")).attempt == 1


async def test_the_next_turn_begins_with_a_clean_slate(log: Log) -> None:
    """A stop of the interrupted one, its crashes and its attempts are not the next one's."""
    await sessions.started(log)
    await log.stop(SID, "user", "g1")
    await interrupt(log)
    view = await log.view(SID)
    assert view is not None
    assert (view.stop, view.attempt, view.crashes) == ("", 0, 0)


async def test_nothing_running_is_an_ordinary_turn(log: Log) -> None:
    """No end is written twice."""
    await sessions.finished(log, "a")
    assert (await interrupt(log)).interrupted == ""
    assert (await sessions.types(log)).count("generation.cancelled") == 0


async def test_a_repeat_interrupts_only_once(log: Log) -> None:
    """The same nonce answers the same, and does not end the turn that it opened; another body is refused."""
    await sessions.started(log)
    first = await interrupt(log)
    await sessions.claim(log, generation="g2")
    again = await interrupt(log)
    assert (again.generation, again.last, again.fresh, again.interrupted) == ("g2", first.last, False, "")
    assert (await sessions.types(log))[-1] == "generation.started"
    with pytest.raises(IdempotencyMismatch):
        await log.message(SID, "n", "other", HELLO, {}, interrupt_by="user")


async def test_without_leave_to_interrupt_a_running_one_stays(log: Log) -> None:
    """`generation_running`, and nothing is written."""
    await sessions.started(log)
    before = await sessions.types(log)
    with pytest.raises(GenerationRunning):
        await sessions.next_turn(log)
    assert await sessions.types(log) == before


async def test_an_expired_session_is_not_reopened(log: Log, redis: Any) -> None:
    """Leave to interrupt changes nothing about that."""
    await sessions.finished(log, "a")
    await redis.delete(f"holdfast:{{{SID}}}:events")
    with pytest.raises(SessionExpired):
        await interrupt(log)


async def test_the_name_of_who_interrupts_cannot_break_the_event(log: Log) -> None:
    """Whatever it is, the log holds JSON."""
    await sessions.started(log)
    await log.message(SID, "n", "body", HELLO, {}, interrupt_by='"}\\')
    end = (await log.events(SID))[-2]
    assert end.value["by"] == '"}\\'
    assert encode({"by": '"}\\'})[1:-1] in end.data


async def test_who_stopped_a_turn_is_not_said_of_the_next(log: Log, redis: Any) -> None:
    """The first who asked is known of that generation alone, and forgotten with the next message."""
    held = await sessions.started(log)
    for name in ("alice", "bob"):
        await log.stop(SID, name, "g1")
    assert [await log.stopped_by(SID, generation) for generation in ("g1", "g2")] == ["alice", ""]
    await sessions.finish(log, held, 2)
    await sessions.next_turn(log)
    assert await sessions.field(redis, "stop_by") == ""
