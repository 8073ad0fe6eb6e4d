"""What a chunk costs a worker, from the provider's SDK to the log, against a bare loop over the same SDK's stream."""

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any
from unittest.mock import patch

import anthropic
import openai

from shared.loop import loop_factory, settle_memory
from tests.bench.model_server import model_server, plan
from tests.bench.report import Section
from tests.support import sessions, workers
from worker.context import WorkerContext
from worker.run import run_generation

GOAL = 1.25
FAST_CHUNKS, FAST_ROUNDS = 1000, 9
RATE, STREAMS, ROUNDS = 100.0, 10, 6
SETTLE_S, WINDOW_S = 0.4, 1.2
KEYS = {"OPENAI_API_KEY": "key", "ANTHROPIC_API_KEY": "key", "NO_PROXY": "127.0.0.1"}
BARE, DICTS, WHOLE = "the SDK's stream, bare", "the same, its chunks left as dicts", "a generation: SDK to log"
Way = Callable[[str], Awaitable[None]]
"""Takes one answer, as the given plan says it, to its end."""


@dataclass(frozen=True)
class Sdk:
    name: str
    bare: Callable[..., Awaitable[AsyncIterator[object]]]
    dicts: Callable[..., Awaitable[AsyncIterator[object]]]


async def run(redis_url: str) -> Section:
    section = Section("What a chunk costs a worker", ["SDK", "chunks/s", "way", "CPU ms per 1,000 chunks", "of bare"])
    async with model_server() as url:
        where = {**KEYS, "OPENAI_BASE_URL": url, "ANTHROPIC_BASE_URL": url}
        with patch.dict(os.environ, where):  # the worker's own event loop, in a thread: the CPU is that of the process
            await asyncio.to_thread(_in_own_loop, section, redis_url)
    section.remarks.append(
        f"medians of {FAST_ROUNDS} and {ROUNDS} rounds, the ways in turn within each; at {RATE:g} chunks/s there are "
        f"{STREAMS} streams, out of step, and the CPU is that of {WINDOW_S:g} s while all of them run"
    )
    return section


def _in_own_loop(section: Section, redis_url: str) -> None:
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_measure(section, redis_url))


async def _measure(section: Section, redis_url: str) -> None:
    async with workers.context(redis_url, linger_s=60.0) as context:
        settle_memory()
        for sdk in (_openai(), _anthropic()):
            bare, dicts = _listening(sdk.bare), _listening(sdk.dicts)
            whole = _generations(context, sdk.name)
            fast = await _alternate({BARE: bare, DICTS: dicts, WHOLE: whole}, FAST_ROUNDS, _fast)
            _report(section, sdk.name, "as many as come", fast)
            paced = await _alternate({BARE: bare, WHOLE: whole}, ROUNDS, _paced)
            _report(section, sdk.name, f"{RATE:g} × {STREAMS}", paced)


async def _alternate(
    ways: Mapping[str, Way], rounds: int, measure: Callable[[Way], Coroutine[Any, Any, float]]
) -> dict[str, list[float]]:
    """CPU seconds per chunk, by way and round."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            taken[name].append(await measure(way))
    return taken


async def _fast(way: Way) -> float:
    text = plan(FAST_CHUNKS, 0)
    started = time.process_time()
    await way(text)
    return (time.process_time() - started) / FAST_CHUNKS


async def _paced(way: Way) -> float:
    text = plan(int((SETTLE_S + WINDOW_S + 0.1) * RATE), RATE)
    streams = asyncio.gather(*(way(text) for _ in range(STREAMS)))
    await asyncio.sleep(SETTLE_S)
    started = time.process_time()
    await asyncio.sleep(WINDOW_S)
    taken = time.process_time() - started
    await streams
    return taken / (RATE * STREAMS * WINDOW_S)


def _report(section: Section, sdk: str, rate: str, taken: Mapping[str, Sequence[float]]) -> None:
    bare = statistics.median(taken[BARE])
    for name, costs in taken.items():
        cost = statistics.median(costs)
        section.rows.append([sdk, rate, name, f"{cost * 1e6:.0f}", f"{cost / bare:.2f}"])
    ratio = statistics.median(taken[WHOLE]) / bare
    verdict = "PASS" if ratio <= GOAL else "MISS"
    section.remarks.append(f"{verdict}: {sdk}, {rate}: × {ratio:.2f}, goal ≤ {GOAL}")


def _listening(open_: Callable[[str], Awaitable[AsyncIterator[object]]]) -> Way:
    async def listen(text: str) -> None:
        async for _ in await open_(text):
            pass

    return listen


def _generations(context: WorkerContext, prefix: str) -> Way:
    numbers = count()

    async def generate(text: str) -> None:
        sid = f"cost-{prefix}-{next(numbers)}"
        message = {"role": "user", "content": text}
        await context.log.create(sid, sid, "body", [message], {**sessions.FIELDS, "model": f"{prefix}/m"})
        await run_generation(context, sid, "g1")

    return generate


def _openai() -> Sdk:
    create: Any = openai.AsyncOpenAI().chat.completions
    usage = {"include_usage": True}

    async def bare(text: str) -> AsyncIterator[object]:
        stream: AsyncIterator[object] = await create.create(**_body(text), stream_options=usage)
        return stream

    async def dicts(text: str) -> AsyncIterator[object]:
        response = await create.with_raw_response.create(**_body(text), stream_options=usage)
        stream: AsyncIterator[object] = response.parse(to=openai.AsyncStream[object])
        return stream

    return Sdk("openai", bare, dicts)


def _anthropic() -> Sdk:
    create: Any = anthropic.AsyncAnthropic().messages

    async def bare(text: str) -> AsyncIterator[object]:
        stream: AsyncIterator[object] = await create.create(**_body(text), max_tokens=8192)
        return stream

    async def dicts(text: str) -> AsyncIterator[object]:
        response = await create.with_raw_response.create(**_body(text), max_tokens=8192)
        stream: AsyncIterator[object] = await response.parse(to=anthropic.AsyncStream[object])
        return stream

    return Sdk("anthropic", bare, dicts)


def _body(text: str) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], "stream": True}
