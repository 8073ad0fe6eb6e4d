"""The AI SDK's UI message stream as a projection: events in, chunks out, each of them known to all three versions."""

import json
import subprocess
from typing import Any

import pytest

from api.dialects.encoder import Unsayable
from api.dialects.vercel import Chunk, UiChunks, UiFrames, UiStream, generation_of, message_id
from shared.events import Event, EventType, encode
from shared.ids import EventId
from tests.support.tools import NODE_MODULES, node

M = message_id("s1", "g1")
SCHEMAS = NODE_MODULES.with_name("ui_chunks.mjs")


def event(kind: str, **data: Any) -> Event:
    return Event(EventId(1, 1), kind, encode(data))


def started(attempt: int = 1, generation: str = "g1") -> Event:
    return event(EventType.STARTED, generation=generation, attempt=attempt, model="demo/echo", prev="0-0")


def text(said: str) -> Event:
    return event(EventType.TEXT, text=said)


def completed(reason: str = "stop", generation: str = "g1") -> Event:
    return event(EventType.COMPLETED, generation=generation, finish_reason=reason)


def call(id_: str, name: str = "look", **arguments: Any) -> Event:
    return event(EventType.TOOL_CALL, id=id_, name=name, arguments=arguments)


def result(id_: str, output: Any = None, error: str | None = None) -> Event:
    return event(EventType.TOOL_RESULT, id=id_, output=output, error=error)


QUESTION = {"id": "q1", "text": "Which?", "choices": ["red", "blue"], "expires_at": 5}
EVERYTHING = [
    started(),
    event(EventType.STATUS, text="Looking", step="look", state="running", progress=0.5),
    event(EventType.REASONING, text="Hm."),
    call("c1", at="the sea"),
    result("c1", {"waves": [1, 2]}),
    call("c2"),
    result("c2", error="it broke"),
    event(EventType.PROVIDER_RUN, id="r1"),
    text("Here "),
    text("it is."),
    event(EventType.SOURCE, title="A page", url="https://example.com/a"),
    event(EventType.SOURCE, title="A paper", url=None),
    event(EventType.DATA, name="chart", value=[1, None]),
    event(EventType.QUESTION, **QUESTION),
    event(EventType.ANSWER, id="q1", text="red", by="anonymous"),
    text("Red."),
    event(EventType.USAGE, input_tokens=1, output_tokens=2, reasoning_tokens=0, cached_tokens=0),
    completed(),
]


def chunks(*events: Event, resets: bool = False) -> list[Chunk]:
    projection = UiChunks(M, resets=resets)
    return [chunk for each in events for chunk in projection.of(each)]


def types(*events: Event) -> list[str]:
    return [chunk["type"] for chunk in chunks(*events)]


def test_an_answer_is_a_message_with_a_step_and_a_text() -> None:
    """From `start` with the message's id to `finish`."""
    assert chunks(started(), text("Hel"), text("lo"), completed()) == [
        {"type": "start", "messageId": "msg_s1_g1"},
        {"type": "start-step"},
        {"type": "text-start", "id": "text-1"},
        {"type": "text-delta", "id": "text-1", "delta": "Hel"},
        {"type": "text-delta", "id": "text-1", "delta": "lo"},
        {"type": "text-end", "id": "text-1"},
        {"type": "finish-step"},
        {"type": "finish", "finishReason": "stop"},
    ]


