"""Does a worker keep its provider's pace when Redis is far away?"""

import asyncio
import contextlib
import time
from dataclasses import dataclass

from tests.bench.report import Section
from tests.support import sessions, workers
from tests.support.far import far
from tests.support.paced import Only, Paced
from worker.run import run_generation

CHUNKS = 1000
RATE = 100.0
ROUND_TRIPS_MS = (0, 50, 220)
MOST = 1.05
"""Most time a generation may take, as a multiple of what it takes beside Redis."""


@dataclass(frozen=True)
class Taken:
    provider_s: float
    """From the provider's first chunk until its last one was taken."""
    total_s: float
    """From the claim until the end was in the log."""


async def run(redis_url: str) -> Section:
    head = ["round trip ms", "first to last chunk s", "× near", "claim to end s", "× near", "more, in round trips"]
    section = Section(f"A distant Redis, {CHUNKS:,} chunks at {RATE:g}/s", head)
    near, *others = await asyncio.gather(*(_measure(redis_url, trip) for trip in ROUND_TRIPS_MS))
    for trip, taken in zip(ROUND_TRIPS_MS, (near, *others), strict=True):
        pace, total = taken.provider_s / near.provider_s, taken.total_s / near.total_s
        trips = f"{(taken.total_s - near.total_s) * 1000 / trip:.1f}" if trip else ""
        section.rows.append(
            [f"{trip}", f"{taken.provider_s:.3f}", f"{pace:.3f}", f"{taken.total_s:.3f}", f"{total:.3f}", trips]
        )
        if trip:
            section.remarks.append(f"{_verdict(pace)}: at {trip} ms the provider's pace × {pace:.3f}, goal ≤ {MOST}")
            section.remarks.append(f"{_verdict(total)}: at {trip} ms claim to end × {total:.3f}, goal ≤ {MOST}")
    section.remarks.append(
        "Round trips that nothing hides, however long the answer: claim, transcript, the append under way at the end, "
        "the last append."
    )
    return section


def _verdict(ratio: float) -> str:
    return "PASS" if ratio <= MOST else "MISS"


async def _measure(redis_url: str, round_trip_ms: int) -> Taken:
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(far(redis_url, round_trip_ms / 1000)) if round_trip_ms else redis_url
        context = await stack.enter_async_context(workers.context(url))
        for chunks in (1, CHUNKS):  # the first one opens the connections
            provider = Paced(chunks, RATE)
            context.providers = Only(provider)
            sid = f"far-{round_trip_ms}-{chunks}"
            await sessions.create(context.log, sid)
            started = time.perf_counter()
            await run_generation(context, sid, "g1")
            total_s = time.perf_counter() - started
        return Taken(provider.taken_s, total_s)
