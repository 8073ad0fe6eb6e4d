"""Logs: who says a line and what it is about, what is in none, and how often one comes."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from shared import telemetry
from shared.telemetry import _Rarely
from tests.support.ports import free_port
from tests.support.sse import read_all
from tests.support.system import System
from tests.support.ws import WS

SECRET = "the-user-said-this"
LOUD = {"HOLDFAST_LOG_LEVEL": "debug", "HOLDFAST_LOG_FORMAT": "json", "HOLDFAST_LINGER_S": "0.1"}


async def _talk(running: System) -> str:
    """A session over HTTP and a WebSocket, whose question and answer both have the secret in them."""
    async with httpx.AsyncClient(base_url=running.url) as client:
        body = {"model": "demo/echo", "input": SECRET}
        sid: str = (await client.post("/v1/sessions", json=body)).json()["id"]
    await read_all(running.url, sid)
    async with WS(running.url, f"/ws/chat?session={sid}") as socket:
        await socket.until("caught_up")
        await socket._connection.send(SECRET)
        await socket.until("done")
    return sid


async def _lines(redis_url: str, folder: Path, **more: str) -> tuple[str, list[dict[str, Any]]]:
    """The session, and the lines of a node and a worker that are told everything."""
    running = System(redis_url, 1, 1, {**LOUD, **more})
    for process in (*running.nodes, *running.workers):
        process.output = folder / f"{id(process)}.log"
    try:
        await running.start()
        sid = await _talk(running)
    finally:
        await running.stop()
    return sid, _said(folder)


def _said(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in folder.glob("*.log") for line in file.read_text().splitlines()]


async def test_lines_name_their_session_and_process_and_hold_no_content(redis_url: str, tmp_path: Path) -> None:
    """At `debug`, every line says which process it is of, and every line about a session names it; what was said is in
    none of them."""
    sid, lines = await _lines(redis_url, tmp_path)
    assert SECRET not in json.dumps(lines)
    assert all(bool(line.get("node")) != bool(line.get("worker")) for line in lines)
    over = [line for line in lines if line["event"] == "generation over"]
    assert [(line["session"], line["generation"], line["attempt"]) for line in over] == [(sid, "g1", 1), (sid, "g2", 1)]
    assert all("worker" in line for line in over)
    asked = [line for line in lines if line["event"] == "request" and line.get("session") == sid]
    assert [(line["method"], line["route"], line["status"]) for line in asked] == [
        ("GET", "/v1/sessions/{sid}/events", "200")
    ]


async def test_content_is_logged_where_it_is_asked_for(redis_url: str, tmp_path: Path) -> None:
    """Then what users and models say is there, at `debug`."""
    _, lines = await _lines(redis_url, tmp_path, HOLDFAST_LOG_CONTENT="true")
    said = [line for line in lines if line["event"] in ("the user said", "the model said")]
    assert len(said) == 4
    assert all(line["level"] == "debug" and SECRET in json.dumps(line) for line in said)


async def test_requests_while_redis_is_away_are_one_line(tmp_path: Path) -> None:
    """However many requests fail, an outage is not a line for each of them."""
    quick = {"HOLDFAST_REDIS_TIMEOUT_S": "0.1", "HOLDFAST_LOG_FORMAT": "json"}
    node = System(f"redis://127.0.0.1:{free_port()}/0", 1, 0, quick).nodes[0]
    node.output = tmp_path / "node.log"
    node.start()
    try:
        async with httpx.AsyncClient(base_url=node.url, timeout=30) as client:
            await _until_up(client)
            for _ in range(5):
                assert (await client.get("/v1/sessions/s1")).status_code == 503
    finally:
        await node.kill()
    assert sum(line["event"] == "redis failed" for line in _said(tmp_path)) == 1


async def _until_up(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await client.get("/livez")
            except httpx.TransportError:
                await asyncio.sleep(0.05)
            else:
                return


def test_a_rare_line_says_how_often_it_was_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, then not for a while, then with the number of those that were left out; other lines pass."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rarely = _Rarely()

    def say(event: str, **more: Any) -> dict[str, Any] | None:
        try:
            return dict(rarely(None, "error", {"event": event, **more}))
        except structlog.DropEvent:
            return None

    assert say("a", rare=True) == {"event": "a"}
    assert [say("a", rare=True), say("a", rare=True), say("b", rare=True)] == [None, None, {"event": "b"}]
    assert say("c") == say("c") == {"event": "c"}
    now[0] = telemetry.RARELY_S
    assert say("a", rare=True) == {"event": "a", "unsaid": 2}


@pytest.mark.parametrize("level", ["info", "warning", "error"])
def test_libraries_say_no_more_than_is_asked_for(level: str) -> None:
    """Who asks for warnings is not told that a server has started."""
    code = (
        "import logging\n"
        "from shared.telemetry import configure\n"
        f"configure('{level}', 'console')\n"
        "logging.getLogger('uvicorn.error').info('started')\n"
        "logging.getLogger('uvicorn.error').error('failed')\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert ("started" in said) == (level == "info")
    assert "failed" in said
