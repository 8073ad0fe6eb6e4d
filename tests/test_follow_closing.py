"""How the browser's Follower ends: whatever its connection is doing, at once and for good."""

import pytest

from tests.support.follower import follower
from tests.support.inprocess import live_node, live_worker
from tests.support.ports import free_port
from tests.support.system import create


@pytest.mark.parametrize(
    ("transport", "tokens"),
    [("websocket", None), ("websocket", "later"), ("websocket", "never"), ("sse", "later"), ("sse", "never")],
)
async def test_closed_in_the_tick_it_began_in_it_asks_for_nothing(transport: str, tokens: str | None) -> None:
    """No socket is left behind, nothing more is reported, and `done` resolves, whenever headers come, if at all."""
    options = {"transport": transport, "tokens": tokens, "closed": True}
    async with follower(f"http://127.0.0.1:{free_port()}", "s1", **options) as reader:
        assert await reader.over() is None
        await reader.call("wake")  # another turn of its loop
        assert reader.states == ["connecting"]
        assert reader.asked == []


@pytest.mark.parametrize("transport", ["websocket", "sse"])
async def test_headers_that_never_come_are_asked_for_again(transport: str) -> None:
    """A renewal of a token can hang, as after a sleep: 30 s later it is tried anew."""
    options = {"transport": transport, "tokens": "never", "clock": True}
    async with follower(f"http://127.0.0.1:{free_port()}", "s1", **options) as reader:
        await reader.call("tick", 31_000)
        await reader.until(lambda: reader.states == ["connecting", "reconnecting"])


@pytest.mark.parametrize("transport", ["websocket", "sse"])
async def test_what_the_consumer_throws_is_told_after_it_closed(redis_url: str, transport: str) -> None:
    """`done` rejects with it: closing the stream first does not make a consumer's mistake disappear."""
    async with live_node(redis_url) as node, live_worker(redis_url):
        sid = await create(node.url, model="demo/echo", input="one")
        async with follower(node.url, sid, transport=transport, spoil=True) as reader:
            assert await reader.over() == "Error"
            assert len(reader.events) == 1
            assert reader.states == ["connecting", "live"]
