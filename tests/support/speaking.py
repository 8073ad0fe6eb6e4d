"""Sessions that have begun to speak."""

import asyncio

from shared.events import EventType
from tests.support.dialect_stage import SECONDS, DialectStage


async def until_it_speaks(stage: DialectStage, sid: str) -> None:
    """Until the session's log has some text; it need not be there yet. It must still be speaking then."""
    async with asyncio.timeout(SECONDS), stage.node.hub.reading(sid) as reader:
        while not any(event.type == EventType.TEXT for event in await stage.log.events(sid)):
            await reader.feed.changed()
