"""Providers by the first half of a model's name. An SDK is imported when its first model is asked for."""

import asyncio
from collections.abc import Iterable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Final, Self

from shared.errors import UnknownModel
from worker.providers.base import Provider
from worker.providers.demo import Demo
from worker.providers.source import Link, ModelSource, Sdk

__all__ = ["DEFAULT_SOURCES", "ModelSource", "Providers"]

DEFAULT_SOURCES: Final[Mapping[str, ModelSource]] = MappingProxyType(
    {
        "openai": ModelSource("openai-chat"),
        "openai-responses": ModelSource("openai-responses"),
        "anthropic": ModelSource("anthropic"),
        "demo": ModelSource("demo"),
    }
)
_MODULES: Final[Mapping[Sdk, tuple[str, str]]] = {
    "openai-chat": ("openai_chat", "OpenAIChat"),
    "openai-responses": ("openai_responses", "OpenAIResponses"),
    "anthropic": ("anthropic_messages", "AnthropicMessages"),
}


class Providers:
    """One provider, and with it one pool of connections, per prefix. Made when it is first asked for."""

    def __init__(self, link: Link, sources: Mapping[str, ModelSource]) -> None:
        self._link = link
        self._sources = sources
        self._made: dict[str, Provider] = {}

    @classmethod
    def from_settings(
        cls, idle_timeout_s: float, max_retries: int = 2, models: Mapping[str, ModelSource] = DEFAULT_SOURCES
    ) -> Self:
        return cls(Link(idle_timeout_s, max_retries), models)

    def get(self, model: str) -> tuple[Provider, str]:
        """The provider of `provider/name`, and the name. Raises UnknownModel.

        The first one of an SDK imports it, which holds the loop up for about a second: see `warm`.
        """
        prefix, _, name = model.partition("/")
        if prefix not in self._sources or not name:
            raise UnknownModel(model, ", ".join(sorted(self._sources)))
        if prefix not in self._made:
            self._made[prefix] = self._make(self._sources[prefix])
        return self._made[prefix], name

    async def warm(self, prefixes: Iterable[str] | None = None) -> None:
        """Import the SDKs of these prefixes (None: of all) in a thread: no generation then waits for it."""
        for prefix in self._sources if prefixes is None else prefixes:
            if self._sources[prefix].sdk in _MODULES:
                await asyncio.to_thread(_kind, self._sources[prefix].sdk)

    async def aclose(self) -> None:
        made, self._made = self._made, {}
        for provider in made.values():
            await provider.aclose()

    def _make(self, source: ModelSource) -> Provider:
        if source.sdk == "demo":
            return Demo()
        provider: Provider = _kind(source.sdk)(source, self._link)
        return provider


def _kind(sdk: Sdk) -> type:
    module, name = _MODULES[sdk]
    kind: type = getattr(import_module(f"worker.providers.{module}"), name)
    return kind
