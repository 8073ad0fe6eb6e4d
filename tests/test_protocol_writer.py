"""The writer's rules: what it does when the log has less, more, or another holder than it thought."""

import asyncio
from typing import Any

import pytest

from shared import keys
from shared.events import EventType
from shared.log import Log
from tests.support import sessions, workers
from tests.support.sessions import SID, Snapshot
from tests.support.wire import Fault, Wire
from tests.support.workers import within
from worker.run import run_generation
from worker.writer import PenLost, SessionGone, Writer

END = {"finish_reason": "stop"}


def _speak(writer: Writer, *texts: str) -> None:
    for text in texts:
        writer.delta(EventType.TEXT, text)
        writer._seal()


async def test_behind_says_the_tail_again_under_the_same_ids(log: Log, redis: Any) -> None:
    """After a failover that lost the log's tail the writer goes on from what the log has, with the very same events."""
    await sessions.create(log)
    writer, _ = await workers.writer(log)
    _speak(writer, "a")
    await writer._catch_up()
    before = await Snapshot.of(redis)
    _speak(writer, "b", "c")
    await writer._catch_up()
    said = {str(e.id): e.data for e in await log.events(SID)}
    await before.restore()
    _speak(writer, "d")
    await writer._catch_up()
    assert await sessions.texts(log) == ["a", "b", "c", "d"]
    assert said.items() <= {str(e.id): e.data for e in await log.events(SID)}.items()


async def test_lost_reply_of_an_append_never_doubles(log: Log, redis: Any) -> None:
    """An append whose reply was lost is repeated, and is in the log once."""
    await sessions.create(log)
    wire = await Wire(redis).open()
    writer, _ = await workers.writer(Log(wire, log._retention))
    wire.faults.extend([Fault.REPLY_LOST, Fault.LOST])
    _speak(writer, "a", "b")
    await within(writer._catch_up())
    assert not wire.faults
    _speak(writer, "c")
    await within(writer._catch_up())
    assert await sessions.texts(log) == ["a", "b", "c"]


async def test_reclaim_when_fenced_by_a_smaller_epoch(log: Log, redis: Any) -> None:
    """A failover lost the claim, but nobody took the pen: the writer claims again, and says everything again."""
    await sessions.create(log)
    before = await Snapshot.of(redis)
    writer, heard = await workers.writer(log)
    old = writer.pen
    _speak(writer, "a", "b")
    await writer._catch_up()
    await before.restore()
    _speak(writer, "c")
    await within(writer._catch_up())
    assert await sessions.texts(log) == ["a", "b", "c"]
    assert writer.pen.epoch != old.epoch
    assert writer.pen.token != old.token
    assert heard.pens[-1] == writer.pen


