"""The nginx that is deployed, in front of nodes that are here."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_port
from tests.support.system import ROOT

CONF = ROOT / "deploy" / "nginx.conf"
READY_S = 10


@dataclass
class Nginx:
    port: int
    child: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def configured(ports: Sequence[int], listen: int, prefix: Path, conf: str | None = None) -> str:
    """The file as deployed, with the places that differ put in: addresses, and where it may write."""
    text = conf or CONF.read_text(encoding="utf-8")
    servers = "\n".join(f"        server 127.0.0.1:{port} max_fails=1 fail_timeout=2s;" for port in ports)
    text, found = re.subn(r"( *server api-\d:8000 [^\n]*\n)+", servers + "\n", text)
    assert found == 1
    text = re.sub(r"listen 8080\b", f"listen 127.0.0.1:{listen}", text)
    text = text.replace("include mime.types;", "").replace("pid /tmp/nginx.pid;", f"pid {prefix}/nginx.pid;")
    text = text.replace("worker_processes auto;", "worker_processes 1;" + ("\nuser root;" if os.geteuid() == 0 else ""))
    return text.replace("access_log /dev/stdout plain;", f"access_log {prefix}/access.log plain;")


@contextlib.asynccontextmanager
async def nginx(ports: Sequence[int]) -> AsyncIterator[Nginx]:
    with tempfile.TemporaryDirectory(prefix="nginx") as place:
        prefix, port = Path(place), free_port()
        conf = prefix / "nginx.conf"
        conf.write_text(configured(ports, port, prefix), encoding="utf-8")
        binary = shutil.which("nginx") or "/usr/sbin/nginx"
        child = subprocess.Popen(
            [binary, "-p", place, "-c", str(conf), "-e", "stderr", "-g", "daemon off;"],
            stderr=(prefix / "error.log").open("wb"),
        )
        try:
            await _listening(port, child)
            yield Nginx(port, child)
        finally:
            child.send_signal(signal.SIGTERM)
            await asyncio.to_thread(child.wait, 10)


async def _listening(port: int, child: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(READY_S):
        while child.poll() is None:
            with contextlib.suppress(ConnectionError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.02)
    raise AssertionError("nginx ended at once")
