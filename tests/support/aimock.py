"""aimock, from npm: a server that speaks the wire formats of the providers."""

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.support.ports import free_port
from tests.support.tools import node, npm_program


@contextlib.asynccontextmanager
async def aimock(*fixtures: dict[str, Any], latency_ms: int = 5, chunk: int = 6) -> AsyncIterator[str]:
    """Run it with `fixtures` until the block ends; gives its base URL, without a path."""
    port = free_port()
    with TemporaryDirectory(prefix="holdfast-aimock-") as folder:
        (Path(folder) / "fixtures.json").write_text(json.dumps({"fixtures": fixtures}))
        command = [node(), npm_program("llmock"), "-p", str(port), "-f", folder]
        process = subprocess.Popen(
            [*command, "-l", str(latency_ms), "-c", str(chunk)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            await _listening(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


async def _listening(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return
