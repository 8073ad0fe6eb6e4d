"""Tables and percentiles."""

import json
import math
import os
import platform
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import redis

from tests.support.tools import NODE_MODULES

MISSING = "(not here)"


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
    libraries = ("holdfast", "redis", "hiredis", "uvicorn", "uvloop", "httptools", "fastapi", "arq")
    peers = {**npm_versions(), "nginx": nginx_version(), "nchan": nchan_version(), "granian": _version("granian")}
    return "\n".join(
        [
            f"- {processor()}: {os.cpu_count()} cores, load average {load}; {platform.system()} {platform.release()}",
            f"- Python {platform.python_version()}, Redis {server_info['redis_version']}",
            f"- {', '.join(f'{name} {_version(name)}' for name in libraries)}",
            f"- peers: {', '.join(f'{name} {found}' for name, found in peers.items())}",
        ]
    )


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def npm_versions() -> dict[str, str]:
    """Of what is installed for the benchmarks: Node, resumable-stream, and its Redis client."""
    found = {}
    for name, package in {"Node": "node", "resumable-stream": "resumable-stream", "redis (npm)": "redis"}.items():
        file = NODE_MODULES / package / "package.json"
        found[name] = json.loads(file.read_text())["version"] if file.exists() else MISSING
    return found


def nginx_version() -> str:
    said = _said("nginx", "-v") or _said("/usr/sbin/nginx", "-v")
    return said.rpartition("/")[2].split(" ")[0] or MISSING


def nchan_version() -> str:
    return _said("dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan") or MISSING


def _said(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip() if done.returncode == 0 else ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return MISSING
