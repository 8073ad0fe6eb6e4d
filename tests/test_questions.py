"""Questions: a pipeline asks, the session waits, one answer counts, and neither crash nor deadline loses it."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from shared.errors import QuestionGone
from shared.events import Event, EventType, State
from tests.support.generations import *  # noqa: F403 - fixtures are found by name
from tests.support.generations import Said, Stage, bad_end, cancelled, completed, logged, piped, started, text
from tests.support.inprocess import live_node
from tests.support.sse import SSE, Frame, events_path
from tests.upstream import Upstream, reply
from tests.upstream_fixtures import *  # noqa: F403 - fixtures are found by name
from tests.upstream_fixtures import WIRES
from worker.pipelines import Run
from worker.pipelines.questions import QuestionExpired
from worker.providers.base import Text, ToolCall

LOREM = "demo/lorem"


async def _colour(run: Run) -> None:
    await run.text("You like " + await run.ask("Which colour?"))


COLOUR = piped(_colour)


async def asked(stage: Stage, sid: str, count: int = 1) -> Event:
    """The log's question number `count`, as soon as it is there."""
    return await stage.until_event(sid, EventType.QUESTION, count)


async def state(stage: Stage, sid: str) -> State:
    view = await stage.log.view(sid)
    assert view is not None
    return view.state


def answered(question: Event, text: str | None, by: str = "anonymous") -> Said:
    return "answer", {"id": question.value["id"], "text": text, "by": by}


def put(question: Event) -> Said:
    return "question", question.value


# -- asking and answering


async def test_a_question_is_answered(stage: Stage) -> None:
    """Question, answer, and what came of it are in the log; in between the session waits."""
    async with stage.worker():
        sid = await stage.start(pipeline=COLOUR)
        question = await asked(stage, sid)
        assert await state(stage, sid) is State.WAITING
        await stage.answer(sid, question.value["id"], "red 🐙")
        events = await stage.over(sid)
    assert question.value["text"] == "Which colour?"
    expected = [started(LOREM), put(question), answered(question, "red 🐙"), text("You like red 🐙"), completed()]
    assert logged(events) == expected


async def test_an_answer_counts_once(stage: Stage) -> None:
    """Its repeat is told the same, another one that it is too late; before and after the pipeline heard it."""
    async with stage.worker():
        sid = await stage.start(pipeline=COLOUR)
        name = (await asked(stage, sid)).value["id"]
        with pytest.raises(QuestionGone):
            await stage.answer(sid, "another-question", "red")
        await stage.answer(sid, name, "red", "key-1")
        for _ in range(2):
            await stage.answer(sid, name, "red", "key-1")
            with pytest.raises(QuestionGone):
                await stage.answer(sid, name, "blue", "key-2")
            with pytest.raises(QuestionGone):
                await stage.answer(sid, name, "blue")
            events = await stage.over(sid)
    assert [value["text"] for kind, value in logged(events) if kind == "answer"] == ["red"]


async def test_many_answers_at_once(stage: Stage) -> None:
    """Of twenty at the same time one is taken, and it is the one the pipeline hears."""
    async with stage.worker():
        sid = await stage.start(pipeline=COLOUR)
        name = (await asked(stage, sid)).value["id"]
        answers = [stage.answer(sid, name, f"colour {n}") for n in range(20)]
        outcomes = await asyncio.gather(*answers, return_exceptions=True)
        events = await stage.over(sid)
    (taken,) = [n for n, outcome in enumerate(outcomes) if outcome is None]
    assert text(f"You like colour {taken}") in logged(events)


async def test_a_question_over_http(stage: Stage) -> None:
    """A client that reloads sees the open question, answers it with 202, and a second one is told 410."""
    async with live_node(stage.redis_url) as node, stage.worker(), httpx.AsyncClient(base_url=node.url) as client:
        sid = await stage.start(pipeline=COLOUR)
        frame = await _frame(node.url, sid, "question")
        shown = (await client.get(f"/v1/sessions/{sid}")).json()
        assert shown["state"] == "waiting"
        assert shown["messages"][-1]["question"] == frame.data
        body = {"question": frame.data["id"], "text": "red"}
        codes = [await _post(client, sid, body, key) for key in ("a", "a", "b")]
        await stage.over(sid)
        codes += [await _post(client, sid, body, key) for key in ("a", "b")]
        shown = (await client.get(f"/v1/sessions/{sid}")).json()["messages"][-1]
    assert codes == [(202, None), (202, None), (410, "question_gone"), (202, None), (410, "question_gone")]
    assert shown["question"] is None
    assert shown["answers"] == [{"id": frame.data["id"], "question": "Which colour?", "text": "red"}]


