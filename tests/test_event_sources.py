"""Two clients of SSE from npm, beside the browser's own: `eventsource` and `@microsoft/fetch-event-source`."""

import asyncio
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.support.cutting import cutting, nowhere
from tests.support.dialect_stage import *  # noqa: F403 - fixtures are found by name
from tests.support.dialect_stage import DialectStage
from tests.support.node_script import all_said, speaking
from tests.upstream import SEVER, reply
from tests.upstream_fixtures import WIRES
from worker.providers.base import Text, ToolCall, Usage
from worker.providers.demo import lorem

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

SCRIPT = "sse.mjs"
CLIENTS = ["eventsource", "fetch-event-source"]
CUTS = 10
TOKENS = 400
LONG = {"model": "demo/lorem", "options": {"tokens": TOKENS, "rate": 200}}
AFTER_AN_ID = re.compile(rb"\nid: [^\n]*\n\Z")
"""Before the very last newline of a block fetch-event-source has taken the id already, and not yet the event."""
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
CALL = ToolCall("call_1", "weather", {"city": "Oslo"})
ENDLESS = {"model": "demo/lorem", "options": {"tokens": 50_000, "rate": 100}}


@dataclass(frozen=True)
class Told:
    """The events a client gave to its page, and how it ended."""

    events: list[dict[str, Any]]
    over: dict[str, Any]

    @property
    def text(self) -> str:
        return "".join(event["data"]["text"] for event in self.events if event["type"] == "text.delta")

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events if event["type"] != "caught_up"]

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in self.events if event["type"] != "caught_up"]


async def tell(which: str, url: str, **options: Any) -> Told:
    told = await all_said(SCRIPT, which, url, json.dumps(options))
    return Told(told[:-1], told[-1]["over"])


async def create(stage: DialectStage, **body: Any) -> str:
    async with httpx.AsyncClient(base_url=stage.urls[0]) as client:
        return str((await client.post("/v1/sessions", json={"input": "hello out there", **body})).json()["id"])


def events(url: str, sid: str) -> str:
    return f"{url}/v1/sessions/{sid}/events"


def budgets(seed: int) -> Iterator[int]:
    """In bytes; the head of an answer is some 300."""
    chance = random.Random(seed)
    return iter([chance.randrange(350, 900) for _ in range(CUTS)])


async def test_to_the_end(stage: DialectStage) -> None:
    """An EventSource asks again and is closed by a 204; the other is told the end by the end of the answer."""
    sid = await create(stage, model="demo/echo")
    source, fetched = await asyncio.gather(*[tell(which, events(stage.urls[0], sid)) for which in CLIENTS])
    for told in (source, fetched):
        assert told.text == "hello out there"
        assert (told.types[0], told.types[-1]) == ("message", "generation.completed")
    assert source.over == {"status": 204, "broken": 1}
    assert fetched.over == {"statuses": [200], "errors": []}


@pytest.mark.parametrize("which", CLIENTS)
@pytest.mark.parametrize("seed", range(2))
async def test_cut_at_random_points(stage: DialectStage, which: str, seed: int) -> None:
    """Ten connections are reset, each next one goes to the other node: nothing is missing, nothing comes twice."""
    sid = await create(stage, **LONG)
    spare = AFTER_AN_ID.search if which == "fetch-event-source" else nowhere
    async with cutting(stage.turns, budgets(seed), spare) as network:
        told = await tell(which, events(network.url, sid))
        assert network.cuts == CUTS
    assert told.text == "".join(lorem(TOKENS))
    assert len(set(told.ids)) == len(told.ids)
    assert told.types.count("generation.completed") == 1


