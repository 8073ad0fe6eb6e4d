"""Readers that wait without a task: what they are told, when they are called back, and how they are lost."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from api.audience import Audience
from api.delivery import Delivery
from api.dialects.native import KEEP_ALIVE, NativeEncoder
from api.http_chunks import LAST_CHUNK, chunk
from api.hub import Hub
from api.live_stream import LiveStream
from api.outputs import CaughtUp, Events, Output
from shared.events import Event, encode
from shared.ids import START, EventId
from shared.log import Log
from tests.support.readers import WITHIN_S, hub
from tests.support.sessions import SID, finish, say, started


class Wire(asyncio.Transport):
    """A connection as a stream sees it: it takes `room` writes, and then asks for a pause in the middle of one."""

    def __init__(self) -> None:
        super().__init__()
        self.stream: LiveStream | None = None
        self.room = 1 << 30
        self.sent: list[bytes] = []
        self.closed = False
        self.fails = False

    def write(self, data: Any) -> None:
        if self.fails:
            raise RuntimeError("the handle is closed")
        self.sent.append(bytes(data))
        self.room -= 1
        if not self.room:
            assert self.stream is not None
            self.stream.pause_writing()

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


class Server:
    """Whom the connections belong to."""

    def __init__(self) -> None:
        self.taken_back: list[tuple[LiveStream, bool]] = []
        self.lost: list[LiveStream] = []

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.create_task(work)

    def take_back(self, stream: LiveStream, transport: asyncio.Transport, *, paused: bool) -> None:
        self.taken_back.append((stream, paused))

    def forget(self, stream: LiveStream) -> None:
        self.lost.append(stream)


class Reader:
    """A stream on a wire; it has begun."""

    def __init__(self, of: Hub, encode: Any = None, *, follow: bool = False) -> None:
        self.hub = of
        self.delivery = Delivery(of, SID, "anonymous", START, follow=follow, merge=False)
        self.wire, self.server = Wire(), Server()
        self.stream = self.wire.stream = LiveStream(self.delivery, encode or NativeEncoder(1000))

    async def begin(self) -> "Reader":
        self.stream.begin(self.wire, self.server, await self.delivery.next(), reusable=True)
        return self

    async def waits(self) -> "Reader":
        """Until it is in the audience."""
        await until(lambda: self.delivery.in_audience)
        return self

    @property
    def ids(self) -> list[str]:
        lines = b"".join(self.wire.sent).split(b"\n")
        return [line[4:].decode() for line in lines if line.startswith(b"id: ")]


async def until(condition: Any) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture
async def running(redis_url: str, redis: Any) -> AsyncIterator[Hub]:
    async with hub(redis_url, redis, quiet_check_s=60.0) as one:
        yield one


async def readers(of: Hub, count: int, **how: Any) -> list[Reader]:
    return [await (await Reader(of, **how).begin()).waits() for _ in range(count)]


class Ear:
    def __init__(self, audience: Audience, error: Exception | None = None) -> None:
        self.heard: list[bytes] = []
        self.errors: list[Exception] = []
        self._audience, self._error = audience, error

    def write(self, data: bytes) -> None:
        if self._error is not None:
            raise self._error
        self.heard.append(data)

    def recall(self) -> None:
        self._audience.leave(self)

    def failed(self, error: Exception) -> None:
        self.errors.append(error)
        self._audience.leave(self)


def test_who_cannot_be_written_to_keeps_nothing_from_the_others() -> None:
    """One write raises: all others get theirs, and that one leaves."""
    audience, error = Audience(), RuntimeError("closed")
    ears = [Ear(audience, error if n == 3 else None) for n in range(8)]
    for ear in ears:
        assert audience.join(ear, EventId(5, 1))
    audience.tell(b"news", EventId(5, 2))
    assert [ear.heard for ear in ears] == [[] if n == 3 else [chunk(b"news")] for n in range(8)]
    assert (ears[3].errors, len(audience), audience.at) == ([error], 7, EventId(5, 2))


def test_each_tick_is_heard_by_all() -> None:
    """Also by those who were told something just before: no silence is longer than from one tick to the next."""
    audience = Audience()
    ear = Ear(audience)
    audience.join(ear, EventId(5, 1))
    audience.tell(b"news", EventId(5, 2))
    audience.keep_alive()
    assert ear.heard == [chunk(b"news"), chunk(KEEP_ALIVE)]


def test_nobody_joins_who_is_elsewhere() -> None:
    """What the others are told next would not follow on what this one has."""
    audience = Audience()
    assert audience.join(Ear(audience), EventId(5, 1))
    assert not audience.join(Ear(audience), EventId(5, 2))
    assert len(audience) == 1


async def test_who_waits_is_told_without_a_task(running: Hub, log: Log) -> None:
    """What is published is written as it came, as one chunk, while nothing runs for its readers."""
    held = await started(log)
    crowd = await readers(running, 3)
    told = [len(reader.wire.sent) for reader in crowd]
    await say(log, held, 2, "a", "b")
    await until(lambda: len(crowd[-1].wire.sent) > told[-1])
    said = {2: "a", 3: "b"}.items()
    frames = [Event(EventId(held.epoch, seq), "text.delta", encode({"text": text})).frame for seq, text in said]
    for reader, before in zip(crowd, told, strict=True):
        assert reader.wire.sent[before:] == [chunk(b"".join(frames))]
        assert reader.delivery.in_audience
        reader.stream.connection_lost(None)


async def test_a_pause_in_the_middle_of_telling_loses_and_doubles_nothing(running: Hub, log: Log) -> None:
    """One client of three is full while all are told; what is said meanwhile it gets once it takes it, in order."""
    held = await started(log)
    crowd = await readers(running, 3)
    slow = crowd[1]
    for seq in range(2, 12):
        if seq == 4:
            slow.wire.room = 1
        await say(log, held, seq, str(seq))
    await until(lambda: f"{held.epoch}-11" in crowd[2].ids)
    assert slow.ids[-1] == f"{held.epoch}-4"
    slow.stream.resume_writing()
    await slow.waits()
    await say(log, held, 12, "last")
    await until(lambda: slow.ids[-1] == f"{held.epoch}-12")
    for reader in crowd:
        assert reader.ids[1:] == [f"{held.epoch}-{seq}" for seq in range(1, 13)]
        reader.stream.connection_lost(None)


async def test_a_pause_of_what_its_own_task_sends_is_waited_for(running: Hub, log: Log) -> None:
    """The first write fills the client: nothing more is made for it, and it does not count as waiting for news."""
    held = await started(log)
    reader = Reader(running)
    reader.wire.room = 1
    await reader.begin()
    await say(log, held, 2, "a")
    await until(lambda: running._feeds[SID].last == EventId(held.epoch, 2))
    assert (len(reader.wire.sent), reader.delivery.in_audience) == (1, False)
    reader.stream.resume_writing()
    await reader.waits()
    assert reader.ids[1:] == [f"{held.epoch}-1", f"{held.epoch}-2"]
    reader.stream.connection_lost(None)


async def test_who_is_lost_in_the_moment_of_joining_leaves_nothing(running: Hub, log: Log) -> None:
    """The connection goes after the task has joined and before anybody heard that the task is over."""
    await started(log)
    [reader] = await readers(running, 1)

    def lose() -> None:
        assert reader.delivery.in_audience
        reader.wire.closed = True
        reader.stream.connection_lost(None)

    reader.stream.recall()
    asyncio.get_running_loop().call_soon(lose)
    await until(lambda: reader.server.lost)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not running.readers
    assert not len(running._feeds[SID].audience)


async def test_who_is_lost_before_its_task_began_leaves_nothing(running: Hub, log: Log) -> None:
    """Recalled and lost in one moment: the task never ran a step."""
    await started(log)
    [reader] = await readers(running, 1)
    reader.stream.recall()
    reader.stream.connection_lost(None)
    await until(lambda: not running.readers)
    assert not len(running._feeds[SID].audience)


async def test_who_cannot_be_written_to_leaves_nothing(running: Hub, log: Log) -> None:
    """A stream whose write raises is aborted, and no longer among the readers; the others go on."""
    held = await started(log)
    broken, whole = await readers(running, 2)
    broken.wire.fails = True
    await say(log, held, 2, "a")
    await until(lambda: f"{held.epoch}-2" in whole.ids)
    assert (broken.wire.closed, broken.delivery.in_audience, len(running.readers)) == (True, False, 1)
    whole.stream.connection_lost(None)


async def test_a_ring_that_begins_anew_calls_its_audience_back(running: Hub, log: Log) -> None:
    """Also where it begins at the very id that it had: they ask the log, get nothing twice, and wait again."""
    held = await started(log)
    [reader] = await readers(running, 1)
    feed = running._feeds[SID]
    assert feed.last is not None
    feed.reset(feed.last, 0.0)
    assert not reader.delivery.in_audience
    await reader.waits()
    await say(log, held, 2, "a")
    await until(lambda: f"{held.epoch}-2" in reader.ids)
    assert reader.ids[1:] == [f"{held.epoch}-1", f"{held.epoch}-2"]
    reader.stream.connection_lost(None)


async def test_who_is_sent_away_is_cut(running: Hub, log: Log) -> None:
    """Out of the audience, without the end of the response."""
    await started(log)
    [reader] = await readers(running, 1)
    for one in tuple(running.readers):
        one.kick()
    await until(lambda: reader.wire.closed)
    assert LAST_CHUNK not in reader.wire.sent
    await until(lambda: not running.readers)


class Broken(NativeEncoder):
    """Cannot say what is said live."""

    def __call__(self, output: Output) -> bytes:
        if isinstance(output, Events) and any(event.terminal for event in output.events):
            raise ZeroDivisionError
        return super().__call__(output)


async def test_what_cannot_be_encoded_cuts_that_stream_alone(running: Hub, log: Log) -> None:
    """A fault in a dialect is no clean end, leaves no reader behind, and others get everything."""
    held = await started(log)
    [broken] = await readers(running, 1, encode=Broken(1000))
    [whole] = await readers(running, 1)
    await finish(log, held, 2)
    await until(lambda: broken.wire.closed and whole.server.taken_back)
    assert LAST_CHUNK not in broken.wire.sent
    assert (whole.wire.sent[-1], whole.server.taken_back) == (LAST_CHUNK, [(whole.stream, False)])
    await until(lambda: not running.readers)


class Final(NativeEncoder):
    """Its first words are its last."""

    over = True


async def test_a_connection_that_is_full_is_given_back_as_full(running: Hub, log: Log) -> None:
    """Its transport says that it is full once: the next response on it would be made, and kept, all at once."""
    await started(log)
    reader = Reader(running, Final(1000))
    reader.wire.room = 1
    await reader.begin()
    assert reader.server.taken_back == [(reader.stream, True)]
    assert not running.readers


async def test_nobody_else_is_told_to_wait_without_a_task(running: Hub, log: Log) -> None:
    """A stream that could not be handed over asks its delivery as before: a delivery that gave it Idle would be asked
    again at once, for ever."""
    held = await started(log)
    reader = Reader(running)
    first, second = await reader.delivery.next(), await reader.delivery.next()
    assert isinstance(first, Events)
    assert isinstance(second, CaughtUp)
    asked = asyncio.create_task(reader.delivery.next())
    await asyncio.sleep(0)
    assert not asked.done()
    await say(log, held, 2, "a")
    async with asyncio.timeout(WITHIN_S):
        assert isinstance(await asked, Events)
    reader.delivery.close()
