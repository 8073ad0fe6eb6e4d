"""Somebody who has just cloned the project: a folder with its Makefile, `make run` in it, and a shell."""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from pathlib import Path

from shared.embedded import URL_FILE
from tests.support.ports import free_port
from tests.support.system import ROOT

SECONDS = 60
KEPT = ("PATH", "HOME", "LANG", "LC_ALL")
ADDRESSES = ("localhost:8000", "127.0.0.1:8000")
"""As the README has them."""


class Newcomer:
    """`folder` is where commands run, `url` where their node answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            (folder / name).symlink_to(ROOT / name)
        (folder / ".venv").symlink_to(sys.prefix)
        (folder / "installed").touch()

    @property
    def redis_url(self) -> str:
        """Of the Redis that `make run` started."""
        return (self.folder / ".holdfast" / URL_FILE).read_text()

    def here(self, script: str) -> str:
        """The same, at this one's address."""
        for address in ADDRESSES:
            script = script.replace(address, f"127.0.0.1:{self.port}")
        return script

    async def begin(self, script: str) -> Process:
        """Begin it in a shell, in a group of its own."""
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        told = {
            "MAKEFLAGS": f"STAMP={self.folder / 'installed'}",
            "COLUMNS": "100",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(ROOT),
        }
        return await asyncio.create_subprocess_exec(
            *("sh", "-ec", self.here(script)),
            cwd=self.folder,
            env={**kept, **told},
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
        )

    async def say(self, script: str) -> str:
        """Run it to its end, which must be a good one; gives what it printed."""
        process = await self.begin(script)
        async with asyncio.timeout(SECONDS):
            out, _ = await process.communicate()
        assert process.returncode == 0, (script, out.decode())
        return out.decode()

    @contextlib.asynccontextmanager
    async def under_way(self, script: str, until: str) -> AsyncIterator[list[str]]:
        """Run it; gives the lines it printed up to the one that has `until`. Ctrl-C at the end."""
        process = await self.begin(script)
        try:
            async with asyncio.timeout(SECONDS):
                yield await lines(process, until)
        finally:
            await interrupt(process)


async def lines(process: Process, until: str) -> list[str]:
    """What it prints from now up to the line that has `until`."""
    assert process.stdout is not None
    printed: list[str] = []
    while not printed or until not in printed[-1]:
        line = await process.stdout.readline()
        assert line, (until, printed)
        printed.append(line.decode().rstrip("\n"))
    return printed


async def interrupt(process: Process) -> None:
    """Ctrl-C, for all that was started; waits for the end."""
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGINT)
    async with asyncio.timeout(SECONDS):
        await process.communicate()
