"""A provider that speaks by the clock, and notes how fast it is listened to."""

import asyncio
import time
from collections.abc import AsyncGenerator

from worker.providers.base import Finish, ModelRequest, Part, Provider, Text, Usage
from worker.providers.registry import Providers
from worker.providers.source import Link


class Paced:
    """Says `chunks` words, each at its own absolute deadline."""

    def __init__(self, chunks: int, rate: float) -> None:
        self.chunks = chunks
        self._rate = rate
        self.first_at_ms = 0.0
        """When the first word was said, in ms since 1970."""
        self.taken_s = 0.0
        """From saying the first word until the last one was taken. Meaningful once the answer is over."""

    @property
    def text(self) -> str:
        return "".join(map(_word, range(self.chunks)))

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Part, None]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        self.first_at_ms = time.time() * 1000
        for n in range(self.chunks):
            await asyncio.sleep(max(0.0, start + n / self._rate - loop.time()))
            yield Text(_word(n))
        self.taken_s = loop.time() - start
        yield Usage(1, self.chunks)
        yield Finish("stop")

    async def aclose(self) -> None:
        return


class Only(Providers):
    """One provider under every name."""

    def __init__(self, provider: Provider) -> None:
        super().__init__(Link(60.0, 0), {})
        self._provider = provider

    def get(self, model: str) -> tuple[Provider, str]:
        return self._provider, model


def _word(n: int) -> str:
    return f"w{n} "
