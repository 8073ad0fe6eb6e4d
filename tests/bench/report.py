"""Tables and percentiles."""

import math
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import redis


@dataclass
class Section:
    """One scenario's result: a table, and remarks below it."""

    title: str
    head: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def text(self) -> str:
        table = [self.head, ["---"] * len(self.head), *self.rows]
        lines = [f"## {self.title}", "", *("| " + " | ".join(row) + " |" for row in table)]
        return "\n".join([*lines, "", *(f"- {remark}" for remark in self.remarks), ""])


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that is not exceeded by `percent` of all."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def spread(values: Sequence[float]) -> list[str]:
    """Median, p95 and p99, as cells."""
    return [f"{value:.2f}" for value in (statistics.median(values), percentile(values, 95), percentile(values, 99))]


def machine(server: "redis.Redis") -> str:
    server_info: Any = server.info("server")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    libraries = ("holdfast", "redis", "hiredis", "uvicorn", "uvloop", "fastapi", "arq")
    return "\n".join(
        [
            f"- {platform.system()} {platform.machine()}, {os.cpu_count()} cores, load average {load}",
            f"- Python {platform.python_version()}, Redis {server_info['redis_version']}",
            f"- {', '.join(f'{name} {version(name)}' for name in libraries)}",
        ]
    )
