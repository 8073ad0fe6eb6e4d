"""LangGraph's own SDKs, unmodified, pointed at a node by their URL alone: Python and JavaScript."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, aclosing
from itertools import count, cycle
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import APIStatusError

from shared.events import EventType
from tests.support.cutting import cutting
from tests.support.dialect_stage import SECONDS, DialectStage, stage
from tests.support.generations import piped
from tests.support.node_script import all_said
from tests.support.speaking import until_it_speaks
from tests.upstream import SEVER, reply
from tests.upstream_fixtures import WIRES
from worker.pipelines import Run
from worker.providers.base import Text, ToolCall
from worker.providers.demo import lorem

__all__ = ["stage"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKENS = 600
SLOW = {"tokens": 20_000, "rate": 50}
"""Of a demo model: it still speaks when something happens to it."""
CUTS = 10
CUT_BYTES = (1500, 9000)
"""Less is no stream yet, and there is nothing to come back to; more is the end."""
PIECES = "messages-tuple"
ENDS = ("end", "error")
_threads = map("thread-{}".format, count())

Done = dict[str, Any]
"""What a client got: `parts` (`id`, `event`, `data`), `run`, `status`, `error`."""
Job = dict[str, Any]
"""See the script."""


def job(
    url: str, assistant: str = "demo/lorem", said: str = "hello", modes: Iterable[str] = (PIECES,), **more: Any
) -> Job:
    """Stream a run in a thread of its own. `more` is of the job; `options` are the model's."""
    options = more.pop("options", {"tokens": TOKENS})
    given = {"input": {"messages": [{"role": "user", "content": said}]}, "streamMode": list(modes)}
    payload = {**given, "context": {"options": options, **more.pop("context", {})}}
    return {"url": url, "thread": next(_threads), "assistant": assistant, "payload": payload, **more}


async def by_python(*jobs: Job) -> list[Done]:
    return list(await asyncio.gather(*map(_by_python, jobs)))


async def _by_python(job: Job) -> Done:
    done: Done = {"parts": [], "run": None, "status": None, "error": None}

    def created(made: Any) -> None:
        done["run"] = made["run_id"]

    async with get_client(url=job["url"], api_key=None) as client, asyncio.timeout(SECONDS):
        payload, thread = job["payload"], job["thread"]
        if "run" in job:
            parts = client.runs.join_stream(
                thread, job["run"], stream_mode=payload["streamMode"], last_event_id=job.get("after")
            )
        else:
            parts = client.runs.stream(
                thread,
                job["assistant"],
                input=payload["input"],
                context=payload["context"],
                stream_mode=payload["streamMode"],
                on_run_created=created,
            )
        async for part in parts:
            if job.get("cancel") and part.event == "messages" and "messages" not in names(done):
                await client.runs.cancel(thread, done["run"])
            done["parts"].append({"id": part.id, "event": part.event, "data": part.data})
        if done["run"] and names(done)[-1] in ENDS:
            done["status"] = (await client.runs.get(thread, done["run"]))["status"]
    return done


async def by_javascript(*jobs: Job) -> list[Done]:
    done: list[Done] = await all_said("langgraph.mjs", json.dumps(jobs))
    assert len(done) == len(jobs)
    return done


Client = Callable[..., Coroutine[Any, Any, list[Done]]]
CLIENTS = pytest.mark.parametrize("client", [by_python, by_javascript])


def names(done: Done) -> list[str]:
    return [part["event"] for part in done["parts"]]


def text_of(done: Done) -> str:
    return "".join(part["data"][0]["content"] for part in done["parts"] if part["event"] == "messages")


@pytest.fixture
async def sdk(stage: DialectStage) -> AsyncIterator[LangGraphClient]:
    async with get_client(url=stage.urls[0], api_key=None) as client:
        yield client


@CLIENTS
async def test_streams_a_run_to_its_end(stage: DialectStage, client: Client) -> None:
    """A run is begun by an SDK, comes whole, ends with `end`, and is a success when it is asked for."""
    (done,) = await client(job(stage.urls[0]))
    assert done["error"] is None
    assert text_of(done) == "".join(lorem(TOKENS))
    assert (names(done)[0], names(done)[-1], done["status"]) == ("metadata", "end", "success")


