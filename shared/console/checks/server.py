"""The servers themselves: whether they answer, what they are, and whether they keep what they are given."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from redis.exceptions import AuthenticationError, RedisError, ResponseError

from shared.console.checks.findings import Finding, Subject, bad, infos, ok, warn
from shared.console.desk import address
from shared.console.render import size, span
from shared.redis import UNREACHABLE

OLDEST = (6, 2)
FULL, FILLING = 0.9, 0.75
"""Of maxmemory."""
SLOW_MS = 50.0
PINGS = 5


async def check_reach(subject: Subject) -> list[Finding]:
    where = address(subject.url)
    try:
        took = [await _ping_ms(subject.redis) for _ in range(PINGS)]
    except AuthenticationError:
        return [bad("reach", f"{where} refuses the credentials", "put user and password into HOLDFAST_REDIS_URL")]
    except (*UNREACHABLE, RedisError) as error:
        remedy = "is it running, is HOLDFAST_REDIS_URL right, does a firewall let this machine through?"
        return [bad("reach", f"{where} does not answer: {error}", remedy)]
    quickest = min(took)
    if quickest > SLOW_MS:
        remedy = "put nodes and workers near Redis; look for slow commands: redis-cli SLOWLOG GET"
        return [warn("reach", f"{where} takes {span(quickest)} to answer", remedy)]
    return [ok("reach", f"{where} answers within {quickest:.1f} ms")]


async def _ping_ms(redis: Any) -> float:
    started = time.perf_counter()
    await redis.ping()
    return (time.perf_counter() - started) * 1000


async def check_kind(subject: Subject) -> list[Finding]:
    """Only of what is no Redis at all: nothing else can be said of it then."""
    try:
        await infos(subject, "server")
    except ResponseError as error:
        if "unknown command" not in str(error):
            raise
        text = "this is no real Redis: fakeredis, which `holdfast dev` starts where there is none"
        return [bad("version", text, "install redis-server, and set HOLDFAST_REDIS_URL; for a first look it is enough")]
    return []


async def check_version(subject: Subject) -> list[Finding]:
    return [_version(where, info) for where, info in await infos(subject, "server")]


def _version(where: str, info: Mapping[str, Any]) -> Finding:
    version = str(info.get("redis_version", ""))
    if _numbers(version) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return bad("version", f"{where}Redis {version} is too old", f"upgrade to {oldest} or later; 7 is best")
    return ok("version", f"{where}Redis {version}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


async def check_eviction(subject: Subject) -> list[Finding]:
    return [_eviction(where, info) for where, info in await infos(subject, "server", "memory")]


def _eviction(where: str, info: Mapping[str, Any]) -> Finding:
    policy, limit = str(info.get("maxmemory_policy", "noeviction")), int(info.get("maxmemory", 0))
    remedy = "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"
    if policy == "noeviction":
        return ok("eviction", f"{where}none: a full memory refuses, it does not forget")
    if limit:
        text = f"{where}maxmemory-policy is {policy}: Redis deletes logs and leases when its memory is full"
        return bad("eviction", text, remedy)
    return warn("eviction", f"{where}maxmemory-policy is {policy}, which deletes as soon as maxmemory is set", remedy)


async def check_memory(subject: Subject) -> list[Finding]:
    return [_memory(where, info) for where, info in await infos(subject, "server", "memory")]


def _memory(where: str, info: Mapping[str, Any]) -> Finding:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    total = int(info.get("total_system_memory", 0))
    if not limit:
        text = f"{where}{size(used)} used, and no limit: the machine's memory ({size(total)}) is the limit"
        remedy = "set maxmemory to about two thirds of what the machine has: a full Redis refuses, a killed one is gone"
        return warn("memory", text, remedy)
    text = f"{where}{size(used)} of {size(limit)} used, {used / limit:.0%}"
    remedy = "raise maxmemory, or lower HOLDFAST_RETENTION_S; `holdfast show SID` says how large a session is"
    if used >= limit * FULL:
        return bad("memory", f"{text}: writes are refused when it is full", remedy)
    if used >= limit * FILLING:
        return warn("memory", text, remedy)
    return ok("memory", text)


async def check_persistence(subject: Subject) -> list[Finding]:
    said = await infos(subject, "server", "persistence")
    saves = await asyncio.gather(*(_saves(client) for client in subject.servers))
    return [_persistence(where, info, save) for (where, info), save in zip(said, saves, strict=True)]


async def _saves(client: Any) -> str | None:
    """When it takes snapshots; None where the user may not ask."""
    try:
        said = await client.config_get("save")
    except RedisError:  # what it refuses to say is not known, and the finding says so
        return None
    return str(said.get("save", ""))


def _persistence(where: str, info: Mapping[str, Any], saves: str | None) -> Finding:
    remedy = "redis-cli CONFIG SET appendonly yes, and the same in redis.conf"
    if int(info.get("aof_enabled", 0)):
        if info.get("aof_last_write_status", "ok") != "ok":
            return bad(
                "persistence", f"{where}the append-only file cannot be written", "look at the disk: space, rights"
            )
        return ok("persistence", f"{where}an append-only file: a restart forgets a second at most")
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        text = f"{where}the last snapshot failed: Redis may refuse all writes (MISCONF)"
        return bad("persistence", text, f"look at the disk; then {remedy}")
    if saves == "":
        return bad("persistence", f"{where}none at all: a restart forgets every session", remedy)
    what = "snapshots only" if saves else "no append-only file"
    return warn("persistence", f"{where}{what}: a restart forgets what came after the last snapshot", remedy)
