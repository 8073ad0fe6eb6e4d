"""What the engine of a container is told of the process in it: `python -m shared.health`."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared import health
from tests.support.ports import free_port
from tests.support.redis_server import redis_server
from tests.support.system import ROOT, Process, system

WITHIN_S = 20
LEASE_S = 1.0


def asked(*arguments: str, **environment: object) -> str:
    """What the command says; nothing where all is well. Its status says the same."""
    settings = {name: str(value) for name, value in environment.items()}
    command = [sys.executable, "-m", "shared.health", *arguments]
    told = subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert told.returncode == (1 if told.stderr else 0), told
    return told.stderr.strip()


def written_at(file: Path) -> float:
    return file.stat().st_mtime


async def until_well(*arguments: str) -> None:
    async with asyncio.timeout(WITHIN_S):
        while health.main(["worker", *arguments]) is not None:
            await asyncio.sleep(0.05)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOLDFAST_HEALTH_FILE", str(tmp_path / "worker"))
    return tmp_path / "worker"


async def test_a_node_is_well_when_it_answers(redis_url: str, file: Path) -> None:
    """Also one that cannot reach Redis: to start it anew would help nobody. A port where nobody listens is not."""
    port = free_port()
    assert f"no answer on port {port}" in asked("node", HOLDFAST_PORT=port)
    with redis_server() as away:
        async with system(away.url, workers=0) as running:
            away.kill()
            assert asked("node", HOLDFAST_PORT=running.nodes[0].port) == ""
            assert asked("node", "ready", HOLDFAST_PORT=running.nodes[0].port) == "/readyz answered 503"
            assert asked(HOLDFAST_PORT=running.nodes[0].port) == "", "without a worker's file a node is asked"


async def test_a_worker_is_well_as_long_as_it_runs(file: Path) -> None:
    """Before Redis is there it lives and is not ready; then it is, also when Redis has gone again; and no more once it
    has ended."""
    with redis_server() as redis:
        redis.kill()
        brief = {"HOLDFAST_LEASE_S": str(LEASE_S), "HOLDFAST_HEARTBEAT_S": "0.2", "HOLDFAST_LOG_LEVEL": "error"}
        worker = Process("worker", {"HOLDFAST_REDIS_URL": redis.url, **brief})
        assert "no worker writes" in asked("worker")
        worker.start()
        try:
            await until_well()
            assert asked("worker", "ready") == "the worker is starting"
            redis.start()
            await until_well("ready")
            redis.kill()
            without = time.time() + 3 * LEASE_S
            async with asyncio.timeout(WITHIN_S):
                while written_at(file) < without:
                    await asyncio.sleep(0.1)
            assert asked("worker", "ready") == asked() == ""
            worker.signal(signal.SIGTERM)
            assert await worker.ended(30) == 0
            assert "no worker writes" in asked("worker")
        finally:
            await worker.kill()


def test_a_worker_that_says_nothing_for_long_is_stuck(file: Path) -> None:
    """Its file is there, and says ready: what counts is when it said so."""
    file.write_text(health.READY)
    assert asked("worker", "ready") == ""
    long_ago = time.time() - health.STALE_S - 5
    os.utime(file, (long_ago, long_ago))
    assert "the worker is stuck" in asked("worker")


async def test_a_stuck_worker_is_seen_by_its_file(redis_url: str, file: Path) -> None:
    """A worker that is stopped where it is writes nothing any more; woken up, it does."""
    async with system(redis_url, nodes=0) as running:
        await until_well("ready")
        running.workers[0].signal(signal.SIGSTOP)
        long_ago = time.time() - health.STALE_S - 5
        os.utime(file, (long_ago, long_ago))
        await asyncio.sleep(3)  # more than a heartbeat: nothing is to happen
        assert "the worker is stuck" in asked("worker")
        running.workers[0].signal(signal.SIGCONT)
        await until_well()


def test_the_command_says_how_it_is_used() -> None:
    """A misspelt probe must not pass for a well process."""
    assert asked("wroker").startswith("usage:")
    assert asked("node", "raedy").startswith("usage:")