def test_everything_a_generation_can_say_has_its_part() -> None:
    """In order; rounds of tools are steps, and what is only for the moment is transient."""
    said = chunks(*EVERYTHING)
    assert [chunk["type"] for chunk in said] == [
        "start", "start-step", "data-status", "reasoning-start", "reasoning-delta", "reasoning-end",
        "tool-input-available", "tool-output-available", "finish-step",
        "start-step", "tool-input-available", "tool-output-error", "finish-step",
        "start-step", "text-start", "text-delta", "text-delta", "source-url", "source-document", "data-chart",
        "text-end", "data-question", "data-question", "text-start", "text-delta", "data-usage", "text-end",
        "finish-step", "finish",
    ]  # fmt: skip
    assert {chunk["type"] for chunk in said if chunk.get("transient")} == {"data-status", "data-usage"}
    by_type = {chunk["type"]: chunk for chunk in said}
    assert by_type["tool-output-available"] == {
        "type": "tool-output-available", "toolCallId": "c1", "output": {"waves": [1, 2]},
    }  # fmt: skip
    assert (by_type["tool-output-error"]["toolCallId"], by_type["tool-output-error"]["errorText"]) == ("c2", "it broke")
    assert by_type["data-chart"] == {"type": "data-chart", "data": [1, None]}
    assert by_type["source-url"]["url"] == "https://example.com/a"


def test_the_answer_to_a_question_replaces_it() -> None:
    """The same part, by its id, with the answer beside what was asked."""
    asked, answered = [chunk for chunk in chunks(*EVERYTHING) if chunk["type"] == "data-question"]
    assert asked == {"type": "data-question", "id": "q1", "data": QUESTION}
    assert answered == {"type": "data-question", "id": "q1", "data": {**QUESTION, "answer": "red"}}


def test_calls_of_one_round_share_a_step() -> None:
    """A step ends only when each of its calls has a result."""
    said = types(started(), call("a"), call("b"), result("a", 1), result("b", 2), text("x"))
    assert said == [
        "start", "start-step", *["tool-input-available"] * 2, *["tool-output-available"] * 2, "finish-step",
        "start-step", "text-start", "text-delta",
    ]  # fmt: skip


def test_a_result_of_an_unknown_call_brings_the_call_along() -> None:
    """A client refuses a result without one."""
    assert types(started(), result("lost", 1))[2:] == ["tool-input-available", "tool-output-available"]


@pytest.mark.parametrize(
    ("reason", "told"),
    [("stop", "stop"), ("length", "length"), ("tool_calls", "tool-calls"), ("content_filter", "content-filter"),
     ("something else", "other")],
)  # fmt: skip
def test_why_it_ended_is_said_in_the_words_of_the_sdk(reason: str, told: str) -> None:
    """Unknown reasons are `other`."""
    assert chunks(started(), completed(reason))[-1] == {"type": "finish", "finishReason": told}


def test_a_failure_is_an_error_and_no_finish() -> None:
    """Whatever was said before it."""
    failed = event(EventType.FAILED, generation="g1", code="overloaded", message="Try later", retryable=True)
    assert chunks(started(), text("x"), failed)[-1] == {"type": "error", "errorText": "Try later"}
    assert "finish" not in types(started(), text("x"), failed)


def test_what_was_cancelled_says_abort() -> None:
    """Also where it never began: then with an empty message."""
    cancelled = event(EventType.CANCELLED, generation="g1", by="user", confirmed=True)
    assert types(started(), text("x"), cancelled)[-4:] == ["text-end", "finish-step", "abort", "finish"]
    assert types(cancelled) == ["start", "start-step", "finish-step", "abort", "finish"]


def test_another_attempt_cannot_be_told_once_something_was_said() -> None:
    """The stream is cut. Progress alone is nothing that stays."""
    with pytest.raises(Unsayable):
        chunks(started(), text("x"), started(2))
    status = event(EventType.STATUS, text="Looking", state="running")
    assert types(started(), status, started(2), text("y")) == [
        "start", "start-step", "data-status", "text-start", "text-delta",
    ]  # fmt: skip


def test_a_client_that_knows_reset_step_is_told_of_another_attempt() -> None:
    """As long as the first step lasts; the ones before it cannot be taken back."""
    said = chunks(started(), text("x"), call("c1"), started(2), text("y"), completed(), resets=True)
    assert [chunk["type"] for chunk in said][2:] == [
        "text-start", "text-delta", "text-end", "tool-input-available", "reset-step",
        "text-start", "text-delta", "text-end", "finish-step", "finish",
    ]  # fmt: skip
    with pytest.raises(Unsayable):
        chunks(started(), call("c1"), result("c1", 1), text("x"), started(2), resets=True)


