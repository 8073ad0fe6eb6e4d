"""Fixtures of the provider tests: every provider of an SDK, reaching one scripted upstream."""

from collections.abc import AsyncIterator, Sequence
from itertools import groupby

import pytest

from tests.upstream import Upstream
from tests.upstream_frames import ChatWire, MessagesWire, Refusal, ResponsesWire, Wire
from worker.providers.base import ModelRequest, Part, Provider, ProviderError, Reasoning, Text
from worker.providers.registry import ModelSource, Providers
from worker.providers.source import Sdk

KEY = "secret-of-the-tests"
WIRES: dict[Sdk, Wire] = {
    "openai-chat": ChatWire(),
    "openai-responses": ResponsesWire(),
    "anthropic": MessagesWire(),
}
HELLO = ModelRequest("m", [{"role": "user", "content": "hi"}])


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


@pytest.fixture(params=WIRES)
def sdk(request: pytest.FixtureRequest) -> Sdk:
    sdk: Sdk = request.param
    return sdk


@pytest.fixture
def wire(sdk: Sdk) -> Wire:
    return WIRES[sdk]


@pytest.fixture
async def providers(up: Upstream, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Providers]:
    """Every wire format under its own name, all of them reaching `up`."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("UP_KEY", KEY)
    sources: dict[str, ModelSource] = {sdk: ModelSource(sdk, up.url, "UP_KEY") for sdk in WIRES}
    providers = Providers.from_settings(5.0, models=sources)
    yield providers
    await providers.aclose()


@pytest.fixture
def provider(providers: Providers, sdk: Sdk) -> Provider:
    return providers.get(f"{sdk}/m")[0]


async def said(provider: Provider, request: ModelRequest = HELLO) -> list[Part]:
    """All parts, neighbouring text joined."""
    return joined([part async for part in provider.stream(request)])


def joined(parts: Sequence[Part | Refusal]) -> list[Part]:
    out: list[Part] = []
    for kind, run in groupby(parts, lambda part: Text if isinstance(part, Refusal) else type(part)):
        if kind in (Text, Reasoning):
            out.append(kind("".join(part.text for part in run)))  # type: ignore[union-attr]  # kind says it
        else:
            out += run  # type: ignore[arg-type]  # a Refusal counts as Text
    return out


async def failed(provider: Provider, request: ModelRequest = HELLO) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await said(provider, request)
    return caught.value
