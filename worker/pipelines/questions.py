"""Questions: a pipeline asks the user, waits, and goes on with the answer."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from shared.events import Event, EventType
from shared.ids import new_token
from shared.log import Log
from shared.redis import RedisError
from shared.telemetry import get_logger
from worker.clock import Clock, tool_clock
from worker.holding import Holding
from worker.writer import Writer

_log = get_logger(__name__)

RETRY_S = 0.25


class QuestionExpired(Exception):
    """Nobody answered in time."""


@dataclass(frozen=True)
class Earlier:
    """Answers the user gave to earlier attempts at this generation: they need not be given again."""

    answers: Mapping[tuple[int, str], str]
    """(how many questions came before it, its text) → the answer."""

    @classmethod
    def of(cls, events: Sequence[Event], generation: str, stored: str) -> "Earlier":
        """From the log; `stored` is one that was accepted as its worker was lost, as the session's hash has it."""
        asked: dict[str, tuple[int, str]] = {}
        answers: dict[tuple[int, str], str] = {}
        count = 0
        for event in of_generation(events, generation):
            if event.type == EventType.STARTED:
                count = 0
            elif event.type == EventType.QUESTION:
                asked[event.value["id"]] = (count, event.value["text"])
                count += 1
            elif event.type == EventType.ANSWER and event.value["by"] != "expiry":
                answers[asked[event.value["id"]]] = event.value["text"]
        last = from_json(stored) if stored else {}
        if last.get("question") in asked:
            answers[asked[last["question"]]] = last["text"]
        return cls(answers)


def of_generation(events: Sequence[Event], generation: str) -> Sequence[Event]:
    starts = [n for n, e in enumerate(events) if e.type == EventType.STARTED and e.value["generation"] == generation]
    return events[starts[0] :] if starts else []


class Questions:
    """The questions of one attempt. One is open at a time."""

    def __init__(self, log: Log, writer: Writer, holding: Holding, clock: Clock, earlier: Earlier) -> None:
        self._log = log
        self._writer = writer
        self._holding = holding
        self._clock = clock
        """The generation's limit of time: waiting for the user does not count."""
        self._earlier = earlier
        self._asked = 0
        self._one_at_a_time = asyncio.Lock()

    async def ask(self, text: str, choices: Sequence[str] | None, timeout_s: float) -> str:
        """Raises QuestionExpired. While it waits, also for another question's answer, no limit of time runs."""
        with ExitStack() as pauses:
            pauses.enter_context(self._clock.paused())
            if (tool := tool_clock.get()) is not None:
                pauses.enter_context(tool.paused())
            return await self._ask(text, choices, timeout_s)

    async def _ask(self, text: str, choices: Sequence[str] | None, timeout_s: float) -> str:
        async with self._one_at_a_time:
            place = (self._asked, text)
            self._asked += 1
            question = new_token()[:16]
            deadline_ms = _now_ms() + int(timeout_s * 1000)
            expected = self._holding.expect_answer(question)
            self._writer.event(EventType.QUESTION, _question(question, text, choices, deadline_ms))
            if (given := self._earlier.answers.get(place)) is not None:
                self._answered(question, given, "earlier")
                return given
            try:
                with self._holding.waiting():
                    answer = await self._wait(expected, question, deadline_ms)
            except asyncio.CancelledError:
                if not self._holding.verdict.done():  # only the question is given up, not the attempt
                    self._answered(question, None, "withdrawal")
                raise
            if answer is None:
                self._answered(question, None, "expiry")
                raise QuestionExpired(f"nobody answered within {timeout_s:g} s: {text}")
            self._answered(question, answer["text"], answer["by"])
            return answer["text"]

    def _answered(self, question: str, text: str | None, by: str) -> None:
        self._writer.event(EventType.ANSWER, {"id": question, "text": text, "by": by})

    async def _wait(
        self, expected: asyncio.Future[dict[str, str]], question: str, deadline_ms: int
    ) -> dict[str, str] | None:
        """The answer, or None when the time is over by Redis' clock: until then the log accepts one, and it counts."""
        left_s = (deadline_ms - _now_ms()) / 1000
        while True:
            done, _ = await asyncio.wait({expected}, timeout=max(left_s, 0))
            if done:
                return expected.result()
            try:
                now_ms, stored = await self._log.answer_of(self._holding.sid, question)
            except RedisError as error:
                _log.warning("open question could not be looked at; trying again", error=str(error))
                left_s = RETRY_S
                continue
            if stored:
                return dict(from_json(stored))
            if now_ms > deadline_ms:
                return None
            left_s = (deadline_ms - now_ms) / 1000 + 0.001


def _question(question: str, text: str, choices: Sequence[str] | None, deadline_ms: int) -> dict[str, Any]:
    return {
        "id": question,
        "text": text,
        "choices": list(choices) if choices is not None else None,
        "expires_at": deadline_ms,
    }


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
