"""What clients do meanwhile: sessions of all kinds, each with its readers, and what must come of each."""

import asyncio
import contextlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from websockets.exceptions import WebSocketException

from shared.events import EventType
from tests.chaos import audit
from tests.chaos.audit import Turn
from tests.chaos.readers import Course, Reader, Way
from tests.chaos.world import RETRY_S, World, new_key
from tests.support.ws import WS, Closed
from worker.pipelines.knowledge import project_knowledge
from worker.pipelines.research import SOURCES, _digest
from worker.pipelines.trip import _demo_plan
from worker.providers.demo import lorem

TALK_S = 150.0
"""A talk that takes longer hangs."""
ANSWERS = {"How long do you want to be away?": "A weekend"}
OTHER_ANSWER = "nature"
COMPLETED, CANCELLED, FAILED = EventType.COMPLETED, EventType.CANCELLED, EventType.FAILED


class Unexpected(Exception):
    """A request was answered as it must not be."""


@dataclass
class Result:
    """What came of a talk. Everything in the lists is wrong."""

    kind: str
    sid: str = ""
    hung: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    """How each generation ended."""
    attempts: int = 0
    readers: int = 0
    connections: int = 0
    events: int = 0
    silences: int = 0

    @property
    def clean(self) -> bool:
        return not (self.hung or self.lost or self.doubled or self.wrong)


