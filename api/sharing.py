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
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = self._spawn(work())
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        result: T = await asyncio.shield(task)
        return result

    def __contains__(self, key: Hashable) -> bool:
        return key in self._under_way
