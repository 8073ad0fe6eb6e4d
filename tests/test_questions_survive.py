"""Questions outlive their workers: what the user said once need not be said again."""

import asyncio
import signal

import pytest

from shared.errors import QuestionGone
from shared.events import Event, EventType, State
from tests.support.generations import *  # noqa: F403 - fixtures are found by name
from tests.support.generations import Said, Stage, completed, logged, piped, started, text
from tests.support.sessions import claim
from tests.support.sse import read_all, text_of
from tests.support.system import create, system
from tests.upstream_fixtures import *  # noqa: F403 - fixtures are found by name
from worker.pipelines import Run

LOREM = "demo/lorem"
QUICK = {"lease_s": 0.6, "heartbeat_s": 0.2}
"""A worker is given up soon."""


async def _two(run: Run) -> None:
    first = await run.ask("First?")
    second = await run.ask("Second?")
    await run.text(f"{first} and {second}")


TWO = piped(_two)


async def asked(stage: Stage, sid: str, count: int = 1) -> Event:
    return await stage.until_event(sid, EventType.QUESTION, count)


def attempt(events: list[Event], number: int) -> list[Said]:
    """What one attempt said, without the names of its questions."""
    log = logged(events)
    starts = [n for n, (kind, _) in enumerate(log) if kind == "generation.started"] + [len(log)]
    said = log[starts[number - 1] : starts[number]]
    return [(kind, {k: v for k, v in data.items() if k not in ("id", "expires_at")}) for kind, data in said]


def question(words: str) -> Said:
    return "question", {"text": words, "choices": None}


def answer(words: str, by: str = "anonymous") -> Said:
    return "answer", {"text": words, "by": by}


async def test_the_next_attempt_is_given_the_earlier_answers(stage: Stage) -> None:
    """A worker stops while its second question is open: only that one is asked again, under another id."""
    async with stage.worker():
        sid = await stage.start(pipeline=TWO)
        await stage.answer(sid, (await asked(stage, sid)).value["id"], "one")
        old = await asked(stage, sid, 2)
    view = await stage.log.view(sid)
    assert view is not None
    assert (view.state, view.crashes) == (State.QUEUED, 0)
    async with stage.worker():
        again = await asked(stage, sid, 4)
        with pytest.raises(QuestionGone):
            await stage.answer(sid, old.value["id"], "to the old one")
        await stage.answer(sid, again.value["id"], "two")
        events = await stage.over(sid)
    assert attempt(events, 1) == [started(LOREM), question("First?"), answer("one"), question("Second?")]
    assert attempt(events, 2) == [
        started(LOREM, 2), question("First?"), answer("one", "earlier"), question("Second?"), answer("two"),
        text("one and two"), completed(),
    ]  # fmt: skip


async def test_the_transcript_shows_each_answer_once(stage: Stage) -> None:
    """A reader that comes after the second attempt sees its questions and answers, not the first one's too."""
    async with stage.worker():
        sid = await stage.start(pipeline=TWO)
        await stage.answer(sid, (await asked(stage, sid)).value["id"], "one")
        await asked(stage, sid, 2)
    async with stage.worker():
        await stage.answer(sid, (await asked(stage, sid, 4)).value["id"], "two")
        await stage.over(sid)
    shown = await stage.answer_of(sid)
    assert [(given.question, given.text) for given in shown.answers] == [("First?", "one"), ("Second?", "two")]
    assert shown.question is None


async def test_an_accepted_answer_outlives_its_worker(stage: Stage) -> None:
    """Its worker was lost before it heard the answer: the next attempt uses it, and does not ask the user again."""
    sid = await stage.start(pipeline=TWO)
    held = await claim(stage.log, sid, worker="lost")
    asks = ("question", b'{"id":"q1","text":"First?","choices":null,"expires_at":null}')
    assert (await stage.log.append(sid, held.token, held.epoch, 2, [asks]))[0] == "OK"
    await stage.answer(sid, "q1", "one")
    async with stage.worker(**QUICK):
        second = await asked(stage, sid, 3)
        assert second.value["text"] == "Second?"
        await stage.answer(sid, second.value["id"], "two")
        events = await stage.over(sid)
    assert attempt(events, 2)[1:3] == [question("First?"), answer("one", "earlier")]
    assert attempt(events, 2)[-2:] == [text("one and two"), completed()]


async def test_an_answer_as_its_worker_stops_is_never_lost(stage: Stage) -> None:
    """Whenever it comes: if it was accepted, the next attempt uses it, and the user is not asked that again."""
    for n in range(10):
        async with stage.worker():
            sid = await stage.start(pipeline=TWO)
            first = await asked(stage, sid)
            late = asyncio.create_task(_answer_soon(stage, sid, first.value["id"]))
            await asyncio.sleep(n * 0.0003)  # so that some answers come before the worker leaves, and some after
        accepted = await late
        async with stage.worker():
            events = await _answer_all(stage, sid)
        expected = "early" if accepted else "answer to First?"
        assert logged(events)[-2:] == [text(f"{expected} and answer to Second?"), completed()]


async def _answer_all(stage: Stage, sid: str) -> list[Event]:
    """Be the user of the second attempt: answer whatever is open, to the end."""
    done: set[str] = set()
    while not (events := await stage.until(sid, lambda now: bool(_open(now, done)) or now[-1].terminal))[-1].terminal:
        (question,) = _open(events, done)
        done.add(question.value["id"])
        await stage.answer(sid, question.value["id"], f"answer to {question.value['text']}")
    return events


def _open(events: list[Event], done: set[str]) -> list[Event]:
    """The question the second attempt waits for an answer to."""
    attempts = [event.value["attempt"] for event in events if event.type == EventType.STARTED]
    last = events[-1]
    return [last] if attempts[-1] == 2 and last.type == EventType.QUESTION and last.value["id"] not in done else []


async def _answer_soon(stage: Stage, sid: str, question: str) -> bool:
    await asyncio.sleep(0.001)
    try:
        await stage.answer(sid, question, "early")
    except QuestionGone:
        return False
    return True


async def test_a_worker_process_that_is_told_to_leave(stage: Stage) -> None:
    """SIGTERM while the user thinks: another worker asks what is still open, and the plan has both answers."""
    leave = {"HOLDFAST_WORKER_GRACE_S": "0"}
    async with system(stage.redis_url, environment=leave) as running:
        sid = await create(running.url, pipeline="trip")
        await stage.answer(sid, (await asked(stage, sid)).value["id"], "A weekend")
        await asked(stage, sid, 2)
        await running.add_worker()
        running.workers[0].signal(signal.SIGTERM)
        assert await running.workers[0].ended() == 0
        last = await asked(stage, sid, 4)
        await stage.answer(sid, last.value["id"], "museums")
        frames = await read_all(running.url, sid)
    given = [frame.data["by"] for frame in frames if frame.type == "answer"]
    assert given == ["anonymous", "earlier", "anonymous"]
    assert "**A weekend**, with museums" in text_of(frames)
    assert frames[-1].type == "generation.completed"
