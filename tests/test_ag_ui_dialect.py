"""AG-UI as a pure projection: every event as the protocol's own types have it, in an order its client takes."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from ag_ui.core import Event as TheirEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from api.dialects.ag_ui import AgUiProjection
from shared.events import Event, encode, merged
from shared.ids import EventId

Said = tuple[str, dict[str, Any]]
Found = list[dict[str, Any]]

ASKED: Said = ("message", {"generation": "g1", "role": "user", "content": "hi"})
STARTED: Said = ("generation.started", {"generation": "g1", "attempt": 1, "model": "demo/echo"})
AGAIN: Said = ("generation.started", {"generation": "g1", "attempt": 2, "model": "demo/echo"})
CALL: Said = ("tool.call", {"id": "c1", "name": "look", "arguments": {"where": "here"}})
RESULT: Said = ("tool.result", {"id": "c1", "output": {"found": 1}, "error": None})
LOOKING: Said = ("status", {"text": "Looking…", "step": "look", "state": "running"})
LOOKED: Said = ("status", {"text": "Looked", "step": "look", "state": "done"})
SOURCE: Said = ("source", {"title": "Reefs", "url": None})
DATA: Said = ("data", {"name": "depth", "value": [1, None]})
THOUGHT: Said = ("reasoning.delta", {"text": "hm"})
USAGE: Said = ("usage", {"input_tokens": 3, "output_tokens": 2, "reasoning_tokens": 1, "cached_tokens": 1})
COMPLETED: Said = ("generation.completed", {"generation": "g1", "finish_reason": "stop"})
CALLED: Said = ("generation.completed", {"generation": "g1", "finish_reason": "tool_calls"})
FAILED: Said = ("generation.failed", {"generation": "g1", "code": "overloaded", "message": "busy", "retryable": True})
CANCELLED: Said = ("generation.cancelled", {"generation": "g1", "by": "user", "confirmed": True})
U1 = {"id": "u1", "role": "user", "content": "hi"}
_EVENT: TypeAdapter[Any] = TypeAdapter(TheirEvent)


def text(said: str) -> Said:
    return "text.delta", {"text": said}


def question(name: str) -> Said:
    return "question", {"id": name, "text": "Which?", "choices": ["a", "b"], "expires_at": 5000}


def answer(name: str) -> Said:
    return "answer", {"id": name, "text": "a", "by": "user"}


def log(said: Iterable[Said]) -> list[Event]:
    return [Event(EventId(1, n), type_, encode(data)) for n, (type_, data) in enumerate(said, 1)]


def projection(behind: str = "", has: Sequence[dict[str, Any]] = (U1,)) -> AgUiProjection:
    return AgUiProjection("s1", "g1", "t1", "r1", has, behind)


def projected(said: Iterable[Said], behind: str = "", has: Sequence[dict[str, Any]] = (U1,)) -> Found:
    project = projection(behind, has)
    raw = b"".join([project.take(event) for event in log(said)])
    assert b"\r" not in raw
    found = [json.loads(block.removeprefix("data: ")) for block in raw.decode().split("\n\n")[:-1]]
    for each in found:
        assert _EVENT.validate_python(each).model_extra == {}, each
    return found


def types(found: Found) -> list[str]:
    return [each["type"] for each in found]


def of_type(found: Found, type_: str) -> Found:
    return [each for each in found if each["type"] == type_]


WHOLE = (
    ASKED, STARTED, LOOKING, THOUGHT, text("I "), text("look."), CALL, RESULT, SOURCE, DATA, LOOKED, text("Found."),
    USAGE, COMPLETED,
)  # fmt: skip


def test_says_everything_in_its_own_words() -> None:
    """Steps, reasoning, text, a tool's call and result, data, usage: each is said as the protocol has it."""
    found = projected(WHOLE)
    assert types(found) == [
        "RUN_STARTED", "STEP_STARTED", "CUSTOM", "REASONING_START", "REASONING_MESSAGE_START",
        "REASONING_MESSAGE_CONTENT", "REASONING_MESSAGE_END", "REASONING_END", "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END", "TOOL_CALL_START", "TOOL_CALL_ARGS",
        "TOOL_CALL_END", "TOOL_CALL_RESULT", "CUSTOM", "CUSTOM", "CUSTOM", "STEP_FINISHED", "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END", "RUN_FINISHED",
    ]  # fmt: skip
    call = of_type(found, "TOOL_CALL_START")[0]
    assert call["parentMessageId"] == of_type(found, "TEXT_MESSAGE_START")[0]["messageId"] == "s1_g1_2"
    assert of_type(found, "TOOL_CALL_RESULT")[0]["content"] == '{"found":1}'
    assert [each["name"] for each in of_type(found, "CUSTOM")] == ["status", "source", "depth", "status"]
    assert found[-1]["outcome"] == {"type": "success"}
    assert found[-1]["usage"][0]["totalTokens"] == 5


def test_calls_for_the_client_are_pending() -> None:
    """Calls without a result, at the end, are the client's to run, and named as such."""
    assert projected((ASKED, STARTED, CALL, CALLED))[-1]["outcome"] == {"type": "success", "pendingToolCallIds": ["c1"]}


