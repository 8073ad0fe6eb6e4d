"""What the README tells people on call: each command is run, and says what stands there."""

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from api.commands import Commands
from api.node import ANONYMOUS, open_node
from api.schemas import CreateSession
from shared.events import State
from shared.log import Log
from tests.support.inprocess import live_worker, settings
from tests.support.readme import table
from tests.support.redis_server import RedisServer, redis_server
from tests.support.tools import redis_cli
from tests.test_worker import over, when

ROWS = [row.cells for row in table("question", "ask", "for example")]
"""Question, commands, what they said."""
WORKER = "vm-16048-d55446e1"
"""As the README calls it."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene() -> AsyncIterator[tuple[RedisServer, str]]:
    """`kelp` runs, `trip` waits for its user, and `coral` was stopped; gives the Redis, and the worker's name."""
    with redis_server() as server:
        redis_url = server.url
        async with open_node(settings(redis_url)) as node, live_worker(redis_url):
            commands, log = Commands(node, ANONYMOUS), node.log
            slow = {"tokens": 10_000, "rate": 20}
            for sid in ("kelp", "coral"):
                asked = CreateSession(id=sid, input=f"Tell me about {sid}", options=slow)
                await commands.create(asked, None)
            await commands.create(CreateSession(id="trip", input="Lisbon", pipeline="trip"), None)
            for sid in ("kelp", "coral"):
                await when(log, sid, lambda view: view.last.seq > 3)
            await commands.stop("coral", "")
            await over(log, "coral")
            await when(log, "trip", lambda view: view.state is State.WAITING)
            yield server, await _worker(log)


async def _worker(log: Log) -> str:
    view = await log.view("kelp")
    assert view is not None
    return view.worker


def _shape(said: str) -> Any:
    """What does not differ from run to run."""
    said = re.sub(r'"text":"(?:[^"\\]|\\.)*"', '"text":"…"', said)
    said = re.sub(r'"id":"[0-9a-f]{16}"', '"id":"…"', said)
    return re.sub(r"\d+", "0", said)


async def _ask(server: RedisServer, command: str) -> list[str]:
    port = str(urlsplit(server.url).port)
    asked = await asyncio.create_subprocess_exec(
        redis_cli(), "-p", port, *command.split(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    out, _ = await asked.communicate()
    return out.decode().splitlines()


def test_there_are_ten_questions() -> None:
    """Or more."""
    assert len(ROWS) >= 10


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("asked", "said"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
async def test_redis_says_what_the_readme_says(scene: tuple[RedisServer, str], asked: str, said: str) -> None:
    """Line by line, but for what differs from run to run: numbers, and the words of the answer."""
    server, worker = scene
    commands, examples = re.findall("`([A-Z][^`]*)`", asked), re.findall("`([^`]*)`", said)
    assert commands
    for n, command in enumerate(commands):
        found = await _ask(server, command.replace(WORKER, worker))
        if not examples:
            assert len(found) == 2 * 7
            continue
        found = [line.replace(worker, WORKER) for line in found]
        told = examples[n].split(" / ")
        if command.startswith("ZRANGE"):
            found = [line for line in found if line != "coral"]  # what has ended is still there for a while
            found, told = sorted(found), sorted(told)
        assert [_shape(line) for line in found] == [_shape(line) for line in told], command