async def test_a_post_that_is_cut_goes_on(stage: DialectStage) -> None:
    """One call makes the session and streams it, by POST; ten cuts make no second generation."""
    body = json.dumps({"message": "hello", **LONG})
    request = {
        "method": "POST",
        "headers": {"content-type": "application/json", "idempotency-key": "cut"},
        "body": body,
    }
    async with cutting(stage.turns, budgets(4), AFTER_AN_ID.search) as network:
        told = await tell("fetch-event-source", f"{network.url}/api/chat/stream", **request)
        assert network.cuts == CUTS
    assert told.text == "".join(lorem(TOKENS))
    assert [kind for kind in told.types if kind != "text.delta"] == [
        "message", "generation.started", "usage", "generation.completed",
    ]  # fmt: skip


async def test_a_page_that_is_hidden_goes_on_when_it_is_seen(stage: DialectStage) -> None:
    """The client hangs up while nobody looks, and asks for what follows when somebody does."""
    sid = await create(stage, **LONG)
    told = await tell("fetch-event-source", events(stage.urls[1], sid), hides=20)
    assert told.over == {"statuses": [200, 200], "errors": []}
    assert told.text == "".join(lorem(TOKENS))
    assert len(set(told.ids)) == len(told.ids)


async def test_nothing_more(stage: DialectStage) -> None:
    """After the end, with the last id: 204, which the one takes for the end and the other for an error."""
    sid = await create(stage, model="demo/echo")
    url = events(stage.urls[0], sid)
    last = (await tell("fetch-event-source", url)).ids[-1]
    source, fetched = await asyncio.gather(
        tell("eventsource", f"{url}?after={last}"),
        tell("fetch-event-source", url, once=True, headers={"last-event-id": last}),
    )
    assert (source.events, source.over) == ([], {"status": 204, "broken": 0})
    assert (fetched.events, fetched.over["statuses"], len(fetched.over["errors"])) == ([], [204], 1)


async def test_an_unknown_session(stage: DialectStage) -> None:
    """Is asked for once, and not again and again."""
    source = await tell("eventsource", events(stage.urls[0], "nobody"))
    assert (source.events, source.over) == ([], {"status": 404, "broken": 0})


@pytest.mark.parametrize("which", CLIENTS)
async def test_an_error_is_an_event(stage: DialectStage, which: str) -> None:
    """A provider that breaks off: what it said, and then why it ended; no client asks for it again and again."""
    stage.up.plan(reply(WIRES["openai-chat"].head("Half "), SEVER))
    sid = await create(stage, model="openai-chat/m")
    told = await tell(which, events(stage.urls[0], sid))
    assert told.text == "Half "
    assert told.types[-1] == "generation.failed"
    assert told.events[-1]["data"]["code"] == "connection_lost"


@pytest.mark.parametrize("which", CLIENTS)
async def test_a_tool_call_comes_whole(stage: DialectStage, which: str) -> None:
    """One event, with its arguments; it ends the turn."""
    stage.up.plan(reply(WIRES["anthropic"].answer([Text("One moment."), CALL], "tool_calls", usage=Usage(1, 1))))
    sid = await create(stage, model="anthropic/m", tools=[{"name": "weather", "parameters": PARAMETERS}])
    told = await tell(which, events(stage.urls[1], sid))
    (called,) = [event["data"] for event in told.events if event["type"] == "tool.call"]
    assert (called["id"], called["name"], called["arguments"]) == ("call_1", "weather", {"city": "Oslo"})
    assert (told.text, told.types[-1]) == ("One moment.", "generation.completed")


@pytest.mark.parametrize("which", CLIENTS)
async def test_stop(stage: DialectStage, which: str) -> None:
    """Told by another client, at the other node, it ends the stream of this one."""
    sid = await create(stage, **ENDLESS)
    told = []
    async with speaking(SCRIPT, which, events(stage.urls[0], sid), "{}") as lines:
        async for line in lines:
            told.append(line)
            if len(told) == 10:
                async with httpx.AsyncClient(base_url=stage.urls[1]) as client:
                    assert (await client.post(f"/v1/sessions/{sid}/stop", json={})).status_code == 200
    assert told[-2]["type"] == "generation.cancelled"
    assert told[-1]["over"] in ({"status": 204, "broken": 1}, {"statuses": [200], "errors": []})
