"""`holdfast dev`: Redis, an API node and a worker as child processes of one command."""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from shared.embedded import EmbeddedRedis, embedded_redis
from shared.errors import ConfigurationError
from shared.exposure import check_exposure
from shared.settings import Settings

READY_S = 30.0
STOP_S = 15.0
POLL_S = 0.05
DATA = Path(".holdfast")
"""Where the embedded Redis keeps its data, so that sessions outlive a restart of the command."""


def run() -> int:
    """Runs until Ctrl-C or SIGTERM (0), or until one of the processes ends by itself (1).

    Raises ConfigurationError when something cannot be started.
    """
    settings = Settings.load()
    check_exposure(settings)
    if settings.port == 0:
        raise ConfigurationError("HOLDFAST_PORT must name a port: it is where the page is to be found")
    _check_free(settings.host, settings.port)
    stopping = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stopping.set())
    with _redis(settings) as redis, _processes(_environment(redis.url)) as children:
        url = f"http://{settings.host}:{settings.port}"
        if not _wait_ready(url, children, stopping):
            return 0
        _banner(url, redis)
        code = _watch(children, stopping)
        print("\nStopping…", flush=True)
    print("Stopped.", flush=True)
    return code


def _check_free(host: str, port: int) -> None:
    """Raises ConfigurationError where nobody can listen: what does so already would be taken for the node."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ConfigurationError(f"cannot listen at {host}:{port}: {error}") from None
        raise ConfigurationError(
            f"something listens at {host}:{port} already; HOLDFAST_PORT names another port"
        ) from None


def _redis(settings: Settings) -> contextlib.AbstractContextManager[EmbeddedRedis]:
    if settings.redis_url:
        return contextlib.nullcontext(EmbeddedRedis(settings.redis_url, "yours, from HOLDFAST_REDIS_URL"))
    return embedded_redis(DATA)


def _environment(redis_url: str) -> dict[str, str]:
    quick = {"HOLDFAST_DRAIN_S": "0.5", "HOLDFAST_WORKER_GRACE_S": "0.5", "HOLDFAST_LOG_LEVEL": "warning"}
    return {**quick, **os.environ, "HOLDFAST_REDIS_URL": redis_url, "PYTHONUNBUFFERED": "1"}


@contextlib.contextmanager
def _processes(environment: dict[str, str]) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Each in a session of its own: Ctrl-C reaches this command alone, which stops them in order."""
    children: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in ("worker", "api"):
            children[name] = subprocess.Popen([sys.executable, "-m", name], env=environment, start_new_session=True)
        yield children
    finally:
        for child in reversed(children.values()):
            child.send_signal(signal.SIGTERM)
        for child in children.values():
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _wait_ready(url: str, children: dict[str, subprocess.Popen[bytes]], stopping: threading.Event) -> bool:
    """False when told to stop before everything was ready."""
    for _ in range(int(READY_S / POLL_S)):
        _check_alive(children)
        if stopping.is_set():
            return False
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=1):
                return True
        except (urllib.error.URLError, OSError):
            stopping.wait(POLL_S)
    raise ConfigurationError(f"{url} was not ready within {READY_S:.0f} s")


def _check_alive(children: dict[str, subprocess.Popen[bytes]]) -> None:
    for name, child in children.items():
        if child.poll() is not None:
            raise ConfigurationError(f"the {name} process ended at once, with status {child.returncode}")


def _watch(children: dict[str, subprocess.Popen[bytes]], stopping: threading.Event) -> int:
    while not stopping.wait(0.2):
        for name, child in children.items():
            if child.poll() is not None:
                print(f"The {name} process ended with status {child.returncode}.", file=sys.stderr, flush=True)
                return 1
    return 0


def _banner(url: str, redis: EmbeddedRedis) -> None:
    port = redis.url.rsplit(":", 1)[-1].split("/")[0]
    lines = [
        "",
        "  Holdfast is running.",
        "",
        f"    page     {url}",
        f"    docs     {url}/docs",
        f"    Redis    {_without_password(redis.url)}   ({redis.kind})",
    ]
    if redis.kind.startswith("redis-server"):
        lines.append(f"             redis-cli -p {port} keys 'holdfast:*'")
    print("\n".join([*lines, "", "  Ctrl-C stops all of it.", ""]), flush=True)


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rsplit('@', 1)[-1]}"
