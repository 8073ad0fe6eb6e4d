"""What arrives on a subscription's connection: whole replies however they come, every way it can end, and its turn."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop
from redis.asyncio.connection import parse_url
from redis.exceptions import BusyLoadingError, InvalidResponse, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from shared.subscriber import Subscriber
from shared.topology.connections import TcpConnection, cut
from shared.topology.intake import CHUNK, Intake

WITHIN_S = 30.0
CHANNEL = b"holdfast:{s}:live"
LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
NewLoop = Callable[[], asyncio.AbstractEventLoop]


def message(payload: bytes) -> bytes:
    return b"*3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(CHANNEL), CHANNEL, len(payload), payload)


class Counted(Intake):
    taken = 0
    """Bytes."""

    def buffer_updated(self, nbytes: int) -> None:
        self.taken += nbytes
        super().buffer_updated(nbytes)


@dataclass
class Talk:
    """A connection whose reading was taken over, and the server's end of it."""

    connection: TcpConnection
    server: asyncio.StreamWriter
    asked: asyncio.StreamReader
    intake: Counted
    said: list[Any] = field(default_factory=list)

    async def until_taken(self, count: int) -> None:
        await until(lambda: self.intake.taken == count)


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not true():
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[TcpConnection, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection, and the server's ends of it, which say nothing of their own."""
    ends: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue(1)
    server = await asyncio.start_server(lambda reader, writer: ends.put_nowait((reader, writer)), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connection = TcpConnection(host="127.0.0.1", port=port, lib_name=None, lib_version=None)
    await connection.connect()  # type: ignore[no-untyped-call]
    reader, writer = await ends.get()
    try:
        yield connection, reader, writer
    finally:
        await connection.disconnect(nowait=True)
        writer.transport.abort()
        server.close()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def talk(on_reply: Callable[[Any], None] | None = None) -> AsyncIterator[Talk]:
    async with connected() as (connection, asked, server):
        said: list[Any] = []
        intake = await Counted.of(connection, on_reply or said.append)
        yield Talk(connection, server, asked, intake, said)
        intake.close()


def run(loop: NewLoop, work: Callable[[], Awaitable[None]]) -> None:
    async def timed() -> None:
        async with asyncio.timeout(WITHIN_S):
            await work()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(timed())


@LOOPS
def test_messages_are_whole_wherever_they_are_cut(loop: NewLoop) -> None:
    """Two messages that come in two reads, cut after each of their bytes; text that looks like protocol is text."""
    payloads = [b"one\r\n$7\r\nmessage\r\n", b""]
    both = b"".join(map(message, payloads))

    async def cut_everywhere() -> None:
        async with talk() as t:
            for at in range(1, len(both)):
                t.said.clear()
                t.intake.taken = 0
                t.server.write(both[:at])
                await t.until_taken(at)
                t.server.write(both[at:])
                await t.until_taken(len(both))
                assert t.said == [[b"message", CHANNEL, payload] for payload in payloads]

    run(loop, cut_everywhere)


@LOOPS
def test_a_thousand_messages_in_one_write_are_a_thousand_in_order(loop: NewLoop) -> None:
    """None is left over until more arrives."""
    payloads = [b"%d" % n for n in range(1000)]

    async def at_once() -> None:
        async with talk() as t:
            t.server.write(b"".join(map(message, payloads)))
            await until(lambda: len(t.said) >= 1000)
            assert [payload for _, _, payload in t.said] == payloads

    run(loop, at_once)


@LOOPS
def test_a_flood_leaves_others_their_turn(loop: NewLoop) -> None:
    """However much is there, all others on the loop have their turn after each chunk."""
    one = message(b"x" * 1000)
    count = 64 * CHUNK // len(one)

    async def flooded() -> None:
        turn, per_turn = 0, [0]

        def next_turn() -> None:
            nonlocal turn
            turn += 1
            per_turn.append(0)
            asyncio.get_running_loop().call_soon(next_turn)

        def take(_: Any) -> None:
            per_turn[turn] += len(one)

        async with talk(take) as t:
            t.connection._writer.transport.pause_reading()  # type: ignore[union-attr]
            t.server.write(one * count)
            await until(lambda: t.server.transport.get_write_buffer_size() < len(one) * count)
            await asyncio.sleep(0.1)  # until the socket is full
            next_turn()
            t.connection._writer.transport.resume_reading()  # type: ignore[union-attr]
            await until(lambda: sum(per_turn) == len(one) * count)
            assert max(per_turn) <= CHUNK + len(one)

    run(loop, flooded)


@LOOPS
@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (b"-NOPERM this user has no permissions\r\n", NoPermissionError, "this user has no permissions"),
        (b"-LOADING Redis is loading\r\n", BusyLoadingError, "Redis is loading"),
        (b"-MISCONF cannot persist\r\n", ResponseError, "MISCONF cannot persist"),
        (b"-ERR max number of clients reached\r\n", RedisConnectionError, "max number of clients reached"),
        (b"this is no Redis\r\n", InvalidResponse, "Protocol error"),
    ],
    ids=["NOPERM", "LOADING", "MISCONF", "ERR", "no protocol"],
)
def test_an_error_ends_it_as_redis_py_would(loop: NewLoop, answer: bytes, kind: type[RedisError], text: str) -> None:
    """What came before it is handed on, what came after it is not."""

    async def refused() -> None:
        async with talk() as t:
            t.server.write(message(b"before") + answer + message(b"after"))
            with pytest.raises(kind) as raised:
                await t.intake.over
            assert type(raised.value) is kind
            assert text in str(raised.value)
            t.server.write(message(b"later"))
            await asyncio.sleep(0.05)
            assert t.said == [[b"message", CHANNEL, b"before"]]

    run(loop, refused)


