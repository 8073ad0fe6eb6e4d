"""One worker that holds many generations at once: does any of them fall behind its provider?"""

import asyncio
import statistics
import time
from dataclasses import dataclass

import psutil
from pydantic_core import from_json

from shared import jobs
from shared.events import Event, EventType
from shared.ids import new_token
from shared.log import Log, Retention
from tests.bench.crowd import open_files
from tests.bench.model_server import model_server, plan
from tests.bench.report import Section, percentile
from tests.support.redis_client import connected
from tests.support.sessions import FIELDS
from tests.support.system import system

GENERATIONS = 300
RATE = 20.0
"""Chunks per second of each generation."""
SECONDS = 10.0
GOAL_S = 1.0
KEYS = {"OPENAI_API_KEY": "key", "NO_PROXY": "127.0.0.1"}


@dataclass(frozen=True)
class Outcome:
    lag_s: float
    """How long after its schedule's end the terminal was in the log. Both clocks are this machine's."""
    entries: int
    """Of the whole generation."""


async def run(redis_url: str) -> Section:
    chunks = int(SECONDS * RATE)
    with open_files():
        async with connected(redis_url) as client, model_server() as url:
            log = Log(client, Retention(log_ms=600_000, tombstone_ms=600_000))
            environment = {**KEYS, "OPENAI_BASE_URL": url, "HOLDFAST_WORKER_JOBS": str(GENERATIONS)}
            async with system(redis_url, nodes=0, environment=environment) as running:
                sids = await _ask(log, redis_url, plan(chunks, RATE))
                busy = await _busy(psutil.Process(running.workers[0].pid))
                outcomes = [await _outcome(log, sid, chunks) for sid in sids]
    return _section(outcomes, busy, chunks)


async def _ask(log: Log, redis_url: str, text: str) -> list[str]:
    """Sessions in the worker's queue, all at once."""
    queue = jobs.JobQueue(jobs.open_queue(redis_url, 5.0))
    sids = [f"crowd-{n}" for n in range(GENERATIONS)]
    message = {"role": "user", "content": text}
    for sid in sids:
        opened = await log.create(sid, new_token(), "body", [message], {**FIELDS, "model": "openai/m"})
        await queue.enqueue(sid, opened.generation, opened.last.epoch)
    await queue.aclose()
    return sids


async def _busy(worker: psutil.Process) -> float:
    """Its share of one core while all generations run."""
    await asyncio.sleep(SECONDS * 0.3)
    started, before = time.perf_counter(), _cpu(worker)
    await asyncio.sleep(SECONDS * 0.5)
    return (_cpu(worker) - before) / (time.perf_counter() - started)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def _outcome(log: Log, sid: str, chunks: int) -> Outcome:
    async with asyncio.timeout(60):
        while not (events := await log.events(sid))[-1].terminal:
            await asyncio.sleep(0.1)
    assert events[-1].type == EventType.COMPLETED, events[-1]
    return Outcome(events[-1].at / 1000 - _began(events) - (chunks - 2) / RATE, len(events) - 1)


def _began(events: list[Event]) -> float:
    """The answer's first word, in s: its schedule began then, or up to one chunk earlier, which counts as lag."""
    text = "".join(from_json(event.data)["text"] for event in events if event.type == EventType.TEXT)
    return int(text.split(" ", 1)[0]) / 1000


def _section(outcomes: list[Outcome], busy: float, chunks: int) -> Section:
    lags = [outcome.lag_s for outcome in outcomes]
    entries = sum(outcome.entries for outcome in outcomes)
    section = Section(
        f"One worker, {GENERATIONS} generations at {RATE:g} chunks/s each",
        ["chunks/s", "worker, % of a core", "µs per chunk", "lag: median s", "p99 s", "worst s", "chunks per entry"],
    )
    total = GENERATIONS * RATE
    section.rows.append(
        [
            f"{total:,.0f}", f"{busy * 100:.0f}", f"{busy * 1e6 / total:.0f}", f"{statistics.median(lags):.2f}",
            f"{percentile(lags, 99):.2f}", f"{max(lags):.2f}", f"{GENERATIONS * chunks / entries:.1f}",
        ]
    )  # fmt: skip
    verdict = "PASS" if max(lags) <= GOAL_S else "MISS"
    section.remarks.append(f"{verdict}: worst lag {max(lags):.2f} s, goal ≤ {GOAL_S:g} s")
    section.remarks.append(
        "lag: from the end of the provider's schedule to the terminal in the log; OpenAI's chat format"
    )
    return section
