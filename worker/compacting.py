"""Compaction beside the jobs: what a session said is stored joined once nobody says it again."""

import asyncio

from shared.log import Log
from shared.redis import RedisError
from shared.telemetry import get_logger

_log = get_logger(__name__)

AT_ONCE = 2
"""Logs rewritten at the same moment by one worker."""
MOST = 1000
"""Sessions that wait for their turn. One that comes then is left as it is until the end of its next generation."""


class Compacting:
    """The turns of one worker's sessions. Nothing depends on it: what is lost with the worker stays as it was said."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def compact(self, log: Log, sid: str) -> None:
        """Ends by itself; cancelled, it leaves the log as it was. Redis being away is no reason to try again."""
        if self._waiting >= MOST:
            _log.info("log left as it was said: too many wait", session=sid)
            return
        self._waiting += 1
        try:
            async with self._turns:
                if await log.compact(sid):
                    _log.debug("log compacted", session=sid)
        except RedisError as error:
            _log.info("log left as it was said", session=sid, error=str(error))
        finally:
            self._waiting -= 1
