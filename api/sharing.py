"""Work that many ask for at the same moment is done once."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar

T = TypeVar("T")

Spawn = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]


class Sharing:
    """Whoever asks while the same is under way gets its result, or its error. One that goes does not take it away."""

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn
        self._under_way: dict[Hashable, asyncio.Task[Any]] = {}

    async def one(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await asyncio.shield(self.begin(key, work))

    def begin(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """The same for who does not wait: it is under way now."""
        task = self._under_way.get(key)
        if task is None or task.done():  # what is done is old: it may not have seen what this caller has
            task = self._under_way[key] = self._spawn(work())
            task.add_done_callback(lambda done: self._forget(key, done))
        return task

    def __contains__(self, key: Hashable) -> bool:
        task = self._under_way.get(key)
        return task is not None and not task.done()

    def _forget(self, key: Hashable, done: asyncio.Task[Any]) -> None:
        if self._under_way.get(key) is done:
            del self._under_way[key]