@pytest.mark.parametrize("end", [FAILED, CANCELLED])
def test_what_failed_or_was_cancelled_is_no_success(end: Said) -> None:
    """A failure is a RUN_ERROR, a cancellation an outcome of its own."""
    last = projected((ASKED, STARTED, text("half"), end))[-1]
    assert last["type"] == "RUN_ERROR" or last["outcome"] == {"type": "cancelled"}
    assert (last["type"] == "RUN_ERROR") == (end is FAILED)


ASKING = (
    ASKED,
    STARTED,
    text("one"),
    question("q1"),
    answer("q1"),
    text("two"),
    question("q2"),
    answer("q2"),
    COMPLETED,
)


def test_a_question_ends_a_run() -> None:
    """A question ends the run with an interrupt; behind each answer there is a run of its own."""
    first = projected(ASKING)
    asked = {"id": "q1", "reason": "question", "message": "Which?", "expiresAt": "1970-01-01T00:00:05+00:00"}
    schema = {"responseSchema": {"type": "string", "enum": ["a", "b"]}}
    assert first[-1]["outcome"] == {"type": "interrupt", "interrupts": [asked | schema]}
    second, third = projected(ASKING, "q1"), projected(ASKING, "q2")
    assert [each["delta"] for each in of_type(second, "TEXT_MESSAGE_CONTENT")] == ["two"]
    assert second[-1]["outcome"]["interrupts"][0]["id"] == "q2"
    assert types(third) == ["RUN_STARTED", "RUN_FINISHED"]
    project = projection()
    assert [bool(project.take(event)) and project.over for event in log(ASKING)].index(True) == 3


def test_a_run_behind_a_lost_answer_begins_with_the_next_attempt() -> None:
    """Where the worker was lost before it told of an answer, the run begins with the next attempt, and takes back
    what the client has of the one before."""
    lost = (ASKED, STARTED, text("lost"), question("q1"), AGAIN, text("kept"), COMPLETED)
    has = [U1, {"id": "s1_g1_1", "role": "assistant", "content": "lost"}]
    found = projected(lost, "q1", has)
    assert types(found)[:3] == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "TEXT_MESSAGE_START"]
    assert found[1]["messages"] == [U1]


def test_void_attempt_is_taken_back() -> None:
    """What an attempt said whose worker was lost is closed, and replaced by what the client had before it."""
    found = projected((ASKED, STARTED, LOOKING, THOUGHT, text("lost"), AGAIN, text("kept"), COMPLETED))
    snapshot = types(found).index("MESSAGES_SNAPSHOT")
    assert types(found)[snapshot - 2 : snapshot] == ["TEXT_MESSAGE_END", "STEP_FINISHED"]
    assert found[snapshot]["messages"] == [U1, {"id": "s1_g1_1", "role": "reasoning", "content": ""}]
    assert [each["delta"] for each in of_type(found[snapshot:], "TEXT_MESSAGE_CONTENT")] == ["kept"]


def test_what_the_client_has_of_the_run_is_taken_back() -> None:
    """A client that asks again, and sends what it has of the run, is first told its messages without that."""
    half = {"id": "s1_g1_2", "role": "assistant", "content": "I lo"}
    other = {"id": "s1_g0_2", "role": "assistant", "content": "before"}
    found = projected(WHOLE, has=[other, U1, half])
    assert types(found)[:2] == ["RUN_STARTED", "MESSAGES_SNAPSHOT"]
    assert found[1]["messages"] == [other, U1]


PIECE = st.sampled_from([LOOKING, LOOKED, THOUGHT, text("a"), CALL, RESULT, SOURCE, DATA, USAGE, AGAIN, question("q1")])
STARTS, ENDS = {"START", "STARTED"}, {"END", "FINISHED"}
END = st.sampled_from([COMPLETED, CALLED, FAILED, CANCELLED])


@given(st.lists(PIECE, max_size=12), END)
def test_any_generation_is_in_order(said: list[Said], end: Said) -> None:
    """Whatever a generation says: it starts once, ends once, nothing is open then, and nothing is opened twice."""
    found = projected((ASKED, STARTED, *said, end))
    assert types(found).count("RUN_STARTED") == 1
    assert types(found)[0] == "RUN_STARTED"
    assert types(found)[-1] in ("RUN_FINISHED", "RUN_ERROR")
    opened: set[str] = set()
    for each in found:
        if each["type"] in ("RUN_FINISHED", "MESSAGES_SNAPSHOT"):
            assert not opened
        name, _, how = each["type"].rpartition("_")
        key = name + str(each.get("messageId") or each.get("stepName") or each.get("toolCallId"))
        if name == "RUN" or how not in STARTS | ENDS | {"CONTENT", "ARGS"}:
            continue
        assert (key in opened) == (how not in STARTS)
        if how in STARTS:
            opened.add(key)
        elif how in ENDS:
            opened.remove(key)


@given(st.lists(PIECE, max_size=12), END)
def test_merged_deltas_say_the_same(said: list[Said], end: Said) -> None:
    """With neighbouring deltas merged, as on replay, the same is said in fewer events."""
    events = log((ASKED, STARTED, *said, end))
    assert _together(events) == _together(merged(events))


def _together(events: list[Event]) -> Found:
    project = projection()
    raw = b"".join([project.take(event) for event in events]).decode()
    found: Found = []
    for block in raw.split("\n\n")[:-1]:
        each = json.loads(block.removeprefix("data: "))
        if found and each["type"].endswith("_MESSAGE_CONTENT") and found[-1]["type"] == each["type"]:
            found[-1]["delta"] += each["delta"]
        else:
            found.append(each)
    return found
