"""A generation a worker holds: how the outside world reaches it."""

import asyncio
from collections.abc import Callable
from enum import Enum

from pydantic_core import from_json


class Verdict(Enum):
    STOP = "stop"
    RELEASE = "release"


class Holding:
    """Stop, answers and release arrive here, from whichever channel is first; repeats are harmless."""

    def __init__(self, sid: str, generation: str) -> None:
        self.sid = sid
        self.generation = generation
        self.by = "user"
        """Who asked to stop; meaningful once the verdict is STOP."""
        self.verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self.over = False
        """Its end is in the log, and only being repeated."""
        self.check: Callable[[], None] = lambda: None
        """Makes the writer ask the log whether the pen is still its own."""
        self._answers: dict[str, asyncio.Future[dict[str, str]]] = {}

    def stop(self, by: str = "") -> None:
        if by and not self.verdict.done():
            self.by = by
        self._decide(Verdict.STOP)

    def release(self) -> None:
        self._decide(Verdict.RELEASE)

    def answer(self, stored: str) -> None:
        """`stored` is the answer as the session's hash has it."""
        answer = from_json(stored)
        waiting = self._answers.get(answer["question"])
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def expect_answer(self, question: str) -> asyncio.Future[dict[str, str]]:
        return self._answers.setdefault(question, asyncio.get_running_loop().create_future())

    def _decide(self, verdict: Verdict) -> None:
        if not self.verdict.done():
            self.verdict.set_result(verdict)
