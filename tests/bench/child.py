"""Child processes of the benchmarks: pinned to a core, asked in lines of JSON, and what CPU they took."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import psutil

from tests.support.system import ROOT

NODE_CORE, OTHER_CORE = 0, 1
LINE = 1 << 26


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """What is started in this block runs on that core alone: a node on one, all that drives it on the other."""
    if (os.cpu_count() or 1) < 2:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes, all their threads, and the children they have: the kernel's clocks of
    them, which count in ns."""
    return sum(time.clock_gettime(_clock(pid)) for pid in _with_children(pids))


def _clock(pid: int) -> int:
    return ~pid << 3 | 2  # what clock_getcpuclockid(3) gives for it


def resident(pids: Iterable[int]) -> int:
    """Bytes of memory that are theirs alone."""
    return sum(psutil.Process(pid).memory_full_info().uss for pid in _with_children(pids))


def _with_children(pids: Iterable[int]) -> set[int]:
    found = set(pids)
    for pid in list(found):
        found.update(child.pid for child in psutil.Process(pid).children(recursive=True))
    return found


class Child:
    """A program of the benchmarks. Ends when its stdin does."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, *command: str, core: int = OTHER_CORE, environment: Mapping[str, str] | None = None) -> Self:
        """`command` without a path is a module of ours."""
        whole = command if "/" in command[0] else (sys.executable, "-m", *command)
        with pinned(core):
            process = await asyncio.create_subprocess_exec(
                *whole,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, **(environment or {})},
                cwd=ROOT,
                limit=LINE,
            )
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """One command and its answer. Raises EOFError where the child has ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise EOFError(f"child {self.pid} has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def stop(self) -> None:
        if self._process.returncode is None:
            for pid in _with_children([self.pid]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        await self._process.wait()


def sids_of(prefix: str, count: int) -> Sequence[str]:
    return [f"{prefix}-{n}" for n in range(count)]
