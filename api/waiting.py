"""Waiting for the end of a generation, on the feed: no polling."""

import asyncio

from api.node import Node
from shared.redis import RedisError


async def until_over(node: Node, sid: str, generation: str, within_s: float) -> None:
    """Returns when the generation is over, or the time is, or the node leaves."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    try:
        async with node.hub.reading(sid) as reader:
            while not reader.kicked and (left := deadline - loop.time()) > 0:
                seen = reader.feed.last
                view = await node.log.view(sid)
                if view is None or not view.live or view.generation != generation:
                    return
                if reader.feed.last == seen:  # else it changed while we looked
                    await asyncio.wait_for(reader.feed.changed(), left)
    except (TimeoutError, RedisError):
        return  # the stop is stored: how it ended can be asked again
