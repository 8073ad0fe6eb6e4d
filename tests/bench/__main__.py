"""`python -m tests.bench [--quick] [SCENARIO…]`: runs the scenarios, prints their tables and writes them to a file:
results.md if all of them were run in full, else results.part.md.

Without names, all of them; with `--quick`, those that can be run on a small scale, which takes a few minutes.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from shared.telemetry import configure
from tests.bench import (
    busy,
    connections,
    fan_out,
    first_token,
    growth,
    memory,
    overhead,
    redis_cost,
    replay,
    storm,
    takeover,
    worker_batching,
    worker_cost,
    worker_crowd,
    worker_distance,
)
from tests.bench.report import Section, machine
from tests.bench.scale import FULL, QUICK, Scale
from tests.support.redis_server import redis_server

RESULTS = Path(__file__).parent / "results.md"
PART = RESULTS.with_name("results.part.md")
"""Of a run that is not the whole one."""
OF_NODES: dict[str, Callable[[Scale], Awaitable[Section | list[Section]]]] = {
    "fanout": fan_out.fan_out,
    "many": fan_out.many,
    "saturation": fan_out.saturation,
    "servers": fan_out.servers,
    "growth": growth.run,
    "replay": replay.run,
    "storm": storm.run,
    "idle": memory.idle,
    "slow": memory.slow,
    "redis": redis_cost.run,
    "overhead": overhead.run,
}
"""Each starts the servers it measures."""
OF_WORKERS: dict[str, Callable[[str], Awaitable[Section]]] = {
    "first_token": first_token.run,
    "busy": busy.run,
    "connections": connections.run,
    "worker_batching": worker_batching.run,
    "worker_distance": worker_distance.run,
    "worker_cost": worker_cost.run,
    "worker_crowd": worker_crowd.run,
    "takeover": takeover.run,
}
"""Each is given the URL of an empty Redis; there is but one scale."""
SCENARIOS = (*OF_NODES, *OF_WORKERS)


def main(arguments: Sequence[str] | None = None, full: Scale = FULL, quick: Scale = QUICK) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--quick", action="store_true", help="small: to see that everything works")
    parser.add_argument("--results", type=Path, help=f"where to write instead of {RESULTS.name} or {PART.name}")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.scenarios if name not in SCENARIOS]:
        parser.error(f"no scenario {unknown[0]!r}; there are: {', '.join(SCENARIOS)}")
    results = given.results or (PART if given.quick or given.scenarios else RESULTS)
    names = given.scenarios or (OF_NODES if given.quick else SCENARIOS)
    configure("warning", "console")
    parts = [_head(given.quick)]
    print(parts[0], flush=True)
    for name in names:
        for section in asyncio.run(_run(name, quick if given.quick else full)):
            parts.append(section.text())
            print(parts[-1], flush=True)
            results.write_text("\n".join(parts))
    return 0


def _head(quick: bool) -> str:
    with redis_server() as server, server.client() as client:
        lines = machine(client)
    return f"# Benchmarks\n\n{lines}\n" + ("- **quick: small, short, and not to be quoted**\n" if quick else "")


async def _run(name: str, scale: Scale) -> list[Section]:
    if name in OF_NODES:
        found = await OF_NODES[name](scale)
        return found if isinstance(found, list) else [found]
    with redis_server() as server:
        return [await OF_WORKERS[name](server.url)]


if __name__ == "__main__":
    sys.exit(main())