@LOOPS
@pytest.mark.parametrize("end", ["closes", "aborts", "is cut here"])
def test_an_end_within_a_message_is_a_lost_connection(loop: NewLoop, end: str) -> None:
    """However the connection ends; the half message is dropped, and sending says it too."""
    whole, half = message(b"whole"), message(b"half")[:-1]

    async def ended() -> None:
        async with talk() as t:
            t.server.write(whole + half)
            await t.until_taken(len(whole + half))
            match end:
                case "closes":
                    t.server.close()
                case "aborts":
                    t.server.transport.abort()
                case _:
                    cut(t.connection)
            with pytest.raises(RedisConnectionError):
                await t.intake.over
            with pytest.raises(RedisConnectionError):
                await _ping_on(t.connection)
            assert t.said == [[b"message", CHANNEL, b"whole"]]

    run(loop, ended)


async def _ping_on(connection: TcpConnection) -> None:
    while True:  # the first may still be taken
        await connection.send_command("PING")


@LOOPS
def test_what_came_before_the_take_over_is_not_lost(loop: NewLoop) -> None:
    """A server that is full says so as soon as it is connected to, and half of it may have been read by redis-py."""

    async def early() -> None:
        async with connected() as (connection, _, server):
            server.write(message(b"early") + b"-ERR max number of cl")
            reader: Any = connection._reader
            await until(lambda: reader._buffer.endswith(b"of cl"))
            said: list[Any] = []
            intake = await Intake.of(connection, said.append)
            server.write(b"ients reached\r\n")
            with pytest.raises(RedisConnectionError, match="max number of clients"):
                await intake.over
            assert said == [[b"message", CHANNEL, b"early"]]

    run(loop, early)


@LOOPS
def test_a_connection_that_ended_before_the_take_over_is_lost(loop: NewLoop) -> None:
    """Whether its end was seen or it was cut: nobody waits for what cannot come."""

    async def too_late() -> None:
        async with connected() as (connection, _, server):
            server.close()
            reader: Any = connection._reader
            await until(reader.at_eof)
            with pytest.raises(RedisConnectionError):
                await (await Intake.of(connection, print)).over
        async with connected() as (connection, _, _):
            cut(connection)
            with pytest.raises(RedisConnectionError):
                await Intake.of(connection, print)

    run(loop, too_late)


@LOOPS
def test_what_its_user_raises_ends_it(loop: NewLoop) -> None:
    """It is for whoever runs the subscription, not for the loop to log; nothing is handed on after it."""
    said = []

    def fail(reply: Any) -> None:
        said.append(reply)
        raise LookupError("a mistake")

    async def failed() -> None:
        async with talk(fail) as t:
            t.server.write(message(b"1") + message(b"2"))
            with pytest.raises(LookupError, match="a mistake"):
                await t.intake.over
            assert len(said) == 1

    run(loop, failed)


@LOOPS
def test_who_sends_waits_for_a_server_that_does_not_read(loop: NewLoop) -> None:
    """redis-py is still told when to pause: commands do not pile up here."""

    async def clogged() -> None:
        async with talk() as t:
            t.server.transport.pause_reading()  # type: ignore[attr-defined]
            sending = asyncio.create_task(t.connection.send_command("PING", b"x" * 32_000_000))
            done, _ = await asyncio.wait([sending], timeout=0.2)
            assert not done
            t.server.transport.resume_reading()  # type: ignore[attr-defined]
            while not sending.done():
                await t.asked.read(1 << 20)
            await sending

    run(loop, clogged)


@pytest.mark.parametrize("protocol", [2, 3])
async def test_redis_itself_is_understood_in_both_protocols(redis_url: str, redis: Any, protocol: int) -> None:
    """What is published arrives in either, and pongs pass between."""
    where = parse_url(redis_url)
    connection = TcpConnection(host=where["host"], port=where["port"], protocol=protocol)
    await connection.connect()  # type: ignore[no-untyped-call]
    said: list[Any] = []
    intake = await Intake.of(connection, said.append)
    try:
        await connection.send_command("SUBSCRIBE", CHANNEL)
        await connection.send_command("PING")
        await until(lambda: len(said) == 2)
        await redis.publish(CHANNEL, b"\xff\x00")
        await until(lambda: len(said) == 3)
        assert said[0] == [b"subscribe", CHANNEL, 1]
        assert said[1] in ([b"pong", b""], b"PONG")
        assert said[2] == [b"message", CHANNEL, b"\xff\x00"]
    finally:
        intake.close()
        await connection.disconnect()


async def test_a_subscriber_names_channels_as_they_were_asked_for(redis_url: str, redis: Any) -> None:
    """Each message comes with its channel's name; none of a channel that was given up, even if it was on its way."""
    heard: list[tuple[str, bytes]] = []
    subscriber = Subscriber(redis_url, lambda *message: heard.append(message), lambda: None)
    running = asyncio.create_task(subscriber.run())
    for channel in ("a", "b", "ü"):
        await subscriber.subscribe(channel)
    transport = subscriber._connection._writer.transport
    transport.pause_reading()
    await redis.publish("b", b"on its way")
    await subscriber.unsubscribe("b")
    transport.resume_reading()
    for channel in ("b", "a", "ü"):
        await redis.publish(channel, channel.encode())
    await until(lambda: len(heard) == 2)
    assert heard == [("a", b"a"), ("ü", "ü".encode())]
    running.cancel()
    await asyncio.wait([running])
    await subscriber.aclose()
