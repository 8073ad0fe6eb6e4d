"""From a provider's wire format to the client's socket: real SDKs against aimock, through worker, log and node."""

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.support.aimock import aimock
from tests.support.sse import Frame, read_all, text_of
from tests.support.system import System, create, system

ANSWER = "Kelp holds fast — ümläut, 漢字, 🌊 — in any current."
FIXTURES = (
    {"match": {"userMessage": "and then"}, "response": {"content": "Then it rests."}},
    {"match": {"userMessage": "hello"}, "response": {"content": ANSWER}},
    {
        "match": {"userMessage": "cut"},
        "response": {"content": ANSWER},
        "chunkSize": 4,
        "latency": 20,
        "truncateAfterChunks": 4,
    },
    {
        "match": {"userMessage": "refuse"},
        "response": {"error": {"message": "bad key", "type": "authentication_error"}, "status": 401},
    },
)
MODELS = ["openai/gpt-4o", "anthropic/claude-sonnet-4-5"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(module_redis_url: str) -> AsyncIterator[System]:
    async with aimock(*FIXTURES) as url:
        keys = {"OPENAI_API_KEY": "sk-test", "ANTHROPIC_API_KEY": "sk-test"}
        bases = {"OPENAI_BASE_URL": f"{url}/v1", "ANTHROPIC_BASE_URL": url}
        async with system(module_redis_url, environment={**keys, **bases}) as started:
            yield started


async def _run(system: System, model: str, said: str) -> tuple[str, list[Frame]]:
    sid = await create(system.url, model=model, input=said)
    return sid, await read_all(system.url, sid)


@pytest.mark.parametrize("model", MODELS)
async def test_an_answer_arrives_as_the_provider_said_it(running: System, model: str) -> None:
    """Text, usage and finish reason of a real SDK's stream reach the client; a second turn sends the first along."""
    sid, frames = await _run(running, model, "hello")
    assert text_of(frames) == ANSWER
    types = [frame.type for frame in frames if frame.id]
    assert types[:2] == ["message", "generation.started"]
    assert "usage" in types
    assert frames[-1].type == "generation.completed"
    assert frames[-1].data["finish_reason"] == "stop"
    async with httpx.AsyncClient(base_url=running.url) as client:
        response = await client.post(f"/v1/sessions/{sid}/messages", json={"input": "and then"})
        assert response.status_code == 201
    rest = await read_all(running.url, sid, frames[-1].id)
    assert text_of(rest) == "Then it rests."


@pytest.mark.parametrize("model", MODELS)
async def test_a_provider_that_breaks_off_is_a_failure(running: System, model: str) -> None:
    """A stream that is cut ends in generation.failed with what was said before it kept, never in a success."""
    _, frames = await _run(running, model, "cut")
    assert frames[-1].type == "generation.failed"
    assert frames[-1].data["code"] in ("connection_lost", "truncated")
    assert frames[-1].data["retryable"] is True
    assert ANSWER.startswith(text_of(frames))
    assert text_of(frames)


@pytest.mark.parametrize("model", MODELS)
async def test_a_refused_key_is_told_without_the_key(running: System, model: str) -> None:
    """An authentication error is one clear event; the key is in no message."""
    _, frames = await _run(running, model, "refuse")
    assert frames[-1].type == "generation.failed"
    assert frames[-1].data["code"] == "authentication"
    assert frames[-1].data["retryable"] is False
    assert b"sk-test" not in b"".join(frame.raw for frame in frames)
