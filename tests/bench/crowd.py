"""Many readers on real sockets, and the one who speaks to them in a worker's place."""

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from shared.events import EventType, encode
from shared.log import Log
from tests.support.sse import SSE, Frame, events_path

OPEN_FILES = 20_000
OBSERVER = "observer"
"""Name of a Redis client that is not the node's."""


@contextlib.contextmanager
def open_files() -> Iterator[None]:
    """Room for a socket per reader, here and in the processes started meanwhile, which inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(OPEN_FILES, hard)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class CrowdReader:
    def __init__(self, base: str, sid: str) -> None:
        self.sid = sid
        self.frames: list[Frame] = []
        self._stream = SSE(base, events_path(sid))

    async def join(self) -> None:
        """Open the stream and read up to where it is live."""
        await self._stream.open()
        self._coming = self._stream.frames()
        async for frame in self._coming:
            self.frames.append(frame)
            if frame.type == "caught_up":
                return

    async def finish(self) -> None:
        """Read on to the clean end."""
        async for frame in self._coming:
            self.frames.append(frame)

    def kill(self) -> None:
        self._stream.kill()


@contextlib.asynccontextmanager
async def crowd(base: str, sids: Sequence[str], readers: int) -> AsyncIterator[list[CrowdReader]]:
    """`readers` of the sessions, in turn, all of them live. At the end of the block they vanish."""
    everybody = [CrowdReader(base, sids[n % len(sids)]) for n in range(readers)]
    await asyncio.gather(*(reader.join() for reader in everybody))
    try:
        yield everybody
    finally:
        for reader in everybody:
            reader.kill()


async def say(log: Log, sid: str) -> None:
    """Run the session's generation in the worker's place: a few words, then the end."""
    token = f"token-{sid}"
    claimed = await log.claim(sid, token, "g1", "nobody")
    assert claimed is not None
    for seq, word in enumerate(("one ", "two ", sid), start=2):
        await log.append(sid, token, claimed.epoch, seq, [(EventType.TEXT, encode({"text": word}))])
    end = encode({"generation": "g1", "finish_reason": "stop"})
    await log.append(sid, token, claimed.epoch, 5, [(EventType.COMPLETED, end)])


async def connections(observer: Any) -> int:
    """Connections to Redis that are not the observer's: the node's, where nobody else is there."""
    return sum(client["name"] != OBSERVER for client in await observer.client_list())


async def serve(log: Log, observer: Any, readers: Sequence[CrowdReader], sids: Sequence[str]) -> list[int]:
    """Run all sessions until every reader has its end; gives the connections seen meanwhile."""
    finishing = asyncio.gather(*(reader.finish() for reader in readers))
    seen = []
    for sid in sids:
        await say(log, sid)
        seen.append(await connections(observer))
    await finishing
    return seen
