"""`holdfast tail`: a session's events, each once, while they are written and whatever becomes of Redis."""

import asyncio
import json
import signal
from typing import Any

import pytest

from shared import keys
from shared.console.tail import TYPE_CELLS
from shared.events import encode
from shared.ids import EventId
from shared.log import Log, Retention
from tests.support import sessions
from tests.support.cli import ended, holdfast, line_of, start
from tests.support.redis_client import connected
from tests.support.redis_server import redis_server

SID = sessions.SID
EVENTS = 400
BATCH = 7


async def _ids(log: Log, sid: str = SID) -> list[str]:
    return [str(event.id) for event in await log.events(sid)]


async def _write(log: Log, held: sessions.Held, first: int, count: int) -> int:
    """`count` deltas in small batches, as fast as a writer can; gives the next seq."""
    for seq in range(first, first + count, BATCH):
        await sessions.say(log, held, seq, *(f"w{n} " for n in range(seq, min(seq + BATCH, first + count))))
    return first + count


async def test_every_event_arrives_once_while_they_are_written(log: Log, redis_url: str) -> None:
    """What was there, what comes meanwhile and the end: the log, and nothing else."""
    held = await sessions.started(log)
    seq = await _write(log, held, 2, EVENTS)
    process = await start("tail", SID, "--json", redis_url=redis_url)
    first = await line_of(process)
    seq = await _write(log, held, seq, EVENTS)
    await sessions.finish(log, held, seq)
    said = await ended(process)
    told = [json.loads(first), *said.lines]
    assert [event["id"] for event in told] == await _ids(log)
    assert [event["data"] for event in told] == [event.value for event in await log.events(SID)]
    assert (said.status, said.err) == (0, "")


async def test_what_is_not_published_is_read_nevertheless(log: Log, redis_url: str, redis: Any) -> None:
    """The live channel only wakes: a message that is lost delays an event, no more."""
    held = await sessions.started(log)
    process = await start("tail", SID, "--json", redis_url=redis_url)
    for _ in range(2):
        await line_of(process)
    event_id = EventId(held.epoch, 2)
    await redis.xadd(keys.events(SID), {"type": "text.delta", "data": '{"text": "x"}', "at": "1"}, id=str(event_id))
    await redis.hset(keys.session(SID), "last", str(event_id))
    assert json.loads(await line_of(process))["id"] == str(event_id)
    process.send_signal(signal.SIGINT)
    assert (await ended(process)).status == 130


async def test_it_begins_after_a_cursor(log: Log, redis_url: str) -> None:
    """Exactly the rest."""
    await sessions.finished(log, *(f"w{n}" for n in range(10)))
    ids = await _ids(log)
    said = await holdfast("tail", SID, "--after", ids[4], "--json", redis_url=redis_url)
    assert [event["id"] for event in said.lines] == ids[5:]


async def test_now_means_what_comes_next(log: Log, redis_url: str) -> None:
    """Nothing of what was said before."""
    held = await sessions.started(log)
    await sessions.say(log, held, 2, "old")
    process = await start("tail", SID, "--after", "now", "--json", redis_url=redis_url)
    await _followed(log)
    await sessions.say(log, held, 3, "new")
    assert json.loads(await line_of(process))["data"] == {"text": "new"}
    process.kill()
    await process.wait()


async def _followed(log: Log) -> None:
    """Returns once somebody follows the session live."""
    async with asyncio.timeout(20):
        while not (await log._redis.pubsub_numsub(keys.live(SID)))[0][1]:
            await asyncio.sleep(0.02)


async def test_it_ends_with_the_turn_and_follow_stays_for_the_next(log: Log, redis_url: str) -> None:
    """Without --follow the newest turn's end is the last line, earlier ends are not."""
    await sessions.finished(log, "one")
    await sessions.next_turn(log)
    held = await sessions.claim(log, generation="g2")
    await sessions.finish(log, held, 2, generation="g2")
    ids = await _ids(log)
    assert [event["id"] for event in (await holdfast("tail", SID, "--json", redis_url=redis_url)).lines] == ids
    process = await start("tail", SID, "--json", "--follow", redis_url=redis_url)
    told = [json.loads(await line_of(process))["id"] for _ in ids]
    await sessions.next_turn(log)
    told.append(json.loads(await line_of(process))["id"])
    assert told == await _ids(log)
    process.send_signal(signal.SIGINT)
    assert (await ended(process)).status == 130