@CLIENTS
async def test_says_all_modes(stage: DialectStage, client: Client) -> None:
    """All modes at once: status and sources as custom data, updates, values, and whole messages."""
    modes = ("values", "messages", PIECES, "updates", "custom")
    (done,) = await client(job(stage.urls[0], "research", "What is an epoch?", modes, context={"model": "demo/echo"}))
    assert {"metadata", "values", "messages/partial", "messages/complete", "messages", "updates", "custom"} <= {
        *names(done)
    }
    whole = next(part["data"][0] for part in done["parts"] if part["event"] == "messages/complete")
    assert whole["content"] == text_of(done)
    custom = [part["data"]["type"] for part in done["parts"] if part["event"] == "custom"]
    assert {*custom} == {"status", "source"}


@CLIENTS
async def test_says_tool_calls(stage: DialectStage, client: Client) -> None:
    """A pipeline's tools: the call, its result as a tool's message, and the answer behind it as another message."""

    async def look(where: str) -> dict[str, str]:
        return {"found": where}

    async def looking(run: Run) -> None:
        await run.answer(tools=[look])

    wire = WIRES["openai-chat"]
    call = ToolCall("c1", "look", {"where": "here"})
    stage.up.plan(reply(wire.answer([call], "tool_calls")), reply(wire.answer([Text("It is here.")])))
    (done,) = await client(
        job(stage.urls[0], piped(looking), modes=["values"], context={"model": "openai-chat/m"}, options={})
    )
    said = done["parts"][-2]["data"]["messages"]
    assert [(message["type"], message["content"]) for message in said[1:]] == [
        ("ai", ""),
        ("tool", '{"found":"here"}'),
        ("ai", "It is here."),
    ]
    assert said[1]["tool_calls"] == [{"type": "tool_call", "id": "c1", "name": "look", "args": {"where": "here"}}]
    assert said[2]["tool_call_id"] == "c1"


@CLIENTS
async def test_error_in_the_middle_is_told(stage: DialectStage, client: Client) -> None:
    """A provider that breaks off in its answer: what was said, then an error, never an end; the run has failed."""
    stage.up.plan(reply(WIRES["openai-chat"].head("half an "), SEVER))
    (done,) = await client(job(stage.urls[0], "openai-chat/m", options={}))
    assert text_of(done).startswith("half an ")
    assert (names(done)[-1], done["status"]) == ("error", "error")
    assert "end" not in names(done)


@CLIENTS
async def test_cancels_a_run(stage: DialectStage, client: Client) -> None:
    """A run that is cancelled stops: its stream ends with an error that says so, and it counts as interrupted."""
    (done,) = await client(job(stage.urls[0], options=SLOW, cancel=True))
    assert (names(done)[-1], done["status"]) == ("error", "interrupted")
    assert done["parts"][-1]["data"]["error"] == "UserInterrupt"
    sid, _, generation = done["run"].rpartition("_")
    end = (await stage.log.events(sid))[-1]
    assert (end.type, end.value["generation"]) == (EventType.CANCELLED, generation)


@CLIENTS
async def test_resumes_by_itself_on_another_node(stage: DialectStage, client: Client) -> None:
    """Streams that are cut at random points go on by themselves on another node: nothing is missing, nothing comes
    twice, and the ids are those of a stream that was never cut."""
    modes = [PIECES, "values", "custom", "updates"]
    chance = random.Random(7)
    async with AsyncExitStack() as stack:
        ways = [
            await stack.enter_async_context(cutting(cycle(stage.ports), iter([chance.randint(*CUT_BYTES)])))
            for _ in range(CUTS)
        ]
        jobs = [job(way.url, options={"tokens": TOKENS, "rate": 600}, modes=modes) for way in ways]
        cut = await client(*jobs)
        assert [way.cuts for way in ways] == [1] * CUTS
    again = [
        {**job, "url": stage.urls[1], "run": done["run"], "after": "-1"} for job, done in zip(jobs, cut, strict=True)
    ]
    for done, whole in zip(cut, await client(*again), strict=True):
        assert done["error"] is None
        assert done["parts"] == whole["parts"]
        assert text_of(done) == "".join(lorem(TOKENS))
        assert (names(done)[-1], done["status"]) == ("end", "success")


