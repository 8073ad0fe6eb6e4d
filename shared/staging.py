"""Staging: a log is written anew beside the old one, and then takes its place in one step."""

from typing import Any

from shared import keys, scripts
from shared.compaction import Entry, Joiner
from shared.ids import EventId, new_token

STAGE_MS = 60_000
"""A stage that nobody finishes is gone after this."""
PAGE = 500
"""Entries read or written at once."""


async def compact(redis: Any, sid: str, last: EventId) -> bool:
    """Join the deltas in the log of a session that is over, with `last` as its last event; False if that gains nothing,
    or if the log changed meanwhile: then it stays as it is.

    Raises redis.exceptions.RedisError: the log is the old one or the new one, both say the same. So it may also be
    cancelled or repeated at any time, or done by several at once: each has a stage of its own.
    """
    stage = _Stage(redis, sid)
    joiner, start, joined = Joiner(), "-", list[Entry]()
    while entries := await redis.xrange(keys.events(sid), min=start, count=PAGE):
        start = f"({entries[-1][0].decode()}"
        joined += joiner.take(entries)
        if len(joined) >= PAGE:
            await stage.write(joined)
            joined = []
    joined += joiner.done()
    if joiner.given == joiner.taken:
        await stage.drop()
        return False
    await stage.write(joined)
    return await stage.swap(joiner, last)


class _Stage:
    def __init__(self, redis: Any, sid: str) -> None:
        self._redis = redis
        self._key = keys.stage(sid, new_token())
        self._keys = [*keys.session_keys(sid), self._key]
        self._end = b"0-0"
        """Id of the last entry written."""

    async def write(self, entries: list[Entry]) -> None:
        """One after the other. What went wrong shows in `swap`: a stage that is not complete is refused."""
        arguments: list[scripts.Argument] = []
        for entry_id, fields in entries:
            arguments += (entry_id, 2 * len(fields), *(part for field in fields.items() for part in field))
        start, self._end = self._end, entries[-1][0]
        await scripts.run(self._redis, "session_stage", self._keys, STAGE_MS, start, *arguments)

    async def swap(self, joiner: Joiner, last: EventId) -> bool:
        arguments = (str(last), joiner.taken, joiner.given)
        reply = await scripts.run(self._redis, "session_compact", self._keys, *arguments)
        return bool(reply[0] == b"OK")

    async def drop(self) -> None:
        await self._redis.delete(self._key)
