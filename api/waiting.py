"""Waiting for the end of a generation, on the feed: no polling."""

import asyncio

from api.node import Node


async def until_over(node: Node, sid: str, generation: str, within_s: float) -> None:
    """Returns when the generation is over or the time is."""
    try:
        async with asyncio.timeout(within_s), node.hub.reading(sid) as reader:
            while True:
                view = await node.log.view(sid)
                if view is None or not view.live or view.generation != generation:
                    return
                await reader.feed.changed()
    except TimeoutError:
        return