@CLIENTS
async def test_joins_behind_any_event(stage: DialectStage, client: Client) -> None:
    """A run that is over is joined behind an event of it: exactly the rest comes."""
    first = job(stage.urls[0])
    (done,) = await client(first)
    places = random.Random(3).sample(range(len(done["parts"]) - 1), 5)
    jobs = [{**first, "url": stage.urls[1], "run": done["run"], "after": done["parts"][n]["id"]} for n in places]
    for n, rest in zip(places, await client(*jobs), strict=True):
        assert rest["parts"] == done["parts"][n + 1 :]


async def test_thread_before_and_after_its_runs(sdk: LangGraphClient) -> None:
    """A thread is named, runs twice, and knows of both; a run that is not waited for can be joined."""
    thread = (await sdk.threads.create())["thread_id"]
    assert (await sdk.threads.get(thread))["status"] == "idle"
    assert (await sdk.threads.get_state(thread))["values"] == {"messages": []}
    await sdk.runs.wait(thread, "demo/echo", input={"messages": "one"})
    said: Any = {"messages": [{"type": "human", "content": "two"}]}
    run = await sdk.runs.create(thread, "agent", input=said)
    values: Any = await sdk.runs.join(thread, run["run_id"])
    assert [message["content"] for message in values["messages"]] == ["one", "one", "two", "two"]
    assert (await sdk.threads.get_state(thread))["values"] == values
    assert [each["run_id"] for each in await sdk.runs.list(thread)] == [run["run_id"], f"{thread}_g1"]
    assert (await sdk.runs.get(thread, f"{thread}_g1"))["status"] == "success"


async def test_follows_a_thread_from_run_to_run(sdk: LangGraphClient) -> None:
    """A thread's own stream tells run after run; joined behind an event of it, it tells exactly the rest."""
    thread = next(_threads)
    await sdk.runs.wait(thread, "demo/echo", input={"messages": "one"})

    async def until_done(runs: int, after: str | None = None) -> list[Any]:
        parts: list[Any] = []
        joined: Any = await sdk.threads.join_stream(thread, last_event_id=after)
        async with asyncio.timeout(SECONDS), aclosing(joined) as stream:
            async for part in stream:
                parts.append(part)
                if [each.event for each in parts].count("run_done") == runs:
                    break
        return parts

    following = asyncio.create_task(until_done(2))
    await sdk.runs.wait(thread, "demo/echo", input={"messages": "two"})
    parts = await following
    assert [part.data["run_id"] for part in parts if part.event == "run_done"] == [f"{thread}_g1", f"{thread}_g2"]
    middle = next(n for n, part in enumerate(parts) if part.event == "run_done")
    assert await until_done(1, parts[middle].id) == parts[middle + 1 :]


async def test_messages_of_the_thread_are_not_said_again(sdk: LangGraphClient) -> None:
    """A client that sends the whole thread, as it was told it, and one message more, has said one message."""
    thread = next(_threads)
    told: Any = await sdk.runs.wait(thread, "demo/echo", input={"messages": "one"})
    more: Any = {"messages": [*told["messages"], {"type": "human", "content": "two"}]}
    values: Any = await sdk.runs.wait(thread, "demo/echo", input=more)
    assert [message["content"] for message in values["messages"]] == ["one", "one", "two", "two"]


async def test_waiting_for_a_failure_is_no_success(stage: DialectStage, sdk: LangGraphClient) -> None:
    """Who waits for a run that fails is told its error."""
    stage.up.plan(reply(WIRES["openai-chat"].head("half "), SEVER))
    with pytest.raises(Exception, match=r"^\w+: ."):
        await sdk.runs.wait(next(_threads), "openai-chat/m", input={"messages": "hi"})


