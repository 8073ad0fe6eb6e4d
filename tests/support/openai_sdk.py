"""OpenAI's Python SDK, pointed at the nodes of a `DialectStage` by its base URL alone."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from openai.types.responses import Response

from tests.support.dialect_stage import SECONDS, DialectStage
from tests.upstream_fixtures import WIRES
from tests.upstream_frames import Wire

HELLO = "hello out there"
ENDLESS: dict[str, Any] = {"options": {"tokens": 50_000, "rate": 100}}
"""For extra_body: a demo model that speaks until it is stopped."""


def sdk(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=SECONDS)


@pytest_asyncio.fixture(loop_scope="module")
async def client(stage: DialectStage) -> AsyncIterator[AsyncOpenAI]:
    async with sdk(stage.urls[0]) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def other(stage: DialectStage) -> AsyncIterator[AsyncOpenAI]:
    """The same SDK at the other node."""
    async with sdk(stage.urls[1]) as made:
        yield made


@pytest.fixture(params=sorted(WIRES))
def provider(request: pytest.FixtureRequest) -> tuple[str, Wire]:
    return f"{request.param}/m", WIRES[request.param]


async def over(client: AsyncOpenAI, response_id: str) -> Response:
    """The response when it is over, by its stream."""
    async for _ in await client.responses.retrieve(response_id, stream=True):
        pass
    return await client.responses.retrieve(response_id)


def id_of(stream: Any) -> str:
    """Of a response that was just created."""
    return f"resp_{stream.response.headers['holdfast-session']}_g1"
