"""What Redis takes for the commands of an append alone: how near an append is to what this machine can do."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from shared import keys, scripts
from shared.events import Event, EventType, encode
from shared.ids import EventId
from tests.bench.child import OTHER_CORE, cpu_seconds, pinned
from tests.bench.report import Section
from tests.bench.scale import Scale
from tests.support.redis_server import redis_server

SESSIONS, APPENDS, TRIP = 192, 40, 64
"""Sessions, appends to each of them in a round, and appends of one round trip."""
EPOCH, LIFE_MS = 1_795_458_921_634, 600_000
COMMANDS = """
local hash = redis.call('HMGET', KEYS[2], 'state', 'token', 'epoch', 'last', 'stop')
local id, time = ARGV[2] .. '-' .. ARGV[3], redis.call('TIME')
redis.call('XADD', KEYS[1], id, 'type', ARGV[6], 'data', ARGV[7], 'at', time[1])
redis.call('PUBLISH', KEYS[3], 'event: ' .. ARGV[6] .. '\\ndata: ' .. ARGV[7] .. '\\nid: ' .. id .. '\\n\\n')
redis.call('HSET', KEYS[2], 'last', id)
return { 'OK', 1, '', '' }
"""
Command = tuple[Any, ...]
Way = Callable[[str, int], Sequence[Command]]
"""The commands that append one delta: of which session, at which seq."""


def _script(client: Any, text: str) -> Way:
    digest = client.script_load(text)

    def way(sid: str, seq: int) -> Sequence[Command]:
        delta = (EventType.TEXT.value, _data(seq))
        return [("EVALSHA", digest, 3, *keys.session_keys(sid), f"token-{sid}", EPOCH, seq, LIFE_MS, LIFE_MS, *delta)]

    return way


def _plain(sid: str, seq: int) -> Sequence[Command]:
    events, session, live = keys.session_keys(sid)
    event = Event(EventId(EPOCH, seq), EventType.TEXT.value, _data(seq))
    return [
        ("HMGET", session, "state", "token", "epoch", "last", "stop"),
        ("TIME",),
        ("XADD", events, str(event.id), "type", event.type, "data", event.data, "at", EPOCH),
        ("PUBLISH", live, event.frame),
        ("HSET", session, "last", str(event.id)),
    ]


def _data(seq: int) -> bytes:
    return encode({"text": f"@{seq}:{EPOCH} and so on"})


def floor(scale: Scale) -> Section:
    section = Section("The same commands alone, 64 appends a round trip", ["what is run", "Redis CPU µs", "least"])
    with pinned(OTHER_CORE), redis_server() as server, server.client() as client:
        ways = {
            "an append": _script(client, scripts.source("generation_append")),
            "its commands in a script, nothing checked": _script(client, COMMANDS),
            "its commands, each on its own": _plain,
            "a script that does nothing": _script(client, "return 1"),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(scale.rounds):
            for name, way in ways.items():
                found[name].append(_measure(server.pid, client, way))
    for name, costs in found.items():
        section.rows.append([name, f"{statistics.median(costs):.1f}", f"{min(costs):.1f}"])
    section.remarks.append(f"{scale.rounds} rounds, in turn. Nobody listens; Redis never waits: its caches are warm.")
    return section


def _measure(pid: int, client: Any, way: Way) -> float:
    """µs of Redis' CPU for one append."""
    sids = [f"floor-{n}" for n in range(SESSIONS)]
    client.flushall()
    for sid in sids:
        held = {"epoch": EPOCH, "token": f"token-{sid}", "last": f"{EPOCH}-1", "state": "running", "stop": ""}
        client.hset(keys.session(sid), mapping=held)
    before = cpu_seconds([pid])
    for commands in _trips(sids, way):
        pipe = client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        pipe.execute()
    cost = cpu_seconds([pid]) - before
    assert {client.xlen(keys.events(sid)) for sid in sids} in ({APPENDS}, {0}), "not all was appended"
    return cost / (SESSIONS * APPENDS) * 1e6


def _trips(sids: Sequence[str], way: Way) -> Iterator[list[Command]]:
    for seq in range(2, APPENDS + 2):
        for first in range(0, len(sids), TRIP):
            yield [command for sid in sids[first : first + TRIP] for command in way(sid, seq)]