async def _frame(url: str, sid: str, kind: str) -> Frame:
    """The first event of this kind, as a reader that comes now is sent it."""
    async with SSE(url, events_path(sid)) as reader, asyncio.timeout(10):
        return await anext(frame async for frame in reader.frames() if frame.type == kind)


async def _post(client: httpx.AsyncClient, sid: str, body: Any, key: str) -> tuple[int, str | None]:
    response = await client.post(f"/v1/sessions/{sid}/answer", json=body, headers={"Idempotency-Key": key})
    error = response.json().get("error")
    return response.status_code, error and error["code"]


async def test_choices_are_an_offer(stage: Stage) -> None:
    """They are in the question, in their order; the user may say something else."""

    async def offer(run: Run) -> None:
        await run.text(await run.ask("Which?", choices=("red", "blue")))

    async with stage.worker():
        sid = await stage.start(pipeline=piped(offer))
        question = await asked(stage, sid)
        await stage.answer(sid, question.value["id"], "mauve")
        events = await stage.over(sid)
    assert question.value["choices"] == ["red", "blue"]
    assert text("mauve") in logged(events)


async def _two(run: Run) -> None:
    first = await run.ask("First?")
    second = await run.ask("Second?")
    await run.text(f"{first} and {second}")


TWO = piped(_two)


async def test_two_questions_in_a_row(stage: Stage) -> None:
    """Each has its own id and answer; an answer to the first is not taken for the second."""
    async with stage.worker():
        sid = await stage.start(pipeline=TWO)
        first = await asked(stage, sid)
        await stage.answer(sid, first.value["id"], "one")
        second = await asked(stage, sid, 2)
        with pytest.raises(QuestionGone):
            await stage.answer(sid, first.value["id"], "again")
        assert await state(stage, sid) is State.WAITING
        await stage.answer(sid, second.value["id"], "two")
        events = await stage.over(sid)
    assert first.value["id"] != second.value["id"]
    talk = [put(first), answered(first, "one"), put(second), answered(second, "two")]
    assert logged(events)[1:] == [*talk, text("one and two"), completed()]


async def test_questions_side_by_side_are_asked_one_by_one(stage: Stage) -> None:
    """One question is open at a time, whatever the pipeline does."""

    async def both(run: Run) -> None:
        await run.text(" ".join(await asyncio.gather(run.ask("A?"), run.ask("B?"))))

    async with stage.worker():
        sid = await stage.start(pipeline=piped(both))
        for n in (1, 2):
            question = await asked(stage, sid, n)
            await stage.answer(sid, question.value["id"], question.value["text"].lower())
        log = logged(await stage.over(sid))
    assert [kind for kind, _ in log][1:5] == ["question", "answer", "question", "answer"]
    assert text("a? b?") in log


async def test_a_tool_may_ask(stage: Stage, up: Upstream) -> None:
    """A model's tool asks the user; the answer is its result."""

    async def ask_first(run: Run) -> None:
        async def permit(what: str) -> str:
            return await run.ask(f"May I {what}?")

        await run.answer(tools=[permit])

    wire = WIRES["anthropic"]
    call = ToolCall("t1", "permit", {"what": "dive"})
    up.plan(reply(wire.answer([call], "tool_calls")), reply(wire.answer([Text("Splash.")])))
    async with stage.worker():
        sid = await stage.start(model="anthropic/m", pipeline=piped(ask_first))
        question = await asked(stage, sid)
        await stage.answer(sid, question.value["id"], "yes")
        log = logged(await stage.over(sid))
    assert ("tool.result", {"id": "t1", "output": "yes", "error": None}) in log
    assert log[-1] == completed()


# -- time


async def test_a_question_nobody_answers_expires(stage: Stage) -> None:
    """An answer by `expiry` closes it, the generation fails, and may be tried again."""
    async with stage.worker(question_timeout_s=0.05):
        sid = await stage.start(pipeline=COLOUR)
        question = await asked(stage, sid)
        events = await stage.over(sid)
        with pytest.raises(QuestionGone):
            await stage.answer(sid, question.value["id"], "red")
    expired = [put(question), answered(question, None, "expiry"), bad_end("question_expired", retryable=True)]
    assert logged(events)[1:] == expired
    assert events[3].at > events[2].value["expires_at"]
    assert question.value["expires_at"] - question.at <= 50


