"""One log, many dialects: whoever watches a generation, in whatever protocol, is told the same."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from websockets.asyncio.client import connect

from api.compat.answers import streamed
from api.dialects.anthropic_messages import MessageEvents
from api.dialects.openai_chat import ChatChunks, Completion, completion_id
from api.dialects.projection import Projection
from api.errors import error_response
from shared.log import Log
from tests.support.inprocess import LiveNode, live_node, live_worker
from worker.pipelines import Run, pipeline

SID = "watched-by-all"
BETWEEN_WORDS_S = 0.01
WATCHERS = 3
"""Of each dialect: one from before the first word, the others in the middle of it."""
LINES_BETWEEN = 16
"""Of the one who began it, between one round of watchers and the next."""
WITHIN_S = 30.0
Text = Callable[[Sequence[dict[str, Any]]], str]
"""What an assistant said, of all the JSON that a client was sent."""


def _native(told: Sequence[dict[str, Any]]) -> str:
    return "".join(each["text"] for each in told if set(each) == {"text"})


def _packets(told: Sequence[dict[str, Any]]) -> str:
    return "".join(each["data"]["text"] for each in told if each["type"] == "text.delta")


def _openai_chat(told: Sequence[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for each in told for choice in each["choices"])


def _openai_responses(told: Sequence[dict[str, Any]]) -> str:
    final = told[-1]["response"]
    said = "".join(each["delta"] for each in told if each["type"] == "response.output_text.delta")
    assert said == final["output"][0]["content"][0]["text"]
    return said


def _anthropic(told: Sequence[dict[str, Any]]) -> str:
    return "".join(each["delta"]["text"] for each in told if each["type"] == "content_block_delta")


def _vercel(told: Sequence[dict[str, Any]]) -> str:
    return "".join(each["delta"] for each in told if each["type"] == "text-delta")


def _vercel_socket(told: Sequence[dict[str, Any]]) -> str:
    return _vercel([each["chunk"] for each in told if each["type"] == "chunk"])


def _ag_ui(told: Sequence[dict[str, Any]]) -> str:
    return "".join(each["delta"] for each in told if each["type"] == "TEXT_MESSAGE_CONTENT")


def _langgraph(told: Sequence[Any]) -> str:
    return "".join(each[0]["content"] for each in told if isinstance(each, list) and each[0]["type"] != "human")


TEXTS: dict[str, Text] = {
    "native": _native,
    "native, in one call": _native,
    "native socket": _packets,
    "OpenAI chat": _openai_chat,
    "OpenAI responses": _openai_responses,
    "Anthropic": _anthropic,
    "AI SDK": _vercel,
    "AI SDK socket": _vercel_socket,
    "AG-UI": _ag_ui,
    "LangGraph": _langgraph,
}
RUN = {
    "threadId": SID, "runId": "run-1", "state": {}, "tools": [], "context": [],
    "messages": [{"id": "u1", "role": "user", "content": "Say something long."}],
    "forwardedProps": {"model": "demo/lorem", "pipeline": "until-enough"},
}  # fmt: skip
enough = asyncio.Event()
"""All watch, and have for some time."""


@pipeline("until-enough")
async def until_enough(run: Run) -> None:
    """However slow the machine is, it is not over before all have come."""
    for n in itertools.count():
        await run.text(f"word{n} ")
        if enough.is_set():
            return
        await asyncio.sleep(BETWEEN_WORDS_S)


def _requests() -> dict[str, tuple[str, str, Any]]:
    """Method, path and body with which each dialect asks for the generation."""
    return {
        "native": ("GET", f"/v1/sessions/{SID}/events", None),
        "native, in one call": ("GET", f"/api/chat/stream?after={SID}/0-0", None),
        "OpenAI chat": ("GET", "/projected/chat", None),
        "OpenAI responses": ("GET", f"/v1/responses/resp_{SID}_g1?stream=true", None),
        "Anthropic": ("GET", "/projected/anthropic", None),
        "AI SDK": ("GET", f"/api/chat/{SID}/stream?finished=true", None),
        "AG-UI": ("POST", "/ag-ui", RUN),
        "LangGraph": ("GET", f"/threads/{SID}/runs/{SID}_g1/stream?stream_mode=messages-tuple", None),
    }


async def _over_http(client: httpx.AsyncClient, request: tuple[str, str, Any], heard: asyncio.Semaphore) -> list[Any]:
    """`heard` is released for each line."""
    method, path, body = request
    async with client.stream(method, path, json=body) as response:
        assert response.status_code == 200, (path, await response.aread())
        told = []
        async for line in response.aiter_lines():
            heard.release()
            if line.startswith("data: ") and line != "data: [DONE]":
                told.append(json.loads(line[6:]))
        return told


async def _over_socket(url: str, path: str, first: dict[str, Any] | None, ends: Callable[[Any], bool]) -> list[Any]:
    async with connect(url.replace("http", "ws") + path) as socket:
        if first is not None:
            await socket.send(json.dumps(first))
        told = []
        async for frame in socket:
            told.append(json.loads(frame))
            if ends(told[-1]):
                break
        return told


def _watch(name: str, node: LiveNode, client: httpx.AsyncClient) -> Any:
    match name:
        case "native socket":
            path, ends = f"/v1/sessions/{SID}/ws", lambda told: told["type"].startswith("generation.comp")
            return _over_socket(node.url, path, None, ends)
        case "AI SDK socket":
            asked = {"type": "resume", "requestId": "r1", "id": SID, "headers": {}, "body": {"finished": True}}
            return _over_socket(node.url, "/api/chat/ws", asked, lambda told: told["type"] in ("end", "no-active"))
    return _over_http(client, _requests()[name], asyncio.Semaphore(0))


def _project(node: LiveNode) -> None:
    """Two protocols have no way to ask for an answer that is there: their dialects are tried by routes of this test."""

    def asked(projection: Callable[[], Projection]) -> Callable[[Request], Any]:
        async def answer(_: Request) -> Response:
            return streamed(node.node, "anonymous", SID, projection(), refusal=error_response)

        return answer

    chat = Completion(completion_id(SID, "g1"), "demo/lorem", 1_790_000_000)
    node.server._app.router.routes[:0] = [
        Route("/projected/chat", asked(lambda: ChatChunks("g1", chat))),
        Route("/projected/anthropic", asked(lambda: MessageEvents(SID, "g1"))),
    ]


@pytest.fixture
async def nodes(redis_url: str) -> AsyncIterator[list[LiveNode]]:
    async with live_node(redis_url) as one, live_node(redis_url) as other, live_worker(redis_url):
        _project(one)
        _project(other)
        enough.clear()
        yield [one, other]


def _in_turn(nodes: list[LiveNode]) -> Iterator[LiveNode]:
    while True:
        yield from nodes


async def _more(heard: asyncio.Semaphore) -> None:
    for _ in range(LINES_BETWEEN):
        await heard.acquire()


async def test_every_dialect_tells_the_same(nodes: list[LiveNode], log: Log) -> None:
    """One generation, begun by one client and watched by thirty in ten dialects on two nodes, from its start on and
    from later: each is told the same text, and its protocol's end."""
    places = _in_turn(nodes)
    async with (
        asyncio.timeout(WITHIN_S),
        httpx.AsyncClient(base_url=nodes[0].url, timeout=WITHIN_S) as one,
        httpx.AsyncClient(base_url=nodes[1].url, timeout=WITHIN_S) as other,
    ):
        heard = asyncio.Semaphore(0)
        first = asyncio.create_task(_over_http(one, _requests()["AG-UI"], heard))
        watching: dict[str, list[asyncio.Task[list[Any]]]] = {}
        for _ in range(WATCHERS):
            await _more(heard)
            for name in TEXTS:
                node = next(places)
                client = one if node is nodes[0] else other
                watch = asyncio.create_task(_watch(name, node, client))
                watching.setdefault(name, []).append(watch)
        await _more(heard)
        assert not first.done()
        enough.set()
        told = {name: [await watch for watch in watches] for name, watches in watching.items()}
        shown = (await one.get(f"/v1/sessions/{SID}")).json()["messages"][-1]
        assert _ag_ui(await first) == shown["content"]
    assert shown["state"] == "completed"
    assert shown["content"].startswith("word0 word1 ")
    for name, each in told.items():
        assert [TEXTS[name](one) for one in each] == [shown["content"]] * WATCHERS, name
