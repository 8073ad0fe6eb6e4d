"""The nginx that is deployed, in front of nodes that are here."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support import tools
from tests.support.ports import free_port
from tests.support.system import ROOT

CONF = ROOT / "deploy" / "nginx.conf"
READY_S = 10


@dataclass
class Nginx:
    port: int
    place: Path
    """Where it writes: `access.log`, `error.log`."""
    child: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def accesses(self) -> list[str]:
        return (self.place / "access.log").read_text().splitlines()

    def reload(self) -> None:
        """Read the configuration again; streams that are open stay with the old process."""
        self.child.send_signal(signal.SIGHUP)


def configured(ports: Sequence[int], listen: int, prefix: Path, edits: Mapping[str, str] | None = None) -> str:
    """The file as deployed, with the places that differ put in: addresses, and where it may write.

    `edits`: further texts of the file and what to put there, such as times that are too long for a test.
    """
    text = CONF.read_text(encoding="utf-8")
    servers = "\n".join(f"        server 127.0.0.1:{port} max_fails=1 fail_timeout=2s;" for port in ports)
    text, found = re.subn(r"( *server api-\d:8000 max_fails=1 fail_timeout=2s;\n)+", servers + "\n", text)
    assert found == 1
    here = {
        "listen 8080 ": f"listen 127.0.0.1:{listen} ",
        "include mime.types;": "",
        "pid /tmp/nginx.pid;": f"pid {prefix}/nginx.pid;",
        "worker_processes auto;": "worker_processes 1;" + ("\nuser root;" if os.geteuid() == 0 else ""),
        "access_log /dev/stdout plain;": f"access_log {prefix}/access.log plain;",
        **(edits or {}),
    }
    for old, new in here.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextlib.asynccontextmanager
async def nginx(ports: Sequence[int], edits: Mapping[str, str] | None = None) -> AsyncIterator[Nginx]:
    """Run it in front of nodes at these ports; `edits` as for `configured`."""
    with tempfile.TemporaryDirectory(prefix="nginx") as folder:
        place, port = Path(folder), free_port()
        conf = place / "nginx.conf"
        conf.write_text(configured(ports, port, place, edits), encoding="utf-8")
        command = [tools.nginx(), "-p", folder, "-c", str(conf), "-e", "stderr", "-g", "daemon off;"]
        with (place / "error.log").open("wb") as errors:
            child = subprocess.Popen(command, stderr=errors)
        try:
            await _listening(port, child)
            yield Nginx(port, place, child)
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
