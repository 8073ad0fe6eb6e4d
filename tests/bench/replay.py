"""What it costs to come back: a replay of 10,000 deltas, against the bare reads of the same log."""

import asyncio
import socket
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import redis

from api.kept import KEPT_S
from shared import keys
from shared.log import Log, Retention
from shared.loop import settle_memory
from tests.bench.child import OTHER_CORE, Child, pinned
from tests.bench.report import Section, spread
from tests.bench.scale import Scale
from tests.bench.targets import Holdfast
from tests.support.redis_client import connected
from tests.support.sse import events_path

SID = "bench-0"
DELTAS = 10_000
PAGE = 1000
"""Entries of one XRANGE: as many as a node's page has."""
ROUNDS = 3
"""For each window that other scenarios have."""
GOAL = 2.5
CROWD, READS_GOAL = 200, 3
MERGED = "replay, merged"
BARE = f"redis-py and hiredis: XRANGEs of {PAGE:,}"


@dataclass(frozen=True)
class Taken:
    wall_ms: float
    cpu_ms: float
    """Of the one who reads: the node, or this process where there is none."""
    size: int


async def run(scale: Scale) -> list[Section]:
    deltas = scale.of(DELTAS)
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(Holdfast().running([SID]))
        await target.producer.ask("write", count=deltas, batch=100)
        await target.producer.ask("end")
        taken = _alone(target, deltas, scale)
        crowd = await _crowd(stack, target, deltas, scale.of(CROWD))
        await _compact(target)
        replays = _replays(target, deltas)
        joined = _alternate({f"{name}, stored joined": way for name, way in replays.items()}, ROUNDS * scale.rounds)
    return [_section(f"Replay of {deltas:,} deltas from the start", {**taken, **joined}), crowd]


def _alone(target: Holdfast, deltas: int, scale: Scale) -> dict[str, list[Taken]]:
    with target.redis.client() as client, pinned(OTHER_CORE):
        settle_memory()  # the bare reads are not to pay for what else is in this process
        bare: dict[str, Callable[[], Taken]] = {BARE: lambda: _bare(client, deltas)}
        return _alternate({**bare, **_replays(target, deltas)}, ROUNDS * scale.rounds)


def _replays(target: Holdfast, deltas: int) -> dict[str, Callable[[], Taken]]:
    return {
        MERGED: lambda: _replay(target, deltas, merge=1),
        "replay, every delta": lambda: _replay(target, deltas, merge=0),
    }


def _alternate(ways: Mapping[str, Callable[[], Taken]], rounds: int) -> dict[str, list[Taken]]:
    taken: dict[str, list[Taken]] = {name: [] for name in ways}
    for n in range(-1, rounds):
        for name, way in ways.items():
            time.sleep(KEPT_S * 1.1)  # until the node has forgotten the pages of the last replay
            one = way()
            if n >= 0:  # the round before the first warms up
                taken[name].append(one)
    return taken


def _bare(client: "redis.Redis", deltas: int) -> Taken:
    wall, cpu = time.perf_counter(), time.process_time()
    start, entries, size = "-", 0, 0
    while True:
        found: Any = client.xrange(keys.events(SID), min=start, count=PAGE)
        entries += len(found)
        size += sum(len(fields[b"data"]) for _, fields in found)
        if len(found) < PAGE:
            break
        start = f"({found[-1][0].decode()}"
    assert entries == deltas + 3, entries
    return Taken((time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000, size)


def _replay(target: Holdfast, deltas: int, merge: int) -> Taken:
    wall, cpu = time.perf_counter(), target.cpu()
    buffer, parts = bytearray(1 << 20), list[bytes]()
    with socket.create_connection(("127.0.0.1", target.port)) as sock:
        sock.sendall(f"GET {events_path(SID, merge=merge)} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        while not (parts and parts[-1].endswith(b"0\r\n\r\n")):
            size = sock.recv_into(buffer)
            assert size, "cut off"
            parts.append(bytes(buffer[:size]))
    taken = Taken((time.perf_counter() - wall) * 1000, (target.cpu() - cpu) * 1000, sum(map(len, parts)))
    found = b"".join(parts).count(b"@")
    assert found == deltas, (found, deltas, parts[-1][-200:])
    return taken


def _section(title: str, taken: Mapping[str, list[Taken]]) -> Section:
    section = Section(title, ["way", "median ms", "p95 ms", "p99 ms", "of bare", "CPU ms", "CPU of bare", "bytes"])
    section.rows += _rows(taken, taken[BARE])
    ratio = _ratio(taken[MERGED], taken[BARE], "wall_ms")
    section.remarks.append(f"{'PASS' if ratio <= GOAL else 'MISS'}: {ratio:.2f} × the bare XRANGEs, goal ≤ {GOAL:g}")
    section.remarks.append(
        f"{len(taken[BARE])} rounds, the ways in turn within each; ratios are medians of the rounds'. CPU: of the "
        "node, or of the process that reads. Bytes: of the stream, or of the data read."
    )
    return section


def _rows(taken: Mapping[str, list[Taken]], bare: list[Taken]) -> list[list[str]]:
    return [
        [
            name, *spread([each.wall_ms for each in own]), f"{_ratio(own, bare, 'wall_ms'):.2f}",
            f"{statistics.median(each.cpu_ms for each in own):.1f}", f"{_ratio(own, bare, 'cpu_ms'):.2f}",
            f"{own[-1].size:,}",
        ]
        for name, own in taken.items()
    ]  # fmt: skip


def _ratio(own: list[Taken], bare: list[Taken], name: str) -> float:
    ratios: list[float] = [getattr(a, name) / getattr(b, name) for a, b in zip(own, bare, strict=True)]
    return statistics.median(ratios)


async def _compact(target: Holdfast) -> None:
    """As a worker does it some seconds after the end."""
    async with connected(target.redis.url, connections=2, timeout_s=10) as client:
        assert await Log(client, Retention(log_ms=600_000, tombstone_ms=600_000)).compact(SID)


async def _crowd(stack: AsyncExitStack, target: Holdfast, deltas: int, readers: int) -> Section:
    load = await Child.start("tests.bench.load")
    stack.push_async_callback(load.stop)
    section = Section(
        f"{readers} readers replay {deltas:,} deltas at once",
        ["readers", "XRANGEs", "reads of the log", "all done after s", "node CPU s", "missing", "doubled"],
    )
    alone = 0
    for count in (1, readers):
        await asyncio.sleep(KEPT_S * 1.1)
        target.redis.ask("CONFIG", "RESETSTAT")
        before = target.cpu()
        asked = {"address": ["127.0.0.1", target.port], "requests": [events_path(SID)] * count, "at_once": count}
        opened = await load.ask("open", **asked, until="event: generation.completed")
        ended = await load.ask("reach", counts=[deltas] * count, timeout=30.0)
        calls = _xranges(target)
        alone = alone or calls
        section.rows.append(
            [
                f"{count}", f"{calls}", f"{calls / alone:.2f}", f"{opened['seconds']:.2f}",
                f"{target.cpu() - before:.2f}", f"{ended['missing']}", f"{ended['extra']}",
            ]
        )  # fmt: skip
        await load.ask("close")
    verdict = "PASS" if calls <= READS_GOAL * alone else "MISS"
    section.remarks.append(f"{verdict}: {calls / alone:.2f} reads of the log in all, goal ≤ {READS_GOAL}")
    return section


def _xranges(target: Holdfast) -> int:
    with target.redis.client() as client:
        stats: Any = client.info("commandstats")
    return int(stats["cmdstat_xrange"]["calls"])