@CLIENTS
async def test_run_that_is_deleted_is_no_success(stage: DialectStage, client: Client) -> None:
    """A stream that breaks off for good, as its thread is deleted, is an error to the SDK: it cannot come back."""
    running = job(stage.urls[0], options=SLOW)
    streaming = asyncio.create_task(client(running))
    await until_it_speaks(stage, running["thread"])
    async with get_client(url=stage.urls[1], api_key=None) as other:
        await other.threads.delete(running["thread"])
    try:
        (done,) = await streaming
    except APIStatusError as error:
        done = {"error": str(error.status_code)}
    assert "404" in done["error"]


async def test_resume_answers_a_question(sdk: LangGraphClient) -> None:
    """A question interrupts the thread; `command.resume` answers it, and the same run goes on from there."""
    thread, asked = next(_threads), asyncio.Event()
    heard: list[Any] = []

    async def listen() -> None:
        async for part in sdk.runs.stream(
            thread, "trip", input={"messages": "the sea"}, context={"model": "demo/echo"}, stream_mode=["updates"]
        ):
            heard.append(part)
            if part.event == "updates" and "__interrupt__" in part.data:
                asked.set()

    listening = asyncio.create_task(listen())
    await asyncio.wait_for(asked.wait(), SECONDS)
    assert (await sdk.threads.get(thread))["status"] == "interrupted"
    asked.clear()
    await sdk.runs.create(thread, "trip", command={"resume": "A weekend"})
    await asyncio.wait_for(asked.wait(), SECONDS)
    rest = [part async for part in sdk.runs.stream(thread, "trip", command={"resume": "food"}, stream_mode=["values"])]
    await asyncio.wait_for(listening, SECONDS)
    assert [part.event for part in rest] == ["values", "end"]
    assert heard[-1].event == "end"
    assert "with food" in rest[-2].data["messages"][-1]["content"]
    assert heard[-1].id == rest[-1].id


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"stream_mode": "events"}, "stream_mode"),
    ({"on_disconnect": "cancel"}, "on_disconnect"),
    ({"multitask_strategy": "rollback"}, "multitask_strategy"),
    ({"interrupt_before": ["agent"]}, "interrupt_before"),
    ({"webhook": "http://127.0.0.1:9"}, "webhook"),
    ({"after_seconds": 5}, "after_seconds"),
    ({"input": {"messages": []}}, "messages"),
    ({"input": {"messages": "hi", "other": 1}}, "other"),
    ({"input": {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}}, "content"),
    ({"assistant_id": "nobody/m"}, "model"),
    ({"unheard_of": 1}, "unheard_of"),
    ({"input": {"messages": "\ud800"}}, "nicode"),
]


@pytest.mark.parametrize(("said", "named"), REFUSED, ids=lambda each: each if isinstance(each, str) else "")
async def test_refuses_what_it_cannot_do(stage: DialectStage, said: dict[str, Any], named: str) -> None:
    """A field of which nothing would come is refused by its name, and nothing is started."""
    body = {"assistant_id": "demo/echo", "input": {"messages": "hi"}, **said}
    thread = next(_threads)
    async with httpx.AsyncClient(base_url=stage.urls[0]) as client:
        sent: Any = {"content": json.dumps(body), "headers": {"content-type": "application/json"}}
        response = await client.post(f"/threads/{thread}/runs/stream", **sent)
        assert response.status_code in (400, 422)
        assert named in response.json()["error"]["message"]
        assert (await client.get(f"/threads/{thread}/runs")).json() == []


async def test_refusals_reach_the_sdk(sdk: LangGraphClient) -> None:
    """What is refused is raised by the SDK with its message: a run that is not there, a thread that is busy."""
    with pytest.raises(APIStatusError, match="no session") as caught:
        await sdk.runs.get(next(_threads), "nobody_g1")
    assert caught.value.status_code == 404
    thread = next(_threads)
    run = await sdk.runs.create(thread, "demo/lorem", input={"messages": "hi"}, context={"options": SLOW})
    with pytest.raises(APIStatusError, match="still running"):
        await sdk.runs.create(thread, "demo/lorem", input={"messages": "more"})
    await sdk.runs.cancel(thread, run["run_id"], wait=True)
    assert (await sdk.runs.get(thread, run["run_id"]))["status"] == "interrupted"
    with pytest.raises(APIStatusError, match="exists already"):
        await sdk.threads.create(thread_id=thread)