def test_the_stream_ends_with_done_and_only_then() -> None:
    """Server-sent events with LF alone; each block has data."""
    projection = UiStream("s1", "g1")
    sent = b"".join([projection.take(each) for each in EVERYTHING])
    assert projection.over
    assert sent.endswith(b"\n\ndata: [DONE]\n\n")
    assert b"\r" not in sent
    blocks = sent.decode().removesuffix("\n\n").split("\n\n")
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    assert [json.loads(block.removeprefix("data: ")) for block in blocks[:-1]] == chunks(*EVERYTHING)
    assert not UiStream("s1", "g1").take(text("x")).endswith(b"[DONE]\n\n")


def test_other_generations_are_left_out() -> None:
    """What the session says before and after is not of this message."""
    projection = UiStream("s1", "g2")
    before = [event(EventType.MESSAGE, generation="g1", role="user", content="x"), started(), text("old"), completed()]
    assert b"".join([projection.take(each) for each in before]) == b""
    assert b"msg_s1_g2" in projection.take(started(generation="g2"))
    assert b"new" in projection.take(text("new"))


def test_frames_are_numbered_from_0() -> None:
    """Without a hole, as the transport demands; one JSON frame per line."""
    projection = UiFrames("s1", "g1", "r1")
    lines = b"".join([projection.take(each) for each in [*EVERYTHING[:-1], text("a\nb\u2028c"), EVERYTHING[-1]]])
    frames = [json.loads(line) for line in lines.decode().removesuffix("\n").split("\n")]
    assert [frame["sequence"] for frame in frames] == list(range(len(frames)))
    assert {(frame["type"], frame["requestId"]) for frame in frames} == {("chunk", "r1")}
    assert frames[-1]["chunk"]["type"] == "finish"


@pytest.mark.parametrize("sid", ["s1", "a_b", "_", "g1", "x" * 64])
def test_the_id_of_a_message_names_its_generation(sid: str) -> None:
    """And no other session's."""
    assert generation_of(message_id(sid, "g12"), sid) == "g12"
    for wrong in (
        message_id("other", "g1"),
        message_id(sid, "g" + "9" * 10),
        message_id(sid, "g\u0663"),
        f"msg_{sid}",
        f"msg_{sid}_x1",
        f"msg_{sid}_g",
        f"{sid}_g1",
        "",
        "g1",
    ):
        assert generation_of(wrong, sid) is None


def test_every_chunk_is_known_to_every_version_of_the_sdk() -> None:
    """By the schemas of ai@5, ai@6 and ai@7; `reset-step`, which is for sockets alone, by ai@7."""
    failed = event(EventType.FAILED, generation="g1", code="unknown", retryable=False)
    cancelled = event(EventType.CANCELLED, generation="g1", by="user", confirmed=True)
    said = [*chunks(*EVERYTHING), *chunks(started(), cancelled), *chunks(started(), failed)]
    said += [chunk for reason in ("length", "tool_calls", "content_filter", "?") for chunk in chunks(completed(reason))]
    assert _refused(said) == {"5": [], "6": [], "7": []}
    resetting = chunks(started(), text("x"), started(2), resets=True)
    assert _refused([*resetting, {"type": "none of theirs"}])["7"] == ["none of theirs"]


def _refused(said: list[Chunk]) -> dict[str, list[str]]:
    done = subprocess.run([node(), str(SCHEMAS)], input=encode_all(said), check=True, stdout=subprocess.PIPE)
    refused: dict[str, list[str]] = json.loads(done.stdout)
    return refused


def encode_all(said: list[Chunk]) -> bytes:
    return json.dumps(said).encode()
