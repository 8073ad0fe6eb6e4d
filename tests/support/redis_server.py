"""A private Redis on a free port of loopback."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import redis

from shared.embedded import find_server
from tests.support.ports import free_port

READY_S = 20.0


class RedisServer:
    """A real Redis server as a child process; may be stopped and started again, with or without its data."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        port: int | None = None,
        host: str = "127.0.0.1",
        configuration: Path | None = None,
        sentinel: bool = False,
        admin: tuple[str, str] | None = None,
    ) -> None:
        """`sentinel`: run as one. `admin`: name and password of the user that the tests ask as."""
        self.host = host
        self.port = port or free_port()
        self.url = f"redis://{host}:{self.port}/0"
        self._folder = folder
        self._arguments = arguments
        self._configuration = [str(configuration)] if configuration is not None else []
        self._sentinel = sentinel
        self._admin = admin
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, ready: bool = True) -> Self:
        """`ready`: return when it answers."""
        command, kind = find_server()
        assert kind.startswith("redis-server"), "the tests need a real Redis"
        base = ["--port", str(self.port), "--bind", self.host]
        if not self._sentinel:
            base += ["--save", "", "--dir", str(self._folder)]
        mode = ["--sentinel"] if self._sentinel else []
        self._process = subprocess.Popen(
            [*command, *self._configuration, *mode, *base, *self._arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if ready:
            self._wait()
        return self

    def _wait(self) -> None:
        deadline = time.monotonic() + READY_S
        with self.client() as client:
            while time.monotonic() < deadline:
                assert self._process is not None
                assert self._process.poll() is None, "the server ended at once"
                try:
                    client.ping()
                    return
                except redis.exceptions.AuthenticationError:
                    return  # it answers
                except redis.exceptions.RedisError:
                    time.sleep(0.02)  # a server that starts has nothing to await but an answer
        raise AssertionError("the server did not answer in time")

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def client(self) -> "redis.Redis":
        name, password = self._admin or (None, None)
        return redis.Redis(host=self.host, port=self.port, username=name, password=password, socket_timeout=5)

    def ask(self, *command: Any) -> Any:
        """One command over a connection of its own."""
        with self.client() as client:
            return client.execute_command(*command)

    def pause(self) -> None:
        """Stop the process where it is; its connections stay open, and nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(timeout=10)
            self._process = None


@contextlib.contextmanager
def redis_server(
    *arguments: str, port: int | None = None, host: str = "127.0.0.1", configuration: Path | None = None
) -> Iterator[RedisServer]:
    with TemporaryDirectory(prefix="holdfast-test-redis-") as folder:
        server = RedisServer(Path(folder), *arguments, port=port, host=host, configuration=configuration).start()
        try:
            yield server
        finally:
            server.stop()
