"""A private Redis on a free port of loopback."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import redis

from shared.embedded import find_server, wait_ready
from tests.support.ports import free_port


class RedisServer:
    """A real Redis server as a child process; may be stopped and started again, with or without its data."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        command, kind = find_server()
        assert kind.startswith("redis-server"), "the tests need a real Redis"
        base = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen(
            [*command, *base, *self._arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_ready(self._process, self.port)
        return self

    def client(self) -> "redis.Redis":
        return redis.Redis(port=self.port, socket_timeout=5)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=10)
            self._process = None


@contextlib.contextmanager
def redis_server(*arguments: str) -> Iterator[RedisServer]:
    with TemporaryDirectory(prefix="holdfast-test-redis-") as folder:
        server = RedisServer(Path(folder), *arguments).start()
        try:
            yield server
        finally:
            server.stop()
