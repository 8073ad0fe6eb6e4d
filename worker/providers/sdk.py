"""What all SDK providers share: the way from an SDK's stream of chunks to parts."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from typing import Any, Protocol

from shared.telemetry import get_logger
from worker.providers.base import Code, Part, ProviderError
from worker.providers.sdk_errors import as_provider_error
from worker.providers.watchdog import watched

_log = get_logger(__name__)

Chunk = dict[str, Any]
"""What a provider sent, decoded and no more: the SDKs' own models of a chunk cost more than all the rest of its way
into the log. Nothing has checked its shape."""

DRAIN_S = 0.1
"""How long the end of a body is waited for, so that its connection can be used again."""
_BROKE_OFF = frozenset({Code.CONNECTION_LOST, Code.TIMEOUT, Code.IDLE_TIMEOUT})


class Stream(Protocol):
    """What both SDKs call AsyncStream; of `object`, it gives chunks as they are."""

    @property
    def response(self) -> Any: ...
    def __aiter__(self) -> AsyncIterator[Any]: ...
    async def __anext__(self) -> Any: ...
    async def close(self) -> None: ...


class Fold(Protocol):
    """Pure: folds one provider's chunks into parts."""

    whole: bool
    """The answer is complete, though Usage may still come."""
    ended: bool
    """Finish was said."""

    def feed(self, chunk: Chunk) -> list[Part]: ...

    def close(self) -> list[Part]:
        """The chunks are over: the rest, with Finish. Raises ProviderError `truncated` if it is not whole."""
        ...


async def parts(
    open_: Callable[[], Awaitable[Stream]],
    fold: Fold,
    idle_timeout_s: float,
    secrets: Callable[[], Iterable[str]],
) -> AsyncGenerator[Part, None]:
    """Open a stream and give out its parts. `secrets` must not be in an error; asked for when there is one.

    Retries are the SDK's, and all before the first chunk. However this generator ends, the socket is closed
    or back in the pool when it does: the `finally` must stay the only way out.
    """
    stream: Stream | None = None
    try:
        stream = await _opened(open_, idle_timeout_s)
        _log.info("provider answers", request_id=_request_id(stream))
        _untimed(stream)
        async with aclosing(watched(stream, idle_timeout_s)) as chunks:
            async for chunk in chunks:
                for part in _fed(fold, chunk):
                    yield part
                if fold.ended:
                    break
        if fold.ended:
            await _drain(stream)
        else:
            for part in fold.close():
                yield part
    except Exception as caught:  # noqa: BLE001 - whatever it is becomes a ProviderError
        error = _named(as_provider_error(caught, secrets()), stream)
        if not (fold.whole and error.code in _BROKE_OFF):
            raise error from None
        for part in fold.close():  # everything was said: at most the usage is lost
            yield part
    finally:
        if stream is not None:
            await stream.close()


async def _opened(open_: Callable[[], Awaitable[Stream]], within_s: float) -> Stream:
    """Raises ProviderError `idle_timeout` where no status comes in time, all retries of the SDK included."""
    limit = asyncio.timeout(within_s)
    try:
        async with limit:
            return await open_()
    except TimeoutError:
        if limit.expired():
            raise ProviderError(Code.IDLE_TIMEOUT, f"the provider did not answer within {within_s:g} s") from None
        raise


def _untimed(stream: Stream) -> None:
    """From here on the watchdog watches: the transport would set a timer of its own for every chunk, and cancel it."""
    stream.response.request.extensions.get("timeout", {})["read"] = None


def _fed(fold: Fold, chunk: Chunk) -> list[Part]:
    """A chunk of another shape fails where it is used."""
    try:
        return fold.feed(chunk)
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise ProviderError(Code.MALFORMED, f"a chunk of an unknown shape: {error!r:.200}") from error


async def _drain(stream: Stream) -> None:
    # Finish was said: nothing that happens now changes the answer, at worst the connection is not used again.
    with suppress(Exception):
        async with asyncio.timeout(DRAIN_S):
            async for _ in stream:
                pass


def _named(error: ProviderError, stream: Stream | None) -> ProviderError:
    if error.request_id is None and stream is not None:
        error.request_id = _request_id(stream)
    return error


def _request_id(stream: Stream) -> str | None:
    """What the provider calls this request: what one tells its support."""
    headers = stream.response.headers
    found: str | None = headers.get("x-request-id") or headers.get("request-id")
    return found
