"""LangGraph's protocol as a pure projection: what each mode says, and that every single event can be resumed behind."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from api.dialects.encoder import Unsayable
from api.dialects.langgraph import Cursor, LangGraphProjection, Mode
from shared.errors import InvalidEventId
from shared.events import Event, encode
from shared.ids import EventId

Said = tuple[str, dict[str, Any]]
Block = tuple[str, str, Any]
"""Id, name and data."""

ASKED: Said = ("message", {"generation": "g1", "role": "user", "content": "hi"})
STARTED: Said = ("generation.started", {"generation": "g1", "attempt": 1, "model": "demo/echo"})
AGAIN: Said = ("generation.started", {"generation": "g1", "attempt": 2, "model": "demo/echo"})
CALL: Said = ("tool.call", {"id": "c1", "name": "look", "arguments": {"where": "here"}})
RESULT: Said = ("tool.result", {"id": "c1", "output": {"found": 1}, "error": None})
STATUS: Said = ("status", {"text": "Looking…", "step": "look", "state": "running"})
SOURCE: Said = ("source", {"title": "Reefs", "url": None})
THOUGHT: Said = ("reasoning.delta", {"text": "hm"})
QUESTION: Said = ("question", {"id": "q1", "text": "Which?", "choices": ["a", "b"], "expires_at": 5})
ANSWER: Said = ("answer", {"id": "q1", "text": "a", "by": "user"})
USAGE: Said = ("usage", {"input_tokens": 3, "output_tokens": 2, "reasoning_tokens": 1, "cached_tokens": 1})
COMPLETED: Said = ("generation.completed", {"generation": "g1", "finish_reason": "stop"})
FAILED: Said = ("generation.failed", {"generation": "g1", "code": "overloaded", "message": "busy", "retryable": True})
CANCELLED: Said = ("generation.cancelled", {"generation": "g1", "by": "user", "confirmed": True})
NEXT: Said = ("message", {"generation": "g2", "role": "user", "content": "and now"})
NEXT_STARTED: Said = ("generation.started", {"generation": "g2", "attempt": 1, "model": "demo/echo"})
NEXT_COMPLETED: Said = ("generation.completed", {"generation": "g2", "finish_reason": "stop"})


def text(said: str) -> Said:
    return "text.delta", {"text": said}


WHOLE = (
    ASKED, STARTED, STATUS, THOUGHT, text("I "), text("look."), CALL, RESULT, QUESTION, ANSWER, SOURCE, text("Found "),
    text("one."), USAGE, COMPLETED, NEXT, NEXT_STARTED, text("more"), NEXT_COMPLETED,
)  # fmt: skip
TWICE = (ASKED, STARTED, text("lost"), CALL, RESULT, AGAIN, text("kept"), COMPLETED)


def log(said: Iterable[Said]) -> list[Event]:
    return [Event(EventId(1, n), type_, encode(data)) for n, (type_, data) in enumerate(said, 1)]


def projected(
    said: Iterable[Said], modes: Sequence[Mode] = tuple(Mode), after: str | None = None, generation: str = "g1"
) -> list[Block]:
    projection = LangGraphProjection("s1", "s1", generation, modes, Cursor.parse(after))
    return blocks(b"".join([projection.take(event) for event in log(said)]))


def blocks(raw: bytes) -> list[Block]:
    found = []
    for block in raw.decode().split("\n\n")[:-1]:
        id_, name, data = (line.partition(": ")[2] for line in block.split("\n"))
        found.append((id_, name, json.loads(data)))
    return found


def names(found: Iterable[Block]) -> list[str]:
    return [name for _, name, _ in found]


def pieces(found: Iterable[Block]) -> str:
    """What a client makes of the pieces of messages."""
    texts: dict[str, str] = {}
    for _, name, data in found:
        if name == "messages":
            if data[0]["type"] == "remove":
                del texts[data[0]["id"]]
            else:
                texts[data[0]["id"]] = texts.get(data[0]["id"], "") + data[0]["content"]
    return "|".join(texts.values())


@pytest.mark.parametrize("said", [WHOLE, TWICE])
@pytest.mark.parametrize("modes", [tuple(Mode), *[(mode,) for mode in Mode]], ids="+".join)
def test_resumes_behind_each_event(said: tuple[Said, ...], modes: tuple[Mode, ...]) -> None:
    """Behind whichever event a client was cut off, it gets exactly those that follow."""
    everything = projected(said, modes)
    assert len({id_ for id_, _, _ in everything}) == len(everything)
    for n, (id_, _, _) in enumerate(everything, 1):
        assert projected(said, modes, after=id_) == everything[n:]


@pytest.mark.parametrize("mode", list(Mode))
def test_ids_are_the_same_in_all_modes(mode: Mode) -> None:
    """An event has the same id whichever modes are asked for: a client that joins with others loses nothing."""
    assert set(map(repr, projected(WHOLE, [mode]))) <= set(map(repr, projected(WHOLE)))


def test_bare_id_stands_for_all_of_its_event() -> None:
    """Behind an id of the log itself there comes what the next event becomes."""
    everything = projected(WHOLE)
    assert projected(WHOLE, after="1-7") == [block for block in everything if int(block[0][2:].split(".")[0]) > 7]


@pytest.mark.parametrize("everything", ["-1", "0", ""])
def test_cursors_for_everything(everything: str) -> None:
    """Clients that ask for all of a run in their own way get all of it."""
    assert projected(WHOLE, after=everything) == projected(WHOLE)


@pytest.mark.parametrize("bad", ["x", "1-1.0", "1-1.", "1-1.1.1", "-", "1-1.-1", "01-1"])
def test_refuses_what_is_no_cursor(bad: str) -> None:
    """What is no id of ours is refused, rather than taken for the start."""
    with pytest.raises(InvalidEventId):
        Cursor.parse(bad)


def test_cursor_behind_the_end_is_no_success() -> None:
    """A cursor that the log has never had is told by a cut, not by an end."""
    with pytest.raises(Unsayable):
        projected(WHOLE, after="9-1")


def test_pieces_are_put_together() -> None:
    """Text, calls and results come as pieces, with ids that tell the message before a tool from the one behind it."""
    found = projected(WHOLE, [Mode.TUPLES])
    assert pieces(found) == 'I look.|{"found":1}|Found one.'
    assert names(found)[0] == "metadata"
    assert names(found)[-1] == "end"
    call = next(data[0] for _, name, data in found if name == "messages" and "tool_call_chunks" in data[0])
    assert call["tool_call_chunks"] == [
        {"type": "tool_call_chunk", "index": 0, "id": "c1", "name": "look", "args": '{"where":"here"}'}
    ]


def test_values_are_the_thread() -> None:
    """The values at the end are all messages so far, those of earlier runs too."""
    last = [data for _, name, data in projected(WHOLE, [Mode.VALUES], generation="g2") if name == "values"][-1]
    said = [(message["type"], message["content"]) for message in last["messages"]]
    assert said == [
        ("human", "hi"), ("ai", "I look."), ("tool", '{"found":1}'), ("ai", "Found one."), ("human", "and now"),
        ("ai", "more"),
    ]  # fmt: skip
    assert last["messages"][1]["tool_calls"] == [
        {"type": "tool_call", "id": "c1", "name": "look", "args": {"where": "here"}}
    ]
    assert last["messages"][3]["usage_metadata"]["total_tokens"] == 5


def test_question_is_an_interrupt() -> None:
    """A question is said as an interrupt, in updates and in values, and as data of the pipeline's own."""
    interrupt = {"id": "q1", "value": {"question": "Which?", "choices": ["a", "b"], "expires_at": 5}}
    found = [(name, data) for id_, name, data in projected(WHOLE) if id_.startswith("1-9.")]
    assert found[0] == ("updates", {"__interrupt__": [interrupt]})
    assert found[1][1]["__interrupt__"] == [interrupt]
    assert found[2][1]["type"] == "question"