async def test_reclaim_is_announced_before_it_is_made(log: Log, redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job knows the new token before Redis does, so that no reaper of its own takes the generation from it."""
    await sessions.create(log)
    before = await Snapshot.of(redis)
    writer, heard = await workers.writer(log)
    await before.restore()
    tokens = []
    claim = writer._log.claim

    async def watched(sid: str, token: str, *rest: str) -> Any:
        tokens.append((token, [pen.token for pen in heard.pens]))
        return await claim(sid, token, *rest)

    monkeypatch.setattr(writer._log, "claim", watched)
    _speak(writer, "a")
    await within(writer._catch_up())
    assert tokens[0][0] in tokens[0][1]


async def test_reclaim_survives_a_lost_reply(log: Log, redis: Any) -> None:
    """A claim made again whose reply is lost is repeated with its token, and does not lock its own maker out."""
    await sessions.create(log)
    before = await Snapshot.of(redis)
    wire = await Wire(redis).open()
    writer, _ = await workers.writer(Log(wire, log._retention))
    await before.restore()
    wire.faults.extend([Fault.NONE, Fault.REPLY_LOST])
    _speak(writer, "a")
    await within(writer._catch_up())
    assert not wire.faults
    assert await sessions.texts(log) == ["a"]


async def test_fenced_by_a_larger_epoch_writes_nothing(log: Log) -> None:
    """Somebody took the pen, if only to give it back: the writer stops, and neither writes nor claims."""
    await sessions.create(log)
    writer, _ = await workers.writer(log)
    assert await log.reap(SID, writer.pen.epoch, 9, 0)
    second = await sessions.claim(log, worker="w2")
    await log.release(SID, second.token)
    before = await sessions.types(log)
    _speak(writer, "a")
    with pytest.raises(PenLost):
        await within(writer._catch_up())
    assert await sessions.types(log) == before


async def test_fenced_by_the_same_epoch_writes_nothing(log: Log) -> None:
    """The generation was given to the queue, and nobody has it yet: it is not ours to claim again."""
    await sessions.create(log)
    writer, _ = await workers.writer(log)
    assert await log.reap(SID, writer.pen.epoch, 9, 0)
    before = await sessions.types(log)
    _speak(writer, "a")
    with pytest.raises(PenLost):
        await within(writer._catch_up())
    assert await sessions.types(log) == before


async def test_fenced_by_a_smaller_epoch_of_a_generation_that_ended(log: Log, redis: Any) -> None:
    """What cannot be claimed again is lost, and nothing is written."""
    await sessions.create(log)
    before = await Snapshot.of(redis)
    writer, _ = await workers.writer(log)
    await before.restore()
    await log.stop(SID, "user", "g1")
    await redis.hset(keys.session(SID), "epoch", 1)
    _speak(writer, "a")
    with pytest.raises(PenLost):
        await within(writer._catch_up())


async def test_gone_ends_the_writer(log: Log, redis: Any) -> None:
    """Redis lost everything, or the session was deleted: the writer gives up, so that the provider is closed."""
    await sessions.create(log)
    writer, _ = await workers.writer(log)
    await redis.flushall()
    _speak(writer, "a")
    with pytest.raises(SessionGone):
        await within(writer._catch_up())


async def test_ended_ends_the_writer(log: Log) -> None:
    """A generation that is over for its own holder takes nothing more."""
    await sessions.create(log)
    writer, _ = await workers.writer(log)
    await sessions.finish(log, sessions.Held(writer.pen.token, writer.pen.epoch, 1), 2)
    _speak(writer, "a", "b")
    with pytest.raises(PenLost):
        await within(writer._catch_up())


async def test_a_late_claim_does_not_make_its_writer_spin(log: Log, redis: Any) -> None:
    """A duplicate of the writer's claim opens a second epoch for its token, after a takeover: the writer stops, and
    does not ask Redis the same thing without end."""
    await sessions.create(log)
    wire = await Wire(redis).open()
    writer, _ = await workers.writer(Log(wire, log._retention))
    assert await log.reap(SID, writer.pen.epoch, 9, 0)
    await wire.again(wire.sent[0])
    _speak(writer, "a")
    with pytest.raises(PenLost):
        await within(writer._catch_up(), 1.0)


async def test_stop_and_answer_are_heard_in_the_reply(log: Log) -> None:
    """Each append tells its writer what was asked of the generation."""
    await sessions.create(log)
    writer, heard = await workers.writer(log)
    writer.event(EventType.QUESTION, {"id": "q1", "text": "which?"})
    await writer._catch_up()
    await log.answer(SID, "n", "q1", "this", "me")
    await log.stop(SID, "user", "g1")
    _speak(writer, "a")
    await writer._catch_up()
    assert heard.stops == 1
    assert [sessions.decoded(answer.encode())["text"] for answer in heard.answers] == ["this"]


async def test_linger_repeats_the_end_twice(log: Log, redis: Any) -> None:
    """After the terminal the last append is repeated twice: a failover in that window cannot lose the end."""
    await sessions.create(log)
    wire = await Wire(redis).open()
    writer, _ = await workers.writer(Log(wire, log._retention))
    _speak(writer, "a", "b")
    before = await Snapshot.of(redis)
    writer.end(EventType.COMPLETED, END)
    await within(writer.run())
    for lost in range(2):
        await before.restore()
        lingering = asyncio.create_task(writer.linger(0.01))
        await within(lingering)
        assert (await sessions.types(log))[2:] == ["text.delta", "text.delta", sessions.COMPLETED], lost
    wire.sent.clear()
    await within(writer.linger(0.01))
    assert [sent.verb for sent in wire.sent] == ["generation_append"] * 2


async def test_linger_by_the_job_heals_a_lost_end(log: Log, redis: Any, redis_url: str) -> None:
    """A job whose terminal was lost with the log's tail says it again, though it is over."""
    await sessions.create(log)
    before = await Snapshot.of(redis)
    async with workers.context(redis_url, linger_s=0.05) as context:
        await within(run_generation(context, SID, "g1"))
        said = (await sessions.types(log))[2:]
        await before.restore()
        await within(asyncio.gather(*context._background))
    assert (await sessions.types(log))[2:] == said
    view = await log.view(SID)
    assert view is not None
    assert view.state == "completed"


async def test_linger_leaves_nothing_held(log: Log, redis: Any, redis_url: str) -> None:
    """A job that claimed again while it lingered holds nothing once that is over: a shutdown must not wait for it."""
    await sessions.create(log)
    before = await Snapshot.of(redis)
    async with workers.context(redis_url, linger_s=0.05) as context:
        await within(run_generation(context, SID, "g1"))
        await before.restore()
        await within(asyncio.gather(*context._background))
        assert context.held == {}


async def test_release_on_a_lost_reply_is_found_by_the_queue(log: Log, redis: Any) -> None:
    """A release repeated after a lost reply changes nothing more: the generation stays queued."""
    held = await sessions.started(log)
    assert (await log.release(SID, held.token))[0] == "QUEUED"
    assert (await log.release(SID, held.token))[0] == "QUEUED"
    assert await sessions.field(redis, "state") == "queued"


async def test_redis_away_only_delays_the_end(log: Log, redis: Any) -> None:
    """The writer ends only with the terminal in the log, however often Redis fails it."""
    await sessions.create(log)
    wire = await Wire(redis).open()
    writer, _ = await workers.writer(Log(wire, log._retention))
    wire.faults.extend([Fault.LOST, Fault.REPLY_LOST, Fault.LOST, Fault.LOST])
    _speak(writer, "a")
    writer.end(EventType.COMPLETED, END)
    await within(writer.run())
    assert not wire.faults
    assert (await sessions.types(log))[2:] == ["text.delta", sessions.COMPLETED]
