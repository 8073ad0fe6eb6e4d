"""Which sessions there are: by the index of live ones, by an owner's list, or by a walk over the keys."""

import re
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

from shared import keys
from shared.console.desk import Desk
from shared.events import LIVE, State
from shared.redis import transient
from shared.topology.cluster import Cluster
from shared.views import DELETED, SessionView

BATCH = 500
"""Sessions looked at in one round trip, and keys passed in one step of a walk."""
WALK_KEYS = 500_000
"""Most keys of one server that are walked over."""
_KEY = re.compile(rb"%b:\{([A-Za-z0-9_-]{1,64})\}:session" % keys.PREFIX.encode())


@dataclass(frozen=True)
class Wanted:
    """What to look for. Ages are ms since the session was made; None: any."""

    states: frozenset[State] = frozenset()
    """Empty: all."""
    owner: str = ""
    older_ms: int | None = None
    younger_ms: int | None = None
    limit: int = 50

    def fits(self, view: SessionView, now_ms: int) -> bool:
        age = now_ms - view.created
        return (
            (not self.states or view.state in self.states)
            and self.owner in ("", view.principal)
            and (self.older_ms is None or age > self.older_ms)
            and (self.younger_ms is None or age < self.younger_ms)
        )


@dataclass
class Found:
    now_ms: int
    """Redis' clock."""
    sessions: list[tuple[str, SessionView]] = field(default_factory=list)
    """Live ones first, then those that changed last; as many as were wanted."""
    fitting: int = 0
    """How many there are."""
    note: str = ""
    """What was not looked at, and why."""
    unreadable: list[str] = field(default_factory=list)
    """Keys that are named like a session's hash, and are none that can be read."""


async def find(desk: Desk, wanted: Wanted) -> Found:
    found = Found(await desk.directory.now_ms())
    try:
        await _collect(desk, wanted, found, _candidates(desk, wanted, found))
    except NoPermissionError:  # the user of nodes and workers may not walk over keys
        found.note = "live sessions only: this user may not SCAN (ACL: +scan); name an --owner for the rest"
        found.sessions.clear()
        found.unreadable.clear()
        await _collect(desk, wanted, found, _live(desk))
    found.sessions.sort(key=lambda item: (not item[1].live, -item[1].since))
    found.fitting = len(found.sessions)
    del found.sessions[wanted.limit :]
    return found


async def _collect(desk: Desk, wanted: Wanted, found: Found, batches: AsyncIterator[list[str]]) -> None:
    seen: set[str] = set()
    async for batch in batches:
        fresh = [sid for sid in dict.fromkeys(batch) if sid not in seen]
        seen.update(fresh)
        views = dict(zip(fresh, await desk.log.views(fresh) if fresh else (), strict=True))
        found.sessions += [(sid, view) for sid, view in views.items() if view and wanted.fits(view, found.now_ms)]
        found.unreadable += await _unreadable(desk, [sid for sid, view in views.items() if view is None])


async def _unreadable(desk: Desk, sids: list[str]) -> list[str]:
    """Of sessions that were not found, the keys that are there nevertheless: no hash, or one with a strange state or
    number."""
    if not sids:
        return []
    async with desk.redis.pipeline(transaction=False) as pipe:
        for sid in sids:
            pipe.hmget(keys.session(sid), "state")
        replies = await pipe.execute(raise_on_error=False)
    return [keys.session(sid) for sid, reply in zip(sids, replies, strict=True) if not _gone(reply)]


def is_no_hash(error: Exception) -> bool:
    """Whether Redis has refused to read a hash because the key is of another type."""
    return isinstance(error, ResponseError) and not transient(error)


def _gone(reply: Any) -> bool:
    """Raises what is no answer about this one key."""
    if isinstance(reply, Exception):
        if not is_no_hash(reply):
            raise reply
        return False
    return reply[0] in (None, b"", DELETED.encode())


def _candidates(desk: Desk, wanted: Wanted, found: Found) -> AsyncIterator[list[str]]:
    if wanted.owner:
        return _owned(desk, wanted.owner)
    if wanted.states and wanted.states <= LIVE:
        return _live(desk)
    return _walked(desk, found)


async def _live(desk: Desk) -> AsyncIterator[list[str]]:
    for batch in _batches(list(await desk.directory.live())):
        yield batch


async def _owned(desk: Desk, owner: str) -> AsyncIterator[list[str]]:
    skip = 0
    while batch := await desk.directory.owned(owner, None, skip, BATCH):
        skip += len(batch)
        yield [sid for sid, _ in batch]


async def _walked(desk: Desk, found: Found) -> AsyncIterator[list[str]]:
    for server in await servers(desk.redis):
        async for batch, whole in walk(server, keys.session("*"), WALK_KEYS):
            yield [sid for key in batch if (sid := session_of(key))]
            if not whole:
                found.note = f"of one server only the first {WALK_KEYS:,} keys were looked at; name --state or --owner"


async def servers(redis: Any) -> Sequence[Any]:
    """A client for each server that has keys."""
    return await redis.masters() if isinstance(redis, Cluster) else [redis]


async def walk(server: Any, pattern: str, most: int) -> AsyncIterator[tuple[Collection[bytes], bool]]:
    """The keys of one server that fit, in batches; False with the one that is the last only because of `most`."""
    cursor, passed = 0, 0
    while True:
        cursor, batch = await server.scan(cursor, match=pattern, count=BATCH)
        passed += BATCH
        over = bool(cursor) and passed >= most
        yield batch, not over
        if not cursor or over:
            return


def session_of(key: bytes) -> str:
    """The session that a session hash is of; nothing for other keys, whose names may be any bytes."""
    fits = _KEY.fullmatch(key)
    return fits[1].decode() if fits else ""


def _batches(sids: list[str]) -> list[list[str]]:
    return [sids[n : n + BATCH] for n in range(0, len(sids), BATCH)]
