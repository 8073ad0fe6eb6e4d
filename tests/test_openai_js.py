"""OpenAI's SDK for JavaScript, pointed here by its base URL alone."""

import asyncio
import json
import random
from typing import Any

import httpx
import pytest

from tests.support.cutting import cutting
from tests.support.dialect_stage import *  # noqa: F403 - fixtures are found by name
from tests.support.dialect_stage import DialectStage
from tests.support.node_script import all_said
from tests.upstream import SEVER, reply
from tests.upstream_fixtures import WIRES
from worker.providers.base import Text, ToolCall, Usage
from worker.providers.demo import lorem

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

HELLO = [{"role": "user", "content": "hello out there"}]
ECHO = {"model": "demo/echo", "messages": HELLO}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
CALL = ToolCall("call_1", "weather", {"city": "Oslo"})
ENDLESS = {"tokens": 50_000, "rate": 100}


class Told:
    """What the script said: the events of its streams, and how it ended."""

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self.events: list[dict[str, Any]] = [line["event"] for line in lines[:-1]]
        self.done: Any = lines[-1].get("done")
        self.error: dict[str, Any] | None = lines[-1].get("error")

    @property
    def numbers(self) -> list[int]:
        return [event["sequence_number"] for event in self.events]

    @property
    def content(self) -> str:
        """Of chunks."""
        return "".join(event["choices"][0]["delta"].get("content") or "" for event in self.events if event["choices"])


async def js(url: str, how: str, **parameters: Any) -> Told:
    """Run the SDK; gives what it told."""
    return Told(await all_said("openai.mjs", f"{url}/v1", how, json.dumps(parameters)))


async def test_chat(stage: DialectStage) -> None:
    """Whole, streamed, and by the helper: the same text."""
    whole, streamed, helped = await asyncio.gather(
        js(stage.urls[0], "chat", **ECHO), js(stage.urls[1], "chat events", **ECHO),
        js(stage.urls[0], "chat stream", **ECHO),
    )  # fmt: skip
    assert whole.done["choices"][0]["message"]["content"] == "hello out there"
    assert streamed.content == "hello out there"
    assert streamed.error is None
    assert helped.done["choices"][0]["message"]["content"] == "hello out there"


async def test_responses(stage: DialectStage) -> None:
    """Whole, streamed, by the helper; and as it is shown."""
    asked = {"model": "demo/echo", "input": "hello"}
    whole, streamed, helped, models = await asyncio.gather(
        js(stage.urls[0], "response", **asked), js(stage.urls[1], "response events", **asked),
        js(stage.urls[0], "response stream", **asked), js(stage.urls[0], "models"),
    )  # fmt: skip
    assert whole.done["output_text"] == "hello"
    assert streamed.numbers == list(range(10))
    assert streamed.events[-1]["type"] == "response.completed"
    assert helped.done["output_text"] == "hello"
    assert "demo/echo" in models.done
    shown = await js(stage.urls[1], "retrieve", id=whole.done["id"])
    assert shown.done == whole.done


async def test_tool_calls(stage: DialectStage) -> None:
    """Put together by the helpers of both protocols."""
    answer = WIRES["anthropic"].answer([Text("One moment."), CALL], "tool_calls", usage=Usage(1, 1))
    stage.up.plan(reply(answer))
    function = {"name": "weather", "parameters": PARAMETERS}
    chat, response = await asyncio.gather(
        js(stage.urls[0], "chat stream", model="anthropic/m", messages=HELLO,
           tools=[{"type": "function", "function": function}]),
        js(stage.urls[1], "response stream", model="anthropic/m", input="hi", tools=[{"type": "function", **function}]),
    )  # fmt: skip
    (call,) = chat.done["choices"][0]["message"]["tool_calls"]
    assert (call["id"], json.loads(call["function"]["arguments"])) == ("call_1", CALL.arguments)
    item = response.done["output"][-1]
    assert (item["type"], item["call_id"], json.loads(item["arguments"])) == ("function_call", "call_1", CALL.arguments)


async def test_a_provider_that_breaks_off_is_no_success(stage: DialectStage) -> None:
    """An error in the middle of the chunks; in Responses a failure, and no final response."""
    stage.up.plan(reply(WIRES["openai-chat"].head("Half "), SEVER))
    asked = {"model": "openai-chat/m", "input": "hi"}
    chat, response, helped, whole = await asyncio.gather(
        js(stage.urls[0], "chat events", model="openai-chat/m", messages=HELLO),
        js(stage.urls[0], "response events", **asked), js(stage.urls[0], "response stream", **asked),
        js(stage.urls[0], "response", **asked),
    )  # fmt: skip
    assert chat.error is not None
    assert (chat.content, chat.error["code"]) == ("Half ", "connection_lost")
    assert response.events[-1]["type"] == "response.failed"
    assert response.events[-1]["response"]["error"]["code"] == "server_error"
    assert helped.done["status"] == "failed"
    assert whole.error is not None
    assert whole.error["status"] == 502


async def test_cut_at_random_points(stage: DialectStage) -> None:
    """Ten connections are reset, each next one goes to the other node: nothing is missing, nothing comes twice."""
    chance = random.Random(11)
    budgets = iter([chance.randrange(700, 4000) for _ in range(10)])
    body = {"model": "demo/lorem", "input": "hi", "background": True, "options": {"tokens": 400, "rate": 1000}}
    async with httpx.AsyncClient(base_url=stage.urls[0]) as plain:
        begun = (await plain.post("/v1/responses", json=body)).json()
    async with cutting(stage.turns, budgets) as network:
        told = await js(network.url, "follow", id=begun["id"])
        assert network.cuts == 10
    assert told.done["cuts"] == 10
    assert told.numbers == list(range(len(told.events)))
    said = [event["delta"] for event in told.events if event["type"] == "response.output_text.delta"]
    assert "".join(said) == "".join(lorem(400)) == told.events[-1]["response"]["output"][0]["content"][0]["text"]


async def test_cancel(stage: DialectStage) -> None:
    """The response is cancelled, and its stream ends so."""
    told = await js(stage.urls[0], "cancelled", model="demo/lorem", input="hi", options=ENDLESS)
    assert told.error is None
    assert told.done["status"] == "cancelled"
    assert (told.events[-1]["type"], told.events[-1]["response"]["status"]) == ("response.incomplete", "cancelled")


async def test_refusals(stage: DialectStage) -> None:
    """As the SDK's own errors."""
    unknown, missing, unsupported = await asyncio.gather(
        js(stage.urls[0], "response", model="nobody/m", input="hi"),
        js(stage.urls[0], "retrieve", id="resp_nobody_g1"),
        js(stage.urls[0], "chat", **ECHO, n=2),
    )
    assert unknown.error is not None
    assert missing.error is not None
    assert unsupported.error is not None
    assert (unknown.error["name"], unknown.error["code"]) == ("NotFoundError", "model_not_found")
    assert (missing.error["name"], missing.error["code"]) == ("NotFoundError", "response_not_found")
    assert (unsupported.error["name"], unsupported.error["code"]) == ("BadRequestError", "unsupported_parameter")
