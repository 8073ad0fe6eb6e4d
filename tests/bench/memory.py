"""What readers that do nothing cost: open streams where nothing is said, and clients that do not read."""

import asyncio
from contextlib import AsyncExitStack

import psutil

from tests.bench.child import Child, resident, sids_of
from tests.bench.crowd import open_files
from tests.bench.report import Section
from tests.bench.scale import Scale
from tests.bench.targets import Holdfast

STREAMS = 8000
STREAM_GOAL = 12_000
"""Bytes."""
SLOW, PASSING = 500, 10_000
SLOW_GOAL_MB = 20.0
RCVBUF = 4096
SETTLE_S = 2.0


async def idle(scale: Scale) -> Section:
    streams = scale.of(STREAMS)
    section = Section(
        f"{streams:,} open streams where nothing is said",
        ["sessions", "KB per stream", "node MB", "Redis connections before", "with all", "all open after s"],
    )
    with open_files():
        for sessions in (1, streams):
            await _idle(section, sessions, streams)
    section.remarks.append("Memory that is the node's alone (unique set size); the kernel's for sockets not counted.")
    return section


async def _idle(section: Section, sessions: int, streams: int) -> None:
    sids = sids_of("idle", sessions)
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(Holdfast().running(sids))
        load = await Child.start("tests.bench.load")
        stack.push_async_callback(load.stop)
        address = ["127.0.0.1", target.port]
        await load.ask("open", address=address, requests=[target.path(sids[0])] * 10, until=target.until)
        before, connected = resident(target.pids), _connections(target)
        requests = [target.path(sids[n % sessions]) for n in range(streams)]
        opened = await load.ask("open", address=address, requests=requests, until=target.until, timeout=120)
        await asyncio.sleep(SETTLE_S)
        after, all_connected = resident(target.pids), _connections(target)
    each = (after - before) / streams
    section.rows.append(
        [
            f"{sessions:,}", f"{each / 1000:.1f}", f"{after / 1e6:.0f}", f"{connected}", f"{all_connected}",
            f"{opened['seconds']:.1f}",
        ]
    )  # fmt: skip
    verdict = "PASS" if each <= STREAM_GOAL else "MISS"
    section.remarks.append(f"{verdict}: {each / 1000:.1f} KB per stream, goal ≤ {STREAM_GOAL / 1000:g}")


def _connections(target: Holdfast) -> int:
    """Of the node to Redis."""
    found = psutil.Process(target.pids[0]).net_connections("tcp")
    return sum(bool(each.raddr) and each.raddr.port == target.redis.port for each in found)


async def slow(scale: Scale) -> Section:
    readers, passing = scale.of(SLOW), scale.of(PASSING)
    section = Section(
        f"{readers} readers that never read while {passing:,} events pass",
        ["readers", "node MB before", "after", "grown by MB", "then missing", "doubled", "read it all after s"],
    )
    with open_files():
        for count in (1, readers):
            await _slow(section, count, passing)
    grown = float(section.rows[-1][3])
    verdict = "PASS" if grown <= SLOW_GOAL_MB else "MISS"
    section.remarks.append(f"{verdict}: the node's memory grew by {grown:.1f} MB, goal ≤ {SLOW_GOAL_MB:g}")
    section.remarks.append(
        f"Clients' receive buffers: {RCVBUF:,} bytes. In the end they read, and must get everything."
    )
    return section


async def _slow(section: Section, readers: int, passing: int) -> None:
    sids = sids_of("slow", 1)
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(Holdfast().running(sids))
        load = await Child.start("tests.bench.load")
        stack.push_async_callback(load.stop)
        address, requests = ["127.0.0.1", target.port], [target.path(sids[0])] * readers
        await load.ask("open", address=address, requests=requests, until=target.until, rcvbuf=RCVBUF)
        await load.ask("stall")
        before = resident(target.pids)
        await target.producer.ask("write", count=passing, batch=1)
        await asyncio.sleep(SETTLE_S)
        after = resident(target.pids)
        started = asyncio.get_running_loop().time()
        await load.ask("read")
        ended = await load.ask("reach", counts=[passing] * readers, timeout=60.0)
        took = asyncio.get_running_loop().time() - started
    section.rows.append(
        [
            f"{readers}", f"{before / 1e6:.1f}", f"{after / 1e6:.1f}", f"{(after - before) / 1e6:.1f}",
            f"{ended['missing']}", f"{ended['extra']}", f"{took:.1f}",
        ]
    )  # fmt: skip
