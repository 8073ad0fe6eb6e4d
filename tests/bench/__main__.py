"""`python -m tests.bench [SCENARIO…]`: runs the scenarios, prints their tables and writes results.md."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from shared.telemetry import configure
from tests.bench import (
    busy,
    connections,
    first_token,
    resume,
    takeover,
    worker_batching,
    worker_cost,
    worker_crowd,
    worker_distance,
)
from tests.bench.report import Section, machine
from tests.support.redis_server import redis_server

RESULTS = Path(__file__).parent / "results.md"
SCENARIOS: dict[str, Callable[[str], Awaitable[Section]]] = {
    "first_token": first_token.run,
    "busy": busy.run,
    "resume": resume.run,
    "connections": connections.run,
    "worker_batching": worker_batching.run,
    "worker_distance": worker_distance.run,
    "worker_cost": worker_cost.run,
    "worker_crowd": worker_crowd.run,
    "takeover": takeover.run,
}


def main(names: list[str]) -> int:
    if unknown := [name for name in names if name not in SCENARIOS]:
        print(f"no scenario {unknown[0]!r}; there are: {', '.join(SCENARIOS)}", file=sys.stderr)
        return 2
    configure("warning", "console")
    parts: list[str] = []
    for name in names or SCENARIOS:
        with redis_server() as server:  # each scenario has a Redis of its own
            if not parts:
                with server.client() as client:
                    parts.append(f"# Benchmarks\n\n{machine(client)}\n")
                print(parts[0])
            section = asyncio.run(_run(SCENARIOS[name], server.url))
        parts.append(section.text())
        print(parts[-1], flush=True)
    RESULTS.write_text("\n".join(parts))
    return 0


async def _run(scenario: Callable[[str], Awaitable[Section]], redis_url: str) -> Section:
    return await scenario(redis_url)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
