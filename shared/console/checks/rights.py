"""What the user of HOLDFAST_REDIS_URL may do: everything that nodes and workers do is tried, on keys that expire."""

from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

from shared import keys, scripts
from shared.console.checks.findings import Finding, Subject, bad, ok
from shared.ids import new_token
from shared.redis import RedisError
from shared.topology.cluster import Cluster
from shared.topology.faults import PASSING, code_of

VERBS = (
    "session_create", "session_message", "session_delete", "session_stage", "session_compact", "generation_claim",
    "generation_append", "generation_stop", "generation_reap", "generation_release", "generation_abandon",
    "question_answer",
)  # fmt: skip
TTL_S = 30

Command = tuple[Any, ...]


def _tried(name: str) -> list[Command]:
    """Every command of nodes and workers, on keys of one slot."""
    stream, hashed, word, index, was = (
        f"{keys.PREFIX}:{{{name}}}:{part}" for part in ("log", "hash", "word", "index", "was")
    )
    expire = [("EXPIRE", key, TTL_S) for key in (stream, hashed, index)]
    return [
        ("XADD", stream, "1-1", "type", "doctor"), ("HSET", hashed, "a", "1", "b", "2"),
        ("ZADD", index, 1, "a", 2, "b"),
        *expire, ("PSETEX", word, TTL_S * 1000, "1"), ("SET", word, "1", "PX", TTL_S * 1000), ("INCRBY", word, 1),
        ("PEXPIRE", word, TTL_S * 1000), ("GET", word), ("PTTL", word), ("PERSIST", hashed), ("EXPIRE", hashed, TTL_S),
        ("XRANGE", stream, "-", "+"), ("XREVRANGE", stream, "+", "-"), ("XLEN", stream), ("EXISTS", stream),
        ("RENAME", stream, was), ("HGET", hashed, "a"), ("HMGET", hashed, "a"),
        ("HKEYS", hashed), ("HDEL", hashed, "a"),
        ("ZCARD", index), ("ZRANGE", index, 0, -1), ("ZSCORE", index, "a"), ("ZREM", index, "a"),
        ("ZREVRANGEBYSCORE", index, "+inf", "-inf"), ("ZREMRANGEBYSCORE", index, 9, 9), ("BZPOPMIN", index, 0.1),
        ("EVAL", "return redis.call('TIME')", 1, hashed), ("PUBLISH", f"{keys.PREFIX}:doctor", "1"),
        ("DEL", was, hashed, word, index),
    ]  # fmt: skip


async def check_rights(subject: Subject) -> list[Finding]:
    commands = _tried(f"doctor-{new_token()[:12]}")
    async with subject.redis.pipeline(transaction=False) as pipe:
        for command in commands:
            pipe.execute_command(*command)
        replies = await pipe.execute(raise_on_error=False)
    user = await _user(subject)
    found = _judged(commands, replies, user)
    if not isinstance(subject.redis, Cluster):
        found += await _subscribing(subject)
    return found or [ok("rights", f"user {user or '?'} may do all that nodes and workers do")]


def _judged(commands: Sequence[Command], replies: Sequence[Any], user: str) -> list[Finding]:
    pairs = zip(commands, replies, strict=True)
    failed = [(str(command[0]), reply) for command, reply in pairs if isinstance(reply, Exception)]
    found = []
    if denied := [(name, str(reply)) for name, reply in failed if isinstance(reply, NoPermissionError)]:
        what, grants = _denied(denied)
        remedy = f"redis-cli ACL SETUSER {user or '<user>'} {grants}, and the same in users.acl"
        found.append(bad("rights", f"user {user or '?'} may not {what}", remedy))
    if codes := [code_of(reply) for _, reply in failed if code_of(reply) not in ("", "NOPERM")]:
        text = f"Redis refuses writes ({codes[0]}): {PASSING[codes[0]]}"
        found.append(bad("rights", text, "see memory, persistence and replicas here"))
    return found


def _denied(denied: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """What is lacking, and what grants it. Redis says whether it is the command, the key or the channel."""
    names = sorted({name for name, why in denied if " key" not in why and " channel" not in why})
    lacking, grants = list(names), [f"+{name.lower()}" for name in names]
    if any(" key" in why for _, why in denied):
        lacking.append("touch the keys")
        grants += ["'~holdfast:*'", "'~arq:*'"]
    if any(" channel" in why for _, why in denied):
        lacking.append("use the channels")
        grants.append("'&holdfast:*'")
    return ", ".join(lacking), " ".join(grants)


async def _subscribing(subject: Subject) -> list[Finding]:
    ears = subject.redis.pubsub()
    try:
        await ears.subscribe(f"{keys.PREFIX}:doctor")
        await ears.get_message(timeout=1.0)
    except NoPermissionError:
        return [
            bad(
                "rights", "the user may not SUBSCRIBE to holdfast:*", "redis-cli ACL SETUSER … +subscribe '&holdfast:*'"
            )
        ]
    finally:
        await ears.aclose()
    return []


async def _user(subject: Subject) -> str:
    try:
        said = await subject.servers[0].execute_command("ACL WHOAMI")
    except RedisError:  # whoever may not even ask is named by the URL
        return ""
    return said.decode() if isinstance(said, bytes) else str(said)


async def check_scripts(subject: Subject) -> list[Finding]:
    wrong = []
    for verb in VERBS:
        try:
            digest = await subject.redis.script_load(scripts.source(verb))
        except NoPermissionError:
            return [bad("scripts", "the user may not load them", "redis-cli ACL SETUSER … +script|load +eval +evalsha")]
        except ResponseError as error:
            wrong.append(f"{verb} ({error})")
            continue
        if digest not in (scripts.digest(verb), scripts.digest(verb).encode()):
            wrong.append(f"{verb} (it became another one)")
    if wrong:
        return [
            bad(
                "scripts",
                f"Redis does not take {', '.join(wrong)}",
                "this is no Redis that Holdfast can use: 6.2 or later",
            )
        ]
    return [ok("scripts", f"all {len(VERBS)} can be loaded")]
