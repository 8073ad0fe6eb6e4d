"""Keys that would stay for ever."""

from typing import Any

from redis.exceptions import ResponseError

from shared import keys
from shared.console.checks.findings import Finding, Subject, ok, warn
from shared.console.render import count
from shared.console.search import is_no_hash, walk
from shared.events import LIVE

WALK_KEYS = 50_000
"""Of one server: a sample is enough to see a leak."""
NAMED = 2
_PATTERNS = (f"{keys.PREFIX}:{{*", "arq:*")


async def check_expiry(subject: Subject) -> list[Finding]:
    leaks: list[str] = []
    looked = 0
    for client in subject.servers:
        for pattern in _PATTERNS:
            async for batch, _ in walk(client, pattern, WALK_KEYS):
                looked += len(batch)
                leaks += await _leaks(client, list(batch))
    if not leaks:
        return [ok("expiry", f"of {count(looked, 'key')} none stays for ever that should not")]
    named = ", ".join(leaks[:NAMED]) + (", …" if len(leaks) > NAMED else "")
    text = f"{count(len(leaks), 'key')} of sessions that are over, or gone, will never expire: {named}"
    return [warn("expiry", text, "redis-cli PEXPIRE <key> 86400000 for each; who wrote to them but Holdfast?")]


async def _leaks(client: Any, batch: list[bytes]) -> list[str]:
    if not batch:
        return []
    async with client.pipeline(transaction=False) as pipe:
        for key in batch:
            pipe.pttl(key)
        ttls = await pipe.execute()
    staying = [key for key, ttl in zip(batch, ttls, strict=True) if ttl == -1]
    return [key.decode(errors="replace") for key in staying if not await _live(client, key)]


async def _live(client: Any, key: bytes) -> bool:
    """Whether the key is of a session with a live generation, which keeps what it has. What is no hash is of none."""
    text = key.decode(errors="replace")
    if not text.startswith(f"{keys.PREFIX}:{{"):
        return False
    sid = text.partition("{")[2].rpartition("}")[0]
    if key.endswith((b":events", b":session")):
        try:
            return (await client.hget(keys.session(sid), "state") or b"").decode(errors="replace") in LIVE
        except ResponseError as error:
            if not is_no_hash(error):
                raise
    return False
