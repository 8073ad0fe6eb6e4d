"""What many ask for at the same moment is done once, and never answered by what was done before they asked."""

import asyncio
from typing import Any

from api.feed import Feed
from api.outputs import CaughtUp
from api.sharing import Sharing
from shared.events import Event
from shared.log import Log
from tests.support import sessions
from tests.support.readers import client, hub


async def test_what_is_under_way_is_shared() -> None:
    """Three ask at once, and one thing is done; its result, or error, is everybody's."""
    sharing, done = Sharing(asyncio.create_task), 0

    async def work() -> int:
        nonlocal done
        done += 1
        await asyncio.sleep(0)
        return done

    assert await asyncio.gather(*(sharing.one("it", work) for _ in range(3))) == [1, 1, 1]


async def test_what_is_done_is_not_shared() -> None:
    """Whoever asks when the work is done, though nobody has been told yet, has it done again."""
    sharing, done = Sharing(asyncio.create_task), 0

    async def work() -> int:
        nonlocal done
        done += 1
        return done

    task = sharing.begin("it", work)
    asked: list[asyncio.Task[int]] = []
    task.add_done_callback(lambda _: None)
    while not task.done():
        await asyncio.sleep(0)
    assert "it" not in sharing
    asked.append(sharing.begin("it", work))
    assert await asked[0] == 2
    await asyncio.sleep(0)
    assert "it" not in sharing


async def test_a_look_is_never_older_than_the_asking(log: Log, redis: Any, redis_url: str) -> None:
    """What is said while a look at the log is being decided is found by it, though its message was lost."""
    held = await sessions.started(log)
    async with hub(redis_url, redis, quiet_check_s=60) as running, client(running, follow=True) as reader:
        await reader.until(CaughtUp)
        (feed,) = running._feeds.values()
        feed.take = lambda *_: None  # type: ignore[method-assign]  # every message is lost
        look, said = Feed.look, asyncio.Event()

        async def late(self: Feed, *args: Any) -> None:
            await look(self, *args)
            if not said.is_set():
                said.set()
                await sessions.say(log, held, 2, "unheard")
                running._look(feed)

        feed.look = late.__get__(feed)  # type: ignore[method-assign]
        running._look(feed)
        await reader.until_events(3)
    assert _text(reader.events[-1]) == "unheard"


def _text(event: Event) -> str:
    return str(event.value["text"])
