"""The event stream of one node, byte by byte: framing, replay, ends, keep-alives, and what clients do to it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from api.delivery import Delivery
from api.node import ANONYMOUS
from api.outputs import Events
from shared import keys
from shared.events import encode
from shared.ids import START, EventId
from shared.log import Log
from tests.support.inprocess import LiveNode, live_node, live_worker
from tests.support.sse import SSE, Frame, Severed, events_path, read_all, text_of
from tests.support.system import create


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[LiveNode]:
    async with live_node(redis_url, keepalive_s=0.2, quiet_check_s=0.2) as running:
        yield running


@pytest.fixture
async def worker(redis_url: str, node: LiveNode) -> AsyncIterator[None]:
    async with live_worker(redis_url):
        yield


async def claimed(node: LiveNode, log: Log, *texts: str) -> tuple[str, int]:
    """A session whose generation the test itself writes, so that it decides what happens when."""
    sid = await create(node.url)
    pen = await log.claim(sid, "token", "g1", "test-worker")
    assert pen is not None
    if texts:
        await say(log, sid, pen.epoch, 2, *texts)
    return sid, pen.epoch


async def say(log: Log, sid: str, epoch: int, first: int, *texts: str) -> None:
    batch = [("text.delta", encode({"text": text})) for text in texts]
    assert (await log.append(sid, "token", epoch, first, batch))[0] == "OK"


async def finish(log: Log, sid: str, epoch: int, seq: int) -> None:
    end = ("generation.completed", encode({"generation": "g1", "finish_reason": "stop"}))
    assert (await log.append(sid, "token", epoch, seq, [end]))[0] == "OK"


async def until(frames: AsyncIterator[Frame], type_: str) -> list[Frame]:
    """Frames up to and with the first of that type."""
    got = []
    async for frame in frames:
        got.append(frame)
        if frame.type == type_:
            return got
    raise AssertionError(f"no {type_} in {got}")


@pytest.mark.usefixtures("worker")
async def test_every_block_has_data_and_only_line_feeds(node: LiveNode) -> None:
    """LF only; no block without a data line; `retry` rides with data, the id comes last; never `event: error`."""
    sid = await create(node.url, options={"tokens": 30, "rate": 100})
    async with SSE(node.url, events_path(sid)) as stream:
        async for _ in stream.frames():
            pass
    assert b"\r" not in stream.raw
    blocks = stream.raw.split(b"\n\n")
    assert blocks.pop() == b""
    assert all(b"\ndata: " in block for block in blocks)
    assert blocks[0].startswith(b"retry: 1000\nevent: message\n")
    assert all(block.split(b"\n")[-1].startswith(b"id: ") for block in blocks if b"event: caught_up" not in block)
    assert not any(b"retry:" in block for block in blocks[1:])
    assert b"event: error" not in stream.raw


@pytest.mark.usefixtures("worker")
async def test_the_stream_forbids_buffering_and_is_never_compressed(node: LiveNode) -> None:
    """Headers tell proxies and caches to leave it alone, whatever the client accepts."""
    sid = await create(node.url)
    async with SSE(node.url, events_path(sid), {"Accept-Encoding": "gzip, br"}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["x-accel-buffering"] == "no"
        assert "no-cache" in stream.headers["cache-control"]
        assert "no-transform" in stream.headers["cache-control"]
        assert "content-encoding" not in stream.headers
        assert stream.headers.get("connection", "") != "close"


async def test_keep_alives_are_one_line_and_come_without_events(node: LiveNode, log: Log) -> None:
    """A quiet stream says `: ka` again and again, without a blank line after it."""
    sid, _ = await claimed(node, log)
    async with SSE(node.url, events_path(sid)) as stream:
        async for _ in stream.chunks():
            if stream.raw.count(b": ka\n") >= 2:
                break
    assert b": ka\n\n" not in stream.raw


async def test_caught_up_comes_once_between_replay_and_live(node: LiveNode, log: Log) -> None:
    """`caught_up` has no id, names the last event replayed, and is not repeated."""
    sid, epoch = await claimed(node, log, "a", "b")
    async with SSE(node.url, events_path(sid)) as stream:
        frames = stream.frames()
        replay = await until(frames, "caught_up")
        assert [frame.type for frame in replay] == ["message", "generation.started", "text.delta", "caught_up"]
        assert replay[2].data == {"text": "ab"}
        assert replay[2].id == replay[3].data["last_event_id"] == f"{epoch}-3"
        assert replay[3].id == ""
        await say(log, sid, epoch, 4, "c")
        await finish(log, sid, epoch, 5)
        rest = [frame async for frame in frames]
    assert [frame.type for frame in rest] == ["text.delta", "generation.completed"]


async def test_events_reach_readers_as_they_are_appended(node: LiveNode, log: Log) -> None:
    """Each append is seen before the next is made, by a reader that is there and by one that came with a cursor."""
    sid, epoch = await claimed(node, log)
    async with SSE(node.url, events_path(sid)) as one, SSE(node.url, events_path(sid, after=f"{epoch}-1")) as two:
        streams = [one.frames(), two.frames()]
        for frames in streams:
            await until(frames, "caught_up")
        for seq in range(2, 30):
            await say(log, sid, epoch, seq, f"<{seq}>")
            for frames in streams:
                frame = await anext(frames)
                assert (frame.event_id, frame.data) == (EventId(epoch, seq), {"text": f"<{seq}>"})


async def test_a_stream_ends_with_the_turn_and_follow_stays_for_the_next(node: LiveNode, log: Log) -> None:
    """Without `follow` the response ends cleanly after the terminal; with it the next turn arrives on the same one."""
    sid, epoch = await claimed(node, log, "a")
    async with SSE(node.url, events_path(sid, follow=1)) as stream:
        frames = stream.frames()
        await until(frames, "caught_up")
        await finish(log, sid, epoch, 3)
        assert (await read_all(node.url, sid))[-1].type == "generation.completed"
        async with httpx.AsyncClient(base_url=node.url) as client:
            assert (await client.post(f"/v1/sessions/{sid}/messages", json={"input": "more"})).status_code == 201
        turn = await until(frames, "message")
    assert [frame.type for frame in turn] == ["generation.completed", "message"]
    assert turn[-1].data["generation"] == "g2"


async def test_a_finished_session_answers_204_at_its_end(node: LiveNode, log: Log) -> None:
    """An EventSource that reconnects after the terminal is told to stop; with `follow` it may wait."""
    sid, epoch = await claimed(node, log, "a")
    await finish(log, sid, epoch, 3)
    async with SSE(node.url, events_path(sid), {"Last-Event-ID": f"{epoch}-3"}) as stream:
        assert stream.status == 204
    async with SSE(node.url, events_path(sid, follow=1), {"Last-Event-ID": f"{epoch}-3"}) as stream:
        assert stream.status == 200
        assert (await anext(stream.frames())).type == "caught_up"


async def test_the_header_wins_over_after(node: LiveNode, log: Log) -> None:
    """An EventSource keeps its URL when it reconnects: the newer cursor is in the header."""
    sid, epoch = await claimed(node, log, "a", "b")
    await finish(log, sid, epoch, 4)
    async with SSE(node.url, events_path(sid, after="0-0"), {"Last-Event-ID": f"{epoch}-3"}) as stream:
        assert [frame.id async for frame in stream.frames()] == [f"{epoch}-4"]


async def test_a_reader_of_an_older_turn_passes_its_terminal(node: LiveNode, log: Log) -> None:
    """The end is that of the turn which was current on arrival, not the first terminal on the way."""
    sid, epoch = await claimed(node, log, "a")
    await finish(log, sid, epoch, 3)
    async with httpx.AsyncClient(base_url=node.url) as client:
        await client.post(f"/v1/sessions/{sid}/messages", json={"input": "more"})
    async with SSE(node.url, events_path(sid)) as stream:
        types = [frame.type for frame in await until(stream.frames(), "caught_up")]
    assert types == ["message", "generation.started", "text.delta", "generation.completed", "message", "caught_up"]


async def test_a_trimmed_head_is_a_gap_also_without_a_cursor(node: LiveNode, log: Log, redis: Any) -> None:
    """Never a silent start: `gap` bears an id, the range that is left and the transcript, and the stream goes on."""
    sid, epoch = await claimed(node, log, "a", "b", "c")
    await redis.xtrim(keys.events(sid), maxlen=1, approximate=False)
    for cursor in (None, f"{epoch}-1"):
        async with SSE(node.url, events_path(sid), {"Last-Event-ID": cursor} if cursor else {}) as stream:
            gap = await anext(stream.frames())
        assert (gap.type, gap.data["reason"], gap.id) == ("gap", "trimmed", f"{epoch}-4")
        assert (gap.data["requested"], gap.data["earliest"]) == (cursor or "0-0", f"{epoch}-4")
        assert gap.data["transcript"]["messages"][-1]["content"] == "c"
    await finish(log, sid, epoch, 5)
    assert [frame.type for frame in await read_all(node.url, sid, f"{epoch}-4")] == ["generation.completed"]


async def test_a_gap_after_the_end_still_brings_the_terminal(node: LiveNode, log: Log, redis: Any) -> None:
    """Its id is the one before the terminal, so that the client learns how it ended."""
    sid, epoch = await claimed(node, log, "a", "b")
    await finish(log, sid, epoch, 4)
    await redis.xtrim(keys.events(sid), maxlen=1, approximate=False)
    frames = await read_all(node.url, sid)
    assert [(frame.type, frame.id) for frame in frames] == [
        ("gap", f"{epoch}-3"),
        ("generation.completed", f"{epoch}-4"),
    ]


async def test_a_cursor_ahead_of_a_dead_writer_is_a_gap(node: LiveNode, log: Log) -> None:
    """With nobody to say the tail again, the reader is told at once."""
    sid, epoch = await claimed(node, log, "a")
    async with SSE(node.url, events_path(sid), {"Last-Event-ID": f"{epoch}-9"}) as stream:
        gap = await anext(stream.frames())
    assert (gap.type, gap.data["reason"], gap.id) == ("gap", "ahead", f"{epoch}-2")


async def test_a_cursor_ahead_of_a_live_writer_waits_for_it(node: LiveNode, log: Log, directory: Any) -> None:
    """The writer heals the log after a failover: the reader waits, and goes on without a gap."""
    sid, epoch = await claimed(node, log, "a")
    await directory.refresh_lease("test-worker", 60_000, "{}")
    async with SSE(node.url, events_path(sid), {"Last-Event-ID": f"{epoch}-4"}) as stream:
        await say(log, sid, epoch, 3, "b", "c", "d")
        await finish(log, sid, epoch, 6)
        frames = [frame async for frame in stream.frames() if frame.id]
    assert [frame.id for frame in frames] == [f"{epoch}-5", f"{epoch}-6"]


async def test_a_lost_last_message_is_found(node: LiveNode, log: Log, redis: Any) -> None:
    """Pub/sub may lose what it likes: a quiet feed looks at the log, and its readers get what they missed."""
    sid, epoch = await claimed(node, log)
    async with SSE(node.url, events_path(sid)) as stream:
        frames = stream.frames()
        await until(frames, "caught_up")
        await redis.xadd(keys.events(sid), {"type": "text.delta", "data": '{"text":"lost"}', "at": 1}, id=f"{epoch}-2")
        await redis.hset(keys.session(sid), "last", f"{epoch}-2")
        assert (await anext(frames)).data == {"text": "lost"}


async def test_a_deleted_session_cuts_its_readers(node: LiveNode, log: Log) -> None:
    """No clean end: that would look like success. A reconnect gets 404."""
    sid, _ = await claimed(node, log)
    async with SSE(node.url, events_path(sid)) as stream:
        frames = stream.frames()
        await until(frames, "caught_up")
        async with httpx.AsyncClient(base_url=node.url) as client:
            assert (await client.delete(f"/v1/sessions/{sid}")).status_code == 204
        with pytest.raises(Severed):
            await anext(frames)
    async with SSE(node.url, events_path(sid)) as stream:
        assert stream.status == 404


async def test_readers_leave_no_trace(node: LiveNode, log: Log) -> None:
    """Fifty readers that vanish: the node counts none, and their generation goes on."""
    sid, epoch = await claimed(node, log)
    streams = [await SSE(node.url, events_path(sid)).open() for _ in range(50)]
    for stream in streams:
        await until(stream.frames(), "caught_up")
    assert len(node.node.hub.readers) == 50
    for stream in streams:
        stream.kill()
    async with asyncio.timeout(5):
        while node.node.hub.readers:
            await asyncio.sleep(0)
    await say(log, sid, epoch, 2, "still here")
    view = await log.view(sid)
    assert view is not None
    assert view.state == "running"


async def test_readers_that_resume_at_once_share_reads(
    node: LiveNode, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hundred readers from the start of one session cost a handful of reads of its log."""
    sid, epoch = await claimed(node, log, *"abcdefgh")
    await finish(log, sid, epoch, 10)
    reads = 0
    read = node.node.log.page

    async def counted(*args: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(*args)

    monkeypatch.setattr(node.node.log, "page", counted)
    results = await asyncio.gather(*(read_all(node.url, sid) for _ in range(200)))
    assert {text_of(frames) for frames in results} == {"abcdefgh"}
    assert 0 < reads < 10


async def test_a_draining_node_sends_its_readers_away(redis_url: str, log: Log) -> None:
    """Open streams are cut, not ended, and the node says that it is not ready."""
    async with live_node(redis_url) as node:
        sid, _ = await claimed(node, log)
        async with SSE(node.url, events_path(sid)) as stream:
            frames = stream.frames()
            await until(frames, "caught_up")
            node.node.hub.drain()
            async with httpx.AsyncClient(base_url=node.url) as client:
                assert (await client.get("/readyz")).status_code == 503
                assert (await client.get("/livez")).status_code == 200
            with pytest.raises(Severed):
                await anext(frames)


async def test_a_slow_reader_gets_everything_from_the_log(redis_url: str, log: Log) -> None:
    """One that falls off the ring is back on replay: nothing is kept for it in memory, and nothing is lost."""
    async with live_node(redis_url, ring_events=8) as node:
        sid, epoch = await claimed(node, log)
        async with SSE(node.url, events_path(sid)) as stream:
            frames = stream.frames()
            await until(frames, "caught_up")
            text = "x" * 20_000
            for seq in range(2, 402):  # 8 MB: far more than the sockets in between hold
                await say(log, sid, epoch, seq, f"{seq}{text}")
            await finish(log, sid, epoch, 402)
            said = text_of([frame async for frame in frames])
        assert said == "".join(f"{seq}{text}" for seq in range(2, 402))
        assert len(node.node.hub._feeds[sid]._ring) <= 8


async def test_an_error_on_the_subscription_is_survived(node: LiveNode, log: Log) -> None:
    """Redis may answer a ping with an error: the subscription is made anew, and later events arrive."""
    sid, epoch = await claimed(node, log)
    async with SSE(node.url, events_path(sid)) as stream:
        frames = stream.frames()
        await until(frames, "caught_up")
        subscriber = node.node.hub._subscriber
        refused = subscriber._connection
        await refused.send_command("GET", "a subscriber may not ask")
        while subscriber._connection in (refused, None):
            await asyncio.sleep(0.01)
        await say(log, sid, epoch, 2, "a")
        await say(log, sid, epoch, 3, "b")
        assert text_of([await anext(frames), await anext(frames)]) == "ab"
    assert node.node.hub.healthy


async def test_a_reader_that_comes_while_the_node_drains_is_sent_away(redis_url: str, log: Log) -> None:
    """It was not there when the others were told to go, and must not hold the node up; nor does it come for nothing."""
    async with live_node(redis_url) as node:
        sid, _ = await claimed(node, log)
        node.node.hub.drain()
        async with SSE(node.url, events_path(sid)) as stream:
            frames = stream.frames()
            assert [(await anext(frames)).type for _ in range(2)] == ["message", "generation.started"]
            with pytest.raises(Severed):
                await anext(frames)


async def test_a_replay_of_large_events_is_many_small_writes(node: LiveNode, log: Log) -> None:
    """No write holds much more than the limit, however many events a page of the log has."""
    sid, epoch = await claimed(node, log)
    for seq in range(2, 42):
        await log.append(sid, "token", epoch, seq, [("data", encode({"name": "big", "value": "x" * 300_000}))])
    await finish(log, sid, epoch, 42)
    outputs = Delivery(node.node.hub, sid, ANONYMOUS, START, follow=False, merge=True).outputs()
    sizes, seen = [], 0
    async for output in outputs:
        if isinstance(output, Events):
            sizes.append(sum(len(event.data) for event in output.events))
            seen += len(output.events)
    assert seen == 43
    assert max(sizes) < 2 << 20
