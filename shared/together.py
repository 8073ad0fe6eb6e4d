"""Scripts that are asked for at the same moment share one round trip to Redis."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import NoScriptError

from shared import scripts

TRIPS = 2
"""Round trips under way at once: the connections beyond are left to everybody else."""
MOST = 64
"""Scripts of one round trip. Redis answers nobody else meanwhile."""


@dataclass(eq=False)
class _Call:
    arguments: tuple[scripts.Argument, ...]
    """What follows the script: number of keys, keys, arguments."""
    reply: asyncio.Future[list[Any]] = field(default_factory=asyncio.Future)
    """Cancelled when its caller was; done by nobody but the trip its call is on."""


class Together:
    """Runs one verb for many callers, each of them as `scripts.run` would.

    What is asked for in one turn of the event loop goes out together; what is asked for while all trips are under way
    goes with the next one. So a Redis that is far away or slow makes trips longer instead of more. A reply finds its
    caller by its place in the trip, and redis-py drops the connection of a trip that was not read to its end: no reply
    can come to another caller. One who is cancelled gives up the reply, and nothing else.
    """

    def __init__(self, redis: Any, verb: str) -> None:
        self._redis = redis
        self._verb = verb
        self._waiting: list[_Call] = []
        self._trips: set[asyncio.Task[None]] = set()

    async def run(self, keys: list[str], *args: scripts.Argument) -> list[Any]:
        """The outcome: see `scripts.run`. Raises RedisError; the script may have run nevertheless."""
        call = _Call((len(keys), *keys, *args))
        self._waiting.append(call)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._depart)
        return await call.reply

    def _depart(self, over: asyncio.Task[None] | None = None) -> None:
        """`over`: the trip whose end makes room."""
        if over is not None:
            self._trips.discard(over)
        while self._waiting and len(self._trips) < TRIPS:
            calls, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            trip = asyncio.create_task(self._trip([call for call in calls if not call.reply.done()]))
            trip.add_done_callback(self._depart)
            self._trips.add(trip)

    async def _trip(self, calls: list[_Call]) -> None:
        """Ends with every call answered. Cancelled, which the end of the loop may do, it cancels those who wait."""
        try:
            unknown = await self._send(calls, "EVALSHA", scripts.digest(self._verb))
            if unknown:  # a server that was restarted, or another one
                await self._send(unknown, "EVAL", scripts.source(self._verb))
        except Exception as error:  # noqa: BLE001 - raised where the reply is awaited
            for call in calls:
                _answer(call, error)
        finally:
            for call in calls:
                call.reply.cancel()

    async def _send(self, calls: list[_Call], how: str, script: str) -> list[_Call]:
        """Answer the calls; gives those that Redis did not know the script of."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for call in calls:
                pipe.execute_command(how, script, *call.arguments)
            replies = await pipe.execute(raise_on_error=False)
        unknown = []
        for call, reply in zip(calls, replies, strict=True):
            if isinstance(reply, NoScriptError):
                unknown.append(call)
            else:
                _answer(call, reply)
        return unknown


class Lanes:
    """The same for a Cluster, where only what is asked of one master can travel together: one that is slow or gone must
    not delay the others."""

    def __init__(self, redis: Any, verb: str) -> None:
        self._redis = redis
        self._verb = verb
        self._lanes: dict[str, Together] = {}
        """One for each master there ever was."""

    async def run(self, keys: list[str], *args: scripts.Argument) -> list[Any]:
        """See `Together.run`."""
        lane = self._redis.lane(keys[0])
        if lane not in self._lanes:
            self._lanes[lane] = Together(self._redis, self._verb)
        return await self._lanes[lane].run(keys, *args)


def _answer(call: _Call, reply: Any) -> None:
    if call.reply.done():
        return
    if isinstance(reply, Exception):
        call.reply.set_exception(reply)
    else:
        call.reply.set_result(reply)