async def test_a_pipeline_may_go_on_without_an_answer(stage: Stage) -> None:
    """It catches QuestionExpired, and may ask another question."""

    async def shy(run: Run) -> None:
        try:
            await run.ask("First?", timeout_s=0.05)
        except QuestionExpired:
            await run.text("Never mind. ")
        await run.text(await run.ask("Second?"))

    async with stage.worker():
        sid = await stage.start(pipeline=piped(shy))
        second = await asked(stage, sid, 2)
        await stage.answer(sid, second.value["id"], "two")
        log = logged(await stage.over(sid))
    assert [kind for kind, _ in log].count("answer") == 2
    assert log[-2:] == [text("two"), completed()]


async def test_a_question_its_pipeline_gives_up_is_closed(stage: Stage) -> None:
    """Nobody would hear an answer: the session does not wait any more, and none is taken."""
    go = asyncio.Event()

    async def impatient(run: Run) -> None:
        try:
            async with asyncio.timeout(0.05):
                await run.ask("Which?")
        except TimeoutError:
            await run.text("Too late.")
        await go.wait()

    async with stage.worker():
        sid = await stage.start(pipeline=piped(impatient))
        question = await asked(stage, sid)
        await stage.until_event(sid, EventType.TEXT)
        assert await state(stage, sid) is State.RUNNING
        with pytest.raises(QuestionGone):
            await stage.answer(sid, question.value["id"], "red")
        assert (await stage.answer_of(sid)).question is None
        go.set()
        assert logged(await stage.over(sid))[-1] == completed()


async def test_waiting_costs_no_time_of_the_generation(stage: Stage) -> None:
    """Its limit stands still while a question is open, and only then."""
    answered_at: list[float] = []
    loop = asyncio.get_running_loop()

    async def slow(run: Run) -> None:
        await run.ask("Which?")
        answered_at.append(loop.time())
        await asyncio.Event().wait()

    async with stage.worker(generation_timeout_s=0.2):
        sid = await stage.start(pipeline=piped(slow))
        question = await asked(stage, sid)
        await asyncio.sleep(0.5)  # longer than the whole generation may take
        assert await state(stage, sid) is State.WAITING
        await stage.answer(sid, question.value["id"], "red")
        events = await stage.over(sid)
    assert logged(events)[-1] == bad_end("timeout", retryable=True)
    assert loop.time() - answered_at[0] < 5


@pytest.mark.parametrize("told", [True, False], ids=["announced", "announcement lost"])
async def test_an_answer_at_the_last_moment_is_never_lost(stage: Stage, told: bool) -> None:
    """Forty answers about as their questions expire: each is refused and expired, or accepted and used."""

    async def hurry(run: Run) -> None:
        await run.text("Got " + await run.ask("Quick?", timeout_s=0.1))

    hurried = piped(hurry)

    async def once(n: int) -> tuple[bool, str]:
        sid = await stage.start(pipeline=hurried)
        question = (await asked(stage, sid)).value["id"]
        await asyncio.sleep(0.08 + n * 0.001)
        accepted = await _accepted(stage, sid, question, told)
        events = await stage.over(sid)
        used = text("Got it") in logged(events)
        assert used == accepted, events
        assert used or events[-1].value["code"] == "question_expired"
        return used, sid

    async with stage.worker(heartbeat_s=0.5):
        outcomes = [outcome for m in range(8) for outcome in await asyncio.gather(*(once(5 * m + n) for n in range(5)))]
    assert len({used for used, _ in outcomes}) == 2, "no race: all ended alike"


async def _accepted(stage: Stage, sid: str, question: str, told: bool) -> bool:
    answer: Callable[..., Any] = stage.answer
    arguments = (sid, question, "it")
    if not told:
        answer, arguments = stage.log.answer, (sid, "nonce", question, "it", "user")  # type: ignore[assignment]
    try:
        await answer(*arguments)
    except QuestionGone:
        return False
    return True


async def test_an_answer_nobody_announces_is_heard(stage: Stage) -> None:
    """It is stored with the session first: the heartbeat finds it."""
    async with stage.worker(heartbeat_s=0.05):
        sid = await stage.start(pipeline=COLOUR)
        question = await asked(stage, sid)
        await stage.log.answer(sid, "nonce", question.value["id"], "red", "user")
        assert text("You like red") in logged(await stage.over(sid))


async def test_a_stop_while_waiting(stage: Stage) -> None:
    """It ends at once, with no answer, and none is taken after it."""
    async with stage.worker():
        sid = await stage.start(pipeline=COLOUR)
        question = await asked(stage, sid)
        await stage.stop(sid)
        async with asyncio.timeout(1):
            events = await stage.over(sid)
        with pytest.raises(QuestionGone):
            await stage.answer(sid, question.value["id"], "red")
    assert logged(events) == [started(LOREM), put(question), cancelled()]
    assert (await stage.answer_of(sid)).question is None
    assert await state(stage, sid) is State.CANCELLED