async def test_joined_deltas_are_told_one_by_one(log: Log, redis_url: str) -> None:
    """A log that was compacted reads as it was written, from any cursor."""
    await sessions.finished(log, *(f"w{n} " for n in range(30)))
    before = await _ids(log)
    assert await log.compact(SID)
    assert await log._redis.xlen(keys.events(SID)) < len(before)
    said = await holdfast("tail", SID, "--after", before[7], "--json", redis_url=redis_url)
    assert [event["id"] for event in said.lines] == before[8:]


async def test_a_hole_is_told_as_a_gap(log: Log, redis_url: str, redis: Any) -> None:
    """Never passed over in silence; and it goes on with what there is."""
    await sessions.finished(log, *(f"w{n}" for n in range(10)))
    ids = await _ids(log)
    await redis.xtrim(keys.events(SID), minid=ids[6], approximate=False)
    gap, *rest = (await holdfast("tail", SID, "--after", ids[2], "--json", redis_url=redis_url)).lines
    assert (gap["type"], gap["data"]) == (
        "gap", {"requested": ids[2], "resumed": ids[5], "reason": "trimmed"},
    )  # fmt: skip
    assert [event["id"] for event in rest] == ids[6:]
    assert "gap (trimmed)" in (await holdfast("tail", SID, "--after", ids[2], redis_url=redis_url)).out


async def test_a_log_that_has_expired_is_told_so(log: Log, redis_url: str, redis: Any) -> None:
    """By a line and a status, not by silence."""
    await sessions.finished(log, "gone")
    await redis.delete(keys.events(SID))
    said = await holdfast("tail", SID, redis_url=redis_url)
    assert (said.status, "expired" in said.err) == (4, True)


async def test_it_outlives_a_restart_of_redis() -> None:
    """It says that Redis is away, goes on when it is back, and neither misses nor repeats."""
    with redis_server("--appendonly", "yes") as server:
        async with connected(server.url, connections=2) as redis:
            log = Log(redis, Retention(60_000, 60_000))
            held = await sessions.started(log)
            await sessions.say(log, held, 2, "before")
            process = await start("tail", SID, "--json", redis_url=server.url)
            told = [await line_of(process) for _ in range(3)]
            server.stop()
            assert process.stderr is not None
            async with asyncio.timeout(20):
                assert b"does not answer" in await process.stderr.readline()
            server.start()
            await sessions.say(log, held, 3, "after")
            await sessions.finish(log, held, 4)
            said = await ended(process)
            assert [json.loads(line)["id"] for line in told] + [each["id"] for each in said.lines] == await _ids(log)
            assert said.status == 0


@pytest.mark.parametrize("how", [["--json"], []])
async def test_a_reader_that_has_enough_ends_it(log: Log, redis_url: str, how: list[str]) -> None:
    """As `head` does: no traceback, and no status of a fault."""
    held = await sessions.started(log)
    process = await start("tail", SID, *how, redis_url=redis_url)
    await line_of(process)
    process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]  # the only way to hang up
    for seq in range(2, 6):
        await sessions.say(log, held, seq, "x")
        await asyncio.sleep(0.1)
    assert process.stderr is not None
    async with asyncio.timeout(20):
        assert await process.stderr.read() == b""
        assert await process.wait() == 0


@pytest.mark.parametrize("columns", [60, 80, 120])
async def test_an_event_is_one_line_and_as_wide_as_the_terminal_at_most(log: Log, redis_url: str, columns: int) -> None:
    """Line breaks of a text are shown as signs; --full folds instead of cutting."""
    long = "a\nb " + "long " * 60
    await sessions.finished(log, long)
    said = await holdfast("tail", SID, redis_url=redis_url, columns=columns)
    assert len(said.out.splitlines()) == 4
    assert said.width <= columns
    assert "a⏎b" in said.out
    assert "…" in said.out, "that something was left out is seen"
    full = await holdfast("tail", SID, "--full", redis_url=redis_url, columns=columns)
    assert full.out.count("long") == 60
    assert full.width <= columns


async def test_types_have_colours_and_one_column(log: Log, redis_url: str) -> None:
    """What failed is red, wherever it stands."""
    held = await sessions.started(log)
    await sessions.say(log, held, 2, "x")
    data = encode({"generation": "g1", "code": "overloaded", "message": "too busy", "retryable": True})
    await log.append(SID, held.token, held.epoch, 3, [("generation.failed", data)])
    said = await holdfast("tail", SID, redis_url=redis_url, environment={"FORCE_COLOR": "1"})
    assert "\x1b[1;31mgeneration.failed" in said.out
    plain = (await holdfast("tail", SID, redis_url=redis_url)).out.splitlines()
    at = plain[-1].index("generation.failed")
    assert [line[at : at + TYPE_CELLS].strip() for line in plain] == [
        "message", "generation.started", "text.delta", "generation.failed",
    ]  # fmt: skip
