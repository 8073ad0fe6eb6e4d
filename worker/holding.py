"""A generation a worker holds: how the outside world reaches it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum

from pydantic_core import from_json


class Verdict(Enum):
    STOP = "stop"
    RELEASE = "release"
    TIMEOUT = "timeout"
    EXCESS = "excess"


class Holding:
    """Stop, answers, release and limits arrive here, from whichever channel is first; repeats are harmless."""

    def __init__(self, sid: str, generation: str) -> None:
        self.sid = sid
        self.generation = generation
        self.by = ""
        """Who asked to stop; meaningful once the verdict is STOP. Empty: the session's hash says it."""
        self.verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        """The first one counts."""
        self.over = False
        """Its end is in the log, and only being repeated."""
        self.check: Callable[[], None] = lambda: None
        """Makes the writer ask the log whether the pen is still its own."""
        self._answers: dict[str, asyncio.Future[dict[str, str]]] = {}
        self._leaving = False
        self._waiting = False
        """For the user's answer."""

    def stop(self, by: str = "") -> None:
        if by and not self.verdict.done():
            self.by = by
        self._decide(Verdict.STOP)

    def release(self) -> None:
        self._decide(Verdict.RELEASE)

    def expire(self) -> None:
        """It has used up its time."""
        self._decide(Verdict.TIMEOUT)

    def exceed(self) -> None:
        """It keeps more than the worker has room for."""
        self._decide(Verdict.EXCESS)

    def leave(self) -> None:
        """The worker will stop soon. A generation may end before, but one that waits for its user need not stay: the
        next worker waits as well as this one."""
        self._leaving = True
        if self._waiting:
            self.release()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Meanwhile nothing happens but that the user is waited for. One at a time."""
        self._waiting = True
        if self._leaving:
            self.release()
        try:
            yield
        finally:
            self._waiting = False

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
