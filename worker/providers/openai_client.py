"""The client of both OpenAI interfaces."""

from openai import AsyncOpenAI, OpenAIError, Timeout

from worker.providers.source import CONNECT_TIMEOUT_S, READ_MARGIN_S, Lazy, Link, ModelSource, no_key

TOOL_CHOICES = {"auto": "auto", "none": "none", "required": "required"}


def openai_client(source: ModelSource, link: Link) -> Lazy[AsyncOpenAI]:
    def make() -> AsyncOpenAI:
        key = source.api_key()
        timeout = Timeout(link.idle_timeout_s + READ_MARGIN_S, connect=CONNECT_TIMEOUT_S)
        try:
            return AsyncOpenAI(
                api_key=key, base_url=source.base_url, timeout=timeout, max_retries=link.max_retries
            )  # fmt: skip
        except OpenAIError:  # all that can be wrong here is that it found no key
            raise no_key("OPENAI_API_KEY") from None

    return Lazy(make)
