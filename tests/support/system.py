"""Holdfast as it runs: API nodes and workers as child processes on loopback."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import redis

from shared import keys
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
READY_S = 30


class Process:
    """One child process of ours."""

    def __init__(self, module: str, environment: dict[str, str]) -> None:
        self._module = module
        self._environment = environment
        self._child: subprocess.Popen[bytes] | None = None
        self.output: Path | None = None
        """A file for what it prints. None: it goes where ours goes."""

    def start(self) -> None:
        command, environment = [sys.executable, "-m", self._module], {**os.environ, **self._environment}
        with contextlib.nullcontext() if self.output is None else self.output.open("ab") as out:
            self._child = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=out, stderr=out)

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def signal(self, signum: signal.Signals) -> None:
        assert self._child is not None
        self._child.send_signal(signum)

    async def ended(self, within_s: float = 20) -> int:
        """Wait for the end; gives the exit status."""
        assert self._child is not None
        return await asyncio.to_thread(self._child.wait, within_s)

    async def kill(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            await self.ended()


class Node(Process):
    def __init__(self, redis_url: str, environment: dict[str, str], port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__("api", {"HOLDFAST_REDIS_URL": redis_url, "HOLDFAST_PORT": str(self.port), **environment})

    async def ready(self) -> None:
        async with asyncio.timeout(READY_S), httpx.AsyncClient() as client:
            while self.running:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(f"{self.url}/readyz")).status_code == 200:
                        return
                await asyncio.sleep(0.02)
        raise AssertionError("the node ended at once")


class System:
    """Nodes and workers over one Redis. Each is started once `started` is left."""

    def __init__(self, redis_url: str, nodes: int, workers: int, environment: dict[str, str]) -> None:
        self.redis_url = redis_url
        self.environment = {"HOLDFAST_LOG_LEVEL": "warning", "HOLDFAST_DRAIN_S": "1", **environment}
        self.nodes = [Node(redis_url, self.environment) for _ in range(nodes)]
        self.workers = [self._worker() for _ in range(workers)]

    def _worker(self, environment: dict[str, str] | None = None) -> Process:
        return Process("worker", {"HOLDFAST_REDIS_URL": self.redis_url, **self.environment, **(environment or {})})

    @property
    def url(self) -> str:
        return self.nodes[0].url

    async def start(self) -> None:
        for process in (*self.nodes, *self.workers):
            process.start()
        for node in self.nodes:
            await node.ready()
        await self.workers_ready(len(self.workers))

    async def add_worker(self, environment: dict[str, str] | None = None) -> Process:
        """One more, as the others but for these settings; started, and perhaps not ready yet."""
        worker = self._worker(environment)
        self.workers.append(worker)
        worker.start()
        return worker

    async def workers_ready(self, count: int) -> None:
        client = redis.Redis.from_url(self.redis_url)
        async with asyncio.timeout(READY_S):
            while len(list(client.scan_iter(keys.WORKERS))) < count:
                await asyncio.sleep(0.02)
        client.close()

    async def stop(self) -> None:
        for process in (*self.nodes, *self.workers):
            await process.kill()


@contextlib.asynccontextmanager
async def system(
    redis_url: str, *, nodes: int = 1, workers: int = 1, environment: dict[str, str] | None = None
) -> AsyncIterator[System]:
    """Run nodes and workers until the block ends. `environment` are settings: `HOLDFAST_…`, or of an SDK."""
    running = System(redis_url, nodes, workers, environment or {})
    try:
        await running.start()
        yield running
    finally:
        await running.stop()


async def create(base: str, **body: object) -> str:
    """POST a session; gives its id."""
    async with httpx.AsyncClient(base_url=base) as client:
        response = await client.post("/v1/sessions", json={"input": "hello", **body})
        assert response.status_code == 201, response.text
        return str(response.json()["id"])
