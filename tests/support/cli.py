"""The `holdfast` command as a child process, as a person or a program runs it."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from tests.support.system import ROOT

SECONDS = 60
Environment = Mapping[str, str] | None
KEPT = ("PATH", "HOME", "VIRTUAL_ENV", "LANG", "LC_ALL")


@dataclass(frozen=True)
class Said:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """One document per line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def width(self) -> int:
        return max(cell_len(line.rstrip()) for line in self.out.splitlines())


async def start(
    *arguments: str,
    redis_url: str = "",
    columns: int = 100,
    cwd: Path = ROOT,
    environment: Environment = None,
    stdin: int = asyncio.subprocess.DEVNULL,
) -> asyncio.subprocess.Process:
    """The command, under way. It sees no setting but those given here. `stdin`: what it reads from, such as a terminal;
    else it has nobody to ask."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    told = {"HOLDFAST_REDIS_URL": redis_url} if redis_url else {}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shared.cli", *arguments),
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(ROOT), "COLUMNS": str(columns), **told, **(environment or {})},
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process) -> Said:
    async with asyncio.timeout(SECONDS):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Said(process.returncode, out.decode(), err.decode())


async def holdfast(
    *arguments: str, redis_url: str = "", columns: int = 100, cwd: Path = ROOT, environment: Environment = None
) -> Said:
    """Run it to its end."""
    return await ended(await start(*arguments, redis_url=redis_url, columns=columns, cwd=cwd, environment=environment))


async def line_of(process: asyncio.subprocess.Process) -> str:
    """The next line it prints."""
    assert process.stdout is not None
    async with asyncio.timeout(SECONDS):
        return (await process.stdout.readline()).decode()
