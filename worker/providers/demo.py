"""Models that need no key: `lorem` says deterministic text, `echo` says back what user or tool said last."""

import asyncio
import random
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from worker.providers.base import Code, Finish, ModelRequest, Part, ProviderError, Text, Usage
from worker.providers.options import checked_messages, invalid

DEFAULT_TOKENS = 120
MAX_TOKENS = 100_000
_WORDS = """
kelp holdfast current tide stream anchor drift reef pen log epoch reader cursor worker session event token
ocean harbour signal lantern pebble shore and or with under over beyond between a the its their every one no
carries holds follows returns begins ends remembers slowly quietly again once always never
""".split()  # noqa: SIM905 - a list literal of one word a line would be forty lines


IDLE = frozenset(
    {
        "temperature", "top_p", "top_k", "stop", "tool_choice", "parallel_tool_calls", "thinking", "reasoning_effort",
        "reasoning_summary", "response_format", "frequency_penalty", "presence_penalty", "background",
    }
)  # fmt: skip
"""Options of the real models that change nothing here: clients send them to whichever model they try."""


@dataclass(frozen=True)
class DemoOptions:
    tokens: int | None = None
    """Words to say. None: 120 of lorem, all of echo."""
    max_tokens: int | None = None
    """Words after which it is cut off, as the real models are."""
    rate: float = 0.0
    """Words per second; 0: as fast as they are taken."""
    seed: int = 0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "DemoOptions":
        """Raises ProviderError `invalid_request` for a wrong value and for an unknown option."""
        given = {name: value for name, value in options.items() if value is not None and name not in IDLE}
        if unknown := sorted(given.keys() - {"tokens", "max_tokens", "rate", "seed"}):
            raise invalid(f"demo has no option {unknown[0][:64]!r}; it has: max_tokens, rate, seed, tokens")
        found = cls(**given)
        found.check()
        return found

    def check(self) -> None:
        if self.tokens is not None and not (_is_int(self.tokens) and 0 <= self.tokens <= MAX_TOKENS):
            raise invalid(f"tokens must be a whole number from 0 to {MAX_TOKENS}")
        if self.max_tokens is not None and not (_is_int(self.max_tokens) and self.max_tokens >= 1):
            raise invalid("max_tokens must be a whole number, 1 or more")
        if not (_is_int(self.rate) or isinstance(self.rate, float)) or not (isfinite(self.rate) and self.rate >= 0):
            raise invalid("rate must be a number of tokens per second, 0 or more; 0 means as fast as possible")
        if not _is_int(self.seed):
            raise invalid("seed must be a whole number")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class Demo:
    """Each word is one chunk. Nothing is opened, so there is nothing to close."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Part, None]:
        options = DemoOptions.of(request.options)
        words, whole = _answer(request, options)
        async for word in _paced(words, options.rate):
            yield Text(word)
        yield Usage(_count(request), len(words))
        yield Finish("stop" if whole else "length")

    async def aclose(self) -> None:
        return


def lorem(tokens: int = DEFAULT_TOKENS, seed: int = 0) -> list[str]:
    """The words of `demo/lorem`, as they are streamed; joined they are its text. The same everywhere."""
    source = random.Random(seed)
    said: list[str] = []
    left = 0
    for n in range(tokens):
        opening = left == 0
        left = left or 4 + int(source.random() * 9)
        word = _WORDS[int(source.random() * len(_WORDS))]
        left -= 1
        said.append(
            ("" if n == 0 else " ")
            + (word.capitalize() if opening else word)
            + ("." if left == 0 or n == tokens - 1 else "")
        )  # fmt: skip
    return said


def words_of(text: str) -> list[str]:
    """The text in pieces of one word each, with the space around it; joined they are the text."""
    return re.findall(r"\s*\S+(?:\s+\Z)?|\s+", text)


def _answer(request: ModelRequest, options: DemoOptions) -> tuple[Sequence[str], bool]:
    """The words to say, and whether they are all there is."""
    words, whole = _words(request, options)
    return words[: options.max_tokens], whole and len(words) <= (options.max_tokens or len(words))


def _words(request: ModelRequest, options: DemoOptions) -> tuple[Sequence[str], bool]:
    if request.model == "lorem":
        return lorem(DEFAULT_TOKENS if options.tokens is None else options.tokens, options.seed), True
    if request.model == "echo":
        words = words_of(_last_said(request))
        said = words[: options.tokens]
        return said, len(said) == len(words)
    raise ProviderError(Code.NOT_FOUND, f"no demo model {request.model[:64]!r}; there are: echo, lorem")


def _last_said(request: ModelRequest) -> str:
    """By the user, or by a tool."""
    said = [message["content"] for message in checked_messages(request) if message["role"] in ("user", "tool")]
    if not said:
        raise invalid("echo needs a user message")
    return _plain(said[-1])


def _plain(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def _count(request: ModelRequest) -> int:
    return sum(len(_plain(message.get("content")).split()) for message in request.messages)


async def _paced(words: Sequence[str], rate: float) -> AsyncGenerator[str, None]:
    """By absolute deadlines: a late word does not delay the ones after it. Yields to the loop before each."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    for n, word in enumerate(words):
        await asyncio.sleep(max(0.0, start + n / rate - loop.time()) if rate else 0)
        yield word
