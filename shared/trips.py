"""Questions to Redis that are asked at the same moment share round trips."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shared.topology.client import raise_first
from shared.topology.cluster import Cluster

AT_ONCE = 2
"""Round trips under way at once, to each master: the connections beyond are left to everybody else."""
QUESTIONS = 64
"""Most questions of one trip."""
WEIGHT = 4000
"""Most entries of one trip, unless one question alone asks for more: Redis answers nobody else meanwhile, and nobody
else runs in the event loop while the replies are parsed."""

Command = tuple[Any, ...]


@dataclass(eq=False)
class _Question:
    commands: tuple[Command, ...]
    weight: int
    replies: asyncio.Future[list[Any]] = field(default_factory=asyncio.Future)
    """Cancelled when its caller was; done by nobody but the trip its question is on."""


class _Lane:
    """What is asked in one turn of the event loop goes out together; what is asked while all trips are under way goes
    with the next one. So a thousand who ask at once need two connections, and a slow Redis makes trips longer instead
    of more."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._waiting: list[_Question] = []
        self._trips: set[asyncio.Task[None]] = set()

    async def ask(self, question: _Question) -> list[Any]:
        self._waiting.append(question)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._depart)
        return await question.replies

    def _depart(self, over: asyncio.Task[None] | None = None) -> None:
        """`over`: the trip whose end makes room."""
        if over is not None:
            self._trips.discard(over)
        while self._waiting and len(self._trips) < AT_ONCE:
            trip = asyncio.create_task(self._trip(self._board()))
            trip.add_done_callback(self._depart)
            self._trips.add(trip)

    def _board(self) -> list[_Question]:
        """Those of the next trip, in the order in which they came."""
        count = weight = 0
        for question in self._waiting[:QUESTIONS]:
            weight += question.weight
            if count and weight > WEIGHT:
                break
            count += 1
        questions, self._waiting = self._waiting[:count], self._waiting[count:]
        return [question for question in questions if not question.replies.done()]

    async def _trip(self, questions: list[_Question]) -> None:
        """Ends with every question answered. Cancelled, which the end of the loop may do, it cancels those who wait."""
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for question in questions:
                    for command in question.commands:
                        pipe.execute_command(*command)
                replies = await pipe.execute(raise_on_error=False)
            for question in questions:
                count = len(question.commands)
                own, replies = replies[:count], replies[count:]
                if not question.replies.done():
                    question.replies.set_result(own)
        except Exception as error:  # noqa: BLE001 - raised where the replies are awaited
            for question in questions:
                if not question.replies.done():
                    question.replies.set_exception(error)
        finally:
            for question in questions:
                question.replies.cancel()


class Trips:
    """Carries questions, each of one or more commands that only read, so that they are harmless when repeated.

    In a Cluster only what is asked of one master travels together: one that is slow or gone must not delay the others.
    """

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self.lane: Callable[[str], str] = redis.lane if isinstance(redis, Cluster) else lambda _: ""
        """Names the trips that a question about a key goes with."""
        self._lanes: dict[str, _Lane] = {}
        """One for each master there ever was."""

    async def ask(self, key: str, *commands: Command, weight: int = 1) -> list[Any]:
        """One reply for each command; they are carried out in order. `key` is one of those asked about, `weight` about
        the number of entries in the replies. Raises RedisError: of the connection, or the first one that is a reply.

        The question is put after this was called: the replies are never older. One who is cancelled gives up the
        replies, and nothing else.
        """
        lane = self.lane(key)
        if lane not in self._lanes:
            self._lanes[lane] = _Lane(self._redis)
        replies = await self._lanes[lane].ask(_Question(commands, weight))
        raise_first(replies)
        return replies