def test_void_attempt_is_taken_back() -> None:
    """What an attempt said whose worker was lost is removed, and what the next one says is all that is left."""
    found = projected(TWICE)
    assert pieces(found) == "kept"
    assert [data["attempt"] for _, name, data in found if name == "metadata"] == [1, 2]
    partial = [data[0] for _, name, data in found if name == "messages/partial"]
    assert [message["content"] for message in partial if message["id"] == "s1_g1_0"] == ["lost", "lost", "", "kept"]
    values = [data for _, name, data in found if name == "values"]
    assert [message["content"] for message in values[-1]["messages"]] == ["hi", "kept"]
    assert all("lost" not in json.dumps(each) for each in values[-2:])


@pytest.mark.parametrize(("end", "error"), [(FAILED, "overloaded"), (CANCELLED, "UserInterrupt")])
def test_what_failed_or_was_cancelled_is_an_error(end: Said, error: str) -> None:
    """A run that did not complete ends with an error, and never with an end."""
    found = projected((ASKED, STARTED, text("half"), end))
    assert found[-1][1] == "error"
    assert found[-1][2]["error"] == error
    assert "end" not in names(found)


def test_whole_messages_cost_in_proportion() -> None:
    """A long message that is sent whole again and again costs a bounded multiple of itself."""
    words = [text("word ") for _ in range(4000)]
    partial = [data for _, name, data in projected((ASKED, STARTED, *words, COMPLETED)) if name == "messages/partial"]
    complete = [d for _, name, d in projected((ASKED, STARTED, *words, COMPLETED)) if name == "messages/complete"]
    assert sum(len(each[0]["content"]) for each in partial) < 40 * 20_000
    assert complete[0][0]["content"] == "word " * 4000


def test_thread_is_all_of_its_runs() -> None:
    """A thread's stream tells run after run, and does not end with one."""
    projection = LangGraphProjection("s1", "s1", "", [Mode.TUPLES])
    found = blocks(b"".join([projection.take(event) for event in log(WHOLE)]))
    assert [data["run_id"] for _, name, data in found if name == "run_done"] == ["s1_g1", "s1_g2"]
    assert not projection.over
