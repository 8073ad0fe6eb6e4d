"""How many events of the log a provider's chunks become, and what that costs the first of them."""

import asyncio

from shared.events import Event, EventType
from tests.bench.report import Section
from tests.support import sessions, workers
from tests.support.paced import Only, Paced
from worker.run import run_generation

CHUNKS = 1000
RATE = 100.0
GOAL = 0.2
"""Most entries per chunk."""
DEFAULT = "40 (the default)"
FLUSH_MS = {"0": 0.0, "20": 20.0, DEFAULT: None, "80": 80.0}


async def run(redis_url: str) -> Section:
    head = ["HOLDFAST_FLUSH_MS", "chunks", "entries", "entries per chunk", "chunks in the first delta", "its delay ms"]
    section = Section(f"Entries of the log at {RATE:g} chunks/s", head)
    section.rows += await asyncio.gather(*(_measure(redis_url, name) for name in FLUSH_MS))
    _, _, entries, share, alone, _ = next(row for row in section.rows if row[0] == DEFAULT)
    verdict = "PASS" if float(share) <= GOAL and alone == "1" else "MISS"
    section.remarks.append(
        f"{verdict}: {entries} entries for {CHUNKS:,} chunks, goal ≤ {CHUNKS * GOAL:.0f}, and the first delta by itself"
    )
    section.remarks.append("Entries: all of the generation, from generation.started to its end. Delay: in whole ms.")
    return section


async def _measure(redis_url: str, name: str) -> list[str]:
    given = FLUSH_MS[name]
    provider = Paced(CHUNKS, RATE)
    async with workers.context(redis_url, **({} if given is None else {"flush_ms": given})) as context:
        context.providers = Only(provider)
        sid = f"batching-{name.split(' ')[0]}"
        await sessions.create(context.log, sid)
        await run_generation(context, sid, "g1")
        events = [event for event in await context.log.events(sid) if event.type != EventType.MESSAGE]
    first = next(event for event in events if event.type == EventType.TEXT)
    delay = max(0.0, first.at - provider.first_at_ms)
    row = [name, f"{CHUNKS}", f"{len(events)}", f"{len(events) / CHUNKS:.3f}"]
    return [*row, f"{_words(first)}", f"{delay:.0f}"]


def _words(event: Event) -> int:
    return len(event.value["text"].split())