class Talk(ABC):
    """One session from its first request to its audit. Subclasses say what is asked, and what must be answered."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.course = Course()
        self.readers: list[Reader] = []
        self._following: list[asyncio.Task[None]] = []

    @abstractmethod
    async def converse(self) -> None:
        """Ask, and whatever comes after. At the end `course.last` is set."""

    @abstractmethod
    def check(self, turns: Sequence[Turn]) -> list[str]:
        """What is wrong with how the generations ended."""

    async def run(self) -> Result:
        """Ends with the audit; never raises for what the system did."""
        result = Result(type(self).__name__.lower())
        try:
            async with asyncio.timeout(TALK_S):
                await self._talk()
        except TimeoutError:
            states = [f"{r.way.value} at {r.cursor or 'nothing'}" for r in self.readers if not r.over]
            result.hung.append(f"last generation {self.course.last or 'not known'}; waiting: {states}")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
            result.wrong.append(repr(error))
        finally:
            await self._let_go()
        result.sid = self.course.sid
        if self.course.sid and result.clean:
            await self._audit(result)
        return result

    async def _talk(self) -> None:
        conversing = asyncio.create_task(self.converse())
        try:
            while not conversing.done():
                await asyncio.wait({conversing, *self._following}, return_when=asyncio.FIRST_COMPLETED)
                for ended in [task for task in self._following if task.done()]:
                    await ended  # refused: nothing will come of this talk
                if not conversing.done():
                    await asyncio.wait({conversing}, timeout=RETRY_S)
            await conversing
        finally:
            conversing.cancel()
        await asyncio.gather(*self._following)

    async def _let_go(self) -> None:
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        self.world.readers.difference_update(self.readers)

    async def _audit(self, result: Result) -> None:
        log = self.world.log
        events = await self.world.asked(lambda: log.events(self.course.sid))
        view = await self.world.asked(lambda: log.view(self.course.sid))
        turns = audit.turns(events)
        result.wrong += audit.of_log(events, view) + self.check(turns)
        result.ends = [turn.end.type if turn.end else "none" for turn in turns]
        result.attempts = sum(turn.attempts for turn in turns)
        for reader in self.readers:
            account = audit.of_reader(reader, events)
            result.lost += [f"{reader.way.value}: {what}" for what in account.lost]
            result.doubled += [f"{reader.way.value}: {what}" for what in account.doubled]
            result.lost += [f"{reader.way.value}: gap {gap}" for gap in reader.gaps]
            result.readers += 1
            result.connections += reader.connections
            result.events += len(reader.got)
            result.silences += reader.silences

    # -- for subclasses

    async def open(self, body: dict[str, Any]) -> None:
        """Begin the session, and let readers come."""
        answer = await self.world.post("/v1/sessions", {"input": "hello", **body})
        self.course.sid = expect(answer, 201)["id"]
        self.read(Way.SSE)
        for _ in range(self.rng.randint(0, 2)):
            self.read(self.rng.choice(list(Way)), restless=True)

    def read(self, way: Way, *, restless: bool = False, opening: tuple[str, dict[str, Any]] | None = None) -> Reader:
        mood = random.Random(self.rng.random()) if restless else None
        reader = Reader(self.world.url, self.course, way, mood, opening)
        self.readers.append(reader)
        self.world.readers.add(reader)
        self._following.append(asyncio.create_task(reader.follow()))
        return reader

    def last(self, generation: str) -> None:
        self.course.last = generation
        for reader in self.readers:
            reader.told()

    async def said(self, events: int) -> None:
        """Until the first reader has so many events more."""
        first, goal = self.readers[0], len(self.readers[0].got) + events
        await first.until(lambda reader: len(reader.got) >= goal)

    def speech(self) -> tuple[dict[str, Any], str]:
        """Options, and the text that comes of them: some seconds of it."""
        tokens, rate, seed = self.rng.randint(20, 60), self.rng.uniform(6, 14), self.rng.randrange(1 << 30)
        return {"tokens": tokens, "rate": rate, "seed": seed}, "".join(lorem(tokens, seed))

    def endless(self) -> dict[str, Any]:
        return {"tokens": 5000, "rate": 12, "seed": self.rng.randrange(1 << 30)}


def expect(answer: httpx.Response, *statuses: int) -> Any:
    if answer.status_code not in statuses:
        raise Unexpected(f"{answer.request.url.path}: {answer.status_code} {answer.text[:300]}")
    return answer.json()


def said_all(turn: Turn, text: str) -> list[str]:
    if turn.end is None or turn.end.type != COMPLETED:
        return [f"{turn.generation} ended with {turn.end}"]
    return [] if turn.text == text else [f"{turn.generation} said {turn.text!r}, and not {text!r}"]


def broken_off(turn: Turn, options: dict[str, Any]) -> list[str]:
    """By its user, or by a reaper that found it so."""
    whole = "".join(lorem(options["tokens"], options["seed"]))
    if turn.end is None or turn.end.type != CANCELLED:
        return [f"{turn.generation} was stopped, and ended with {turn.end}"]
    return [] if whole.startswith(turn.text) else [f"{turn.generation} said {turn.text!r}"]


class Speech(Talk):
    """A question, an answer."""

    async def converse(self) -> None:
        options, self.text = self.speech()
        await self.open({"options": options})
        self.last("g1")

    def check(self, turns: Sequence[Turn]) -> list[str]:
        return said_all(turns[0], self.text)


class Fragile(Speech):
    """One that is not to be begun again: it may fail when its worker is lost, and so only."""

    async def converse(self) -> None:
        options, self.text = self.speech()
        await self.open({"options": options, "on_crash": "fail"})
        self.last("g1")

    def check(self, turns: Sequence[Turn]) -> list[str]:
        end = turns[0].end
        if end is not None and end.type == FAILED and end.value["code"] == "worker_lost":
            return [] if self.text.startswith(turns[0].text) else [f"said {turns[0].text!r}"]
        return super().check(turns)


class Chat(Talk):
    """One call that begins the session and streams it."""

    async def converse(self) -> None:
        options, self.text = self.speech()
        body = {"message": "hello", "model": "demo/lorem", "options": options}
        self.course.last = "g1"
        first = self.read(Way.CHAT, restless=True, opening=(new_key(), body))
        await first.until(lambda reader: len(reader.got) > 0)
        self.read(self.rng.choice(list(Way)), restless=True)

    def check(self, turns: Sequence[Turn]) -> list[str]:
        return said_all(turns[0], self.text) + [f"{len(turns)} turns"] * (len(turns) != 1)


class Stopped(Talk):
    """Stopped in the middle."""

    async def converse(self) -> None:
        self.options = self.endless()
        await self.open({"options": self.options})
        await self.said(self.rng.randint(3, 40))
        answer = await self.world.post(f"/v1/sessions/{self.course.sid}/stop", {"wait_s": 2, "generation": "g1"})
        expect(answer, 200)
        self.last("g1")

    def check(self, turns: Sequence[Turn]) -> list[str]:
        return broken_off(turns[0], self.options)


class Interrupted(Talk):
    """Asked something else in the middle, over HTTP or over a WebSocket."""

    async def converse(self) -> None:
        self.options = self.endless()
        second, self.text = self.speech()
        await self.open({"options": self.options})
        await self.said(self.rng.randint(3, 40))
        body = {"input": "no, this", "interrupt": True, "options": second}
        if self.rng.random() < 0.5:
            answer = expect(await self.world.post(f"/v1/sessions/{self.course.sid}/messages", body), 201)
        else:
            answer = await self.over_socket({"type": "message", "key": new_key(), **body})
        if answer["generation"] != "g2":
            raise Unexpected(f"{self.course.sid}: interrupted into {answer}")
        self.last("g2")

    async def over_socket(self, frame: dict[str, Any]) -> Any:
        """Repeated until there is a reply; other readers read meanwhile."""
        while True:
            with contextlib.suppress(Closed, OSError, EOFError, WebSocketException):
                path = f"/v1/sessions/{self.course.sid}/ws?after={self.readers[0].cursor}"
                async with asyncio.timeout(10), WS(self.world.url, path) as socket:
                    await socket.send(ref=1, **frame)
                    while "ref" not in (told := await socket.get()):
                        pass
                    if told["type"] == "reply":
                        return told["data"]
                    if told["data"]["code"] != "redis_unavailable":
                        raise Unexpected(f"{self.course.sid}: {told}")
            self.world.retries.append("a command over a WebSocket")
            await asyncio.sleep(RETRY_S)

    def check(self, turns: Sequence[Turn]) -> list[str]:
        if len(turns) != 2:
            return [f"{len(turns)} turns"]
        return broken_off(turns[0], self.options) + said_all(turns[1], self.text)


class Turns(Talk):
    """The next question after the answer."""

    async def converse(self) -> None:
        first, one = self.speech()
        second, two = self.speech()
        self.texts = [one, two]
        await self.open({"options": first})
        await self.readers[0].until(lambda reader: audit.newest(reader.got, COMPLETED) is not None)
        body = {"input": "and then?", "options": second}
        expect(await self.world.post(f"/v1/sessions/{self.course.sid}/messages", body), 201)
        self.last("g2")

    def check(self, turns: Sequence[Turn]) -> list[str]:
        if len(turns) != 2:
            return [f"{len(turns)} turns"]
        return said_all(turns[0], self.texts[0]) + said_all(turns[1], self.texts[1])


class Trip(Talk):
    """A pipeline that asks two questions."""

    async def converse(self) -> None:
        await self.open({"pipeline": "trip", "input": "the sea"})
        self.course.last = "g1"
        seen = {""}
        while True:
            await self.readers[0].until(lambda reader: reader.over or _asked(reader) not in seen)
            if self.readers[0].over:
                return
            question = audit.newest(self.readers[0].got, EventType.QUESTION)
            assert question is not None
            seen.add(question.data["id"])
            await asyncio.sleep(self.rng.uniform(0, 1))  # a person reads it
            body = {"question": question.data["id"], "text": ANSWERS.get(question.data["text"], OTHER_ANSWER)}
            answer = await self.world.post(f"/v1/sessions/{self.course.sid}/answer", body)
            expect(answer, 202, 410)  # 410: another attempt asks anew

    def check(self, turns: Sequence[Turn]) -> list[str]:
        return said_all(turns[0], _demo_plan("A weekend", OTHER_ANSWER))


def _asked(reader: Reader) -> str:
    """The question that is open, as far as this reader knows."""
    question = audit.newest(reader.got, EventType.QUESTION)
    answer = audit.newest(reader.got, EventType.ANSWER)
    if question is None or (answer is not None and answer.id > question.id):
        return ""
    return str(question.data["id"])


class Research(Talk):
    """A pipeline with steps and sources."""

    async def converse(self) -> None:
        await self.open({"pipeline": "research", "input": "What is a cursor?"})
        self.last("g1")

    def check(self, turns: Sequence[Turn]) -> list[str]:
        found = project_knowledge().search("What is a cursor?", SOURCES)
        return said_all(turns[0], _digest("What is a cursor?", found))


class Canary(Talk):
    """A short one, by which it is seen that the system does its work."""

    async def converse(self) -> None:
        answer = await self.world.post("/v1/sessions", {"input": "hello", "options": {"tokens": 3}})
        self.course.sid = expect(answer, 201)["id"]
        self.course.last = "g1"
        self.read(Way.SSE)

    def check(self, turns: Sequence[Turn]) -> list[str]:
        return said_all(turns[0], "".join(lorem(3)))


KINDS: Sequence[Callable[[World, random.Random], Talk]] = (
    Speech, Speech, Chat, Chat, Turns, Turns, Stopped, Interrupted, Trip, Research, Fragile,
)  # fmt: skip
