"""What metrics and logs cost a node: as it is run and scraped, side by side with one that has neither."""

import asyncio
import contextlib
import statistics
from contextlib import AsyncExitStack
from dataclasses import replace

import httpx

from tests.bench.child import NODE_CORE, pinned
from tests.bench.delivery import Run, measure
from tests.bench.fan_out import FAN_OUT, MANY
from tests.bench.report import Section
from tests.bench.scale import Scale
from tests.bench.targets import Holdfast
from tests.support.system import Node

GOAL = 1.03
SCRAPE_S = 5.0
ROUNDS = 3
"""Times as many as elsewhere: the difference is smaller than what a window's figure is off by."""
HEAD = ["node", "µs/event", "of a core, %", "events/s", "p50 ms", "p99 ms", "lost or doubled"]


class Watched(Holdfast):
    """With metrics, which are scraped, and logs as they are by default, for a machine to read."""

    name = "metrics and logs"
    environment = {"HOLDFAST_LOG_LEVEL": "info", "HOLDFAST_LOG_FORMAT": "json"}  # noqa: RUF012 - constant

    async def start(self, stack: AsyncExitStack) -> None:
        await super().start(stack)
        scraping = asyncio.create_task(_scrape(self.node.url))
        stack.callback(scraping.cancel)

    async def another(self, stack: AsyncExitStack, port: int) -> Node:
        node = Node(self.redis.url, self.environment, port)
        with pinned(NODE_CORE):
            node.start()
        stack.push_async_callback(node.kill)
        await node.ready()
        return node


class Unwatched(Watched):
    name = "neither"
    environment = {"HOLDFAST_LOG_LEVEL": "error", "HOLDFAST_METRICS": "false"}  # noqa: RUF012 - constant


async def run(scale: Scale) -> list[Section]:
    longer = replace(scale, rounds=ROUNDS * scale.rounds)
    sections = []
    for name, shape in (("fan-out", FAN_OUT), ("many", MANY)):
        scaled = shape.scaled(scale)
        runs, absent = await measure((Watched, Unwatched), scaled, longer)
        assert not absent, absent
        section = Section(f"Metrics and logs, {name}: {scaled}", HEAD, [_row(one) for one in runs.values()])
        section.remarks += _remarks(runs[Watched], runs[Unwatched])
        sections.append(section)
    return sections


def _row(of: Run) -> list[str]:
    return [
        of.target.name, f"{of.median('node_us'):.2f}", f"{of.median('node_share') * 100:.1f}",
        f"{of.median('per_s'):,.0f}", f"{of.p50_ms:.1f}", f"{of.p99_ms:.1f}",
        f"{of.missing + of.extra + of.broken}",
    ]  # fmt: skip


def _remarks(watched: Run, unwatched: Run) -> list[str]:
    ratios = [a.node_us / b.node_us for a, b in zip(watched.windows, unwatched.windows, strict=True)]
    found, quarters = statistics.median(ratios), statistics.quantiles(ratios, n=4)
    return [
        f"{'PASS' if found <= GOAL else 'MISS'}: × {found:.3f} of the node's CPU, goal ≤ × {GOAL:g}",
        f"Median of {len(ratios)} rounds' ratios, half of which lie between {quarters[0]:.3f} and {quarters[2]:.3f}.",
        f"Scraped every {SCRAPE_S:g} s. What is counted is counted without metrics too: it is a few additions.",
    ]


async def _scrape(url: str) -> None:
    async with httpx.AsyncClient() as client:
        while True:
            await asyncio.sleep(SCRAPE_S)
            with contextlib.suppress(httpx.TransportError):  # it is being ended
                await client.get(f"{url}/metrics")
