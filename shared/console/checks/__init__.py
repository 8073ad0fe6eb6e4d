"""What `holdfast doctor` looks at: one function for each question.

Each is given what there is to ask, and gives what it found. None changes anything but keys of its own, which expire.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from redis.exceptions import NoPermissionError

from shared.console.checks import clock, configuration, keyspace, replication, rights, server, work
from shared.console.checks.findings import Finding, Level, Subject
from shared.redis import UNREACHABLE, RedisError
from shared.topology.faults import code_of

Check = Callable[[Subject], Awaitable[list[Finding]]]

ALL: Mapping[str, Check] = {
    "version": server.check_version,
    "eviction": server.check_eviction,
    "memory": server.check_memory,
    "persistence": server.check_persistence,
    "replicas": replication.check_replicas,
    "topology": replication.check_topology,
    "rights": rights.check_rights,
    "scripts": rights.check_scripts,
    "clock": clock.check_clock,
    "workers": work.check_workers,
    "queue": work.check_queue,
    "sessions": work.check_sessions,
    "expiry": keyspace.check_expiry,
}
REMEDY = "nodes and workers do not need it: ask once more as a user who may (--redis), or grant it"
TIMEOUT_S = 15.0
"""Of one check: somebody is waiting."""


async def examine(subject: Subject) -> list[Finding]:
    """All checks, one after another. What does not answer, or is no Redis, is not asked any further."""
    findings = await configuration.check_settings(subject)
    for first in (server.check_reach, server.check_kind):
        found = await _apart("reach", first, subject)
        findings += found
        if any(finding.level is Level.BAD for finding in found):
            return findings
    for name, check in ALL.items():
        findings += await _apart(name, check, subject)
    return findings


async def _apart(name: str, check: Check, subject: Subject) -> list[Finding]:
    """What one check cannot find out must not keep the others from it."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await check(subject)
    except NoPermissionError as error:
        return [Finding(name, Level.WARN, f"could not be looked at: {error}", REMEDY)]
    except TimeoutError:
        return [
            Finding(name, Level.WARN, f"could not be looked at within {TIMEOUT_S:.0f} s", "look at Redis' own load")
        ]
    except (*UNREACHABLE, RedisError) as error:
        hint = "it passes by itself" if code_of(error) else "look at the log of Redis"
        return [Finding(name, Level.BAD, f"Redis refused: {error}", hint)]
