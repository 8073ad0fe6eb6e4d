"""A network that is not to be trusted, between the product and a real Redis."""

from collections import deque
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from shared import scripts

VERBS = (
    "session_create", "session_message", "session_delete", "generation_claim", "generation_append",
    "generation_release", "generation_reap", "generation_abandon", "generation_stop", "question_answer",
    "session_stage", "session_compact",
)  # fmt: skip


class Fault(Enum):
    NONE = "none"
    LOST = "lost"
    """The call never arrives."""
    REPLY_LOST = "reply lost"
    """The call is carried out; whoever made it is not told."""


class Sent:
    """One call of a script, as it went over the wire: it may arrive again at any time."""

    def __init__(self, verb: str, arguments: tuple[Any, ...]) -> None:
        self.verb = verb
        self.arguments = arguments

    @property
    def argv(self) -> list[str]:
        head = 1 + int(self.arguments[0])  # the number of keys, and the keys
        return [a.decode() if isinstance(a, bytes) else str(a) for a in self.arguments[head:]]

    def __repr__(self) -> str:
        return f"{self.verb}{self.argv}"


Observer = Callable[[Sent, list[Any]], Awaitable[None]]


class Wire:
    """A Redis client that remembers the scripts it was given, and fails as `faults` say (one per call, in order)."""

    def __init__(self, redis: Any, observer: Observer | None = None) -> None:
        self._redis = redis
        self._observer = observer
        self._verbs = {scripts.digest(verb): verb for verb in VERBS}
        self.faults: deque[Fault] = deque()
        self.sent: list[Sent] = []

    async def open(self) -> "Wire":
        """Tell Redis all scripts, so that each call is one EVALSHA."""
        for verb in VERBS:
            await self._redis.script_load(scripts.source(verb))
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def evalsha(self, digest: str, *arguments: Any) -> list[Any]:
        sent = Sent(self._verbs[digest], arguments)
        fault = self.faults.popleft() if self.faults else Fault.NONE
        if fault is Fault.LOST:
            raise RedisConnectionError("the call was lost")
        self.sent.append(sent)
        reply = await self.again(sent)
        if fault is Fault.REPLY_LOST:
            raise RedisConnectionError("the reply was lost")
        return reply

    async def again(self, sent: Sent) -> list[Any]:
        """The same bytes arrive once more: a duplicate, however late."""
        reply: list[Any] = await self._redis.evalsha(scripts.digest(sent.verb), *sent.arguments)
        if self._observer is not None:
            await self._observer(sent, reply)
        return reply
