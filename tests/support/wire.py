"""A network that is not to be trusted, between the product and a real Redis."""

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
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
    """A Redis client that remembers the scripts it was given, alone or in a pipeline, and fails as `faults` say (one
    per script, in order)."""

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
        sent = self.script(digest, arguments)
        with self.faulty([sent]):
            return await self.again(sent)

    def pipeline(self, *arguments: Any, **options: Any) -> "_Pipeline":
        return _Pipeline(self, self._redis.pipeline(*arguments, **options))

    async def again(self, sent: Sent) -> list[Any]:
        """The same bytes arrive once more: a duplicate, however late."""
        reply: list[Any] = await self._redis.evalsha(scripts.digest(sent.verb), *sent.arguments)
        await self.observed(sent, reply)
        return reply

    # -- for what it hands out

    def script(self, digest: str, arguments: tuple[Any, ...]) -> Sent:
        return Sent(self._verbs[digest], arguments)

    @contextlib.contextmanager
    def faulty(self, calls: Sequence[Sent]) -> Iterator[None]:
        """Around one trip of these calls. Lost with any of them is the whole trip, or all it has to tell."""
        faults = [self.faults.popleft() if self.faults else Fault.NONE for _ in calls]
        if Fault.LOST in faults:
            raise RedisConnectionError("the call was lost")
        self.sent.extend(calls)
        yield
        if Fault.REPLY_LOST in faults:
            raise RedisConnectionError("the reply was lost")

    async def observed(self, sent: Sent, reply: list[Any]) -> None:
        if self._observer is not None:
            await self._observer(sent, reply)


class _Pipeline:
    """A pipeline of the same client: a trip, which arrives or is lost whole."""

    def __init__(self, wire: Wire, pipeline: Any) -> None:
        self._wire = wire
        self._pipeline = pipeline
        self._scripts: dict[int, Sent] = {}
        """By their place in the trip."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    async def __aenter__(self) -> "_Pipeline":
        await self._pipeline.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> None:
        await self._pipeline.__aexit__(*raised)

    def execute_command(self, *command: Any, **options: Any) -> Any:
        if command[0] == "EVALSHA":
            self._scripts[len(self._pipeline)] = self._wire.script(command[1], command[2:])
        return self._pipeline.execute_command(*command, **options)

    async def execute(self, **options: Any) -> list[Any]:
        calls, self._scripts = self._scripts, {}
        with self._wire.faulty([*calls.values()]):
            replies: list[Any] = await self._pipeline.execute(**options)
            for place, sent in calls.items():
                if not isinstance(replies[place], Exception):
                    await self._wire.observed(sent, replies[place])
        return replies
