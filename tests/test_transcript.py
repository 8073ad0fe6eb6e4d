"""The fold: from a log to what people and models see."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shared.events import Event, encode, merged
from shared.ids import EventId
from shared.transcript import fold


def log_of(*entries: tuple[str, dict[str, Any]]) -> list[Event]:
    return [Event(EventId(1, n + 2), kind, encode(data)) for n, (kind, data) in enumerate(entries)]


def said(text: str) -> tuple[str, dict[str, Any]]:
    return "text.delta", {"text": text}


ASKED = ("message", {"role": "user", "content": "hi", "generation": "g1"})
STARTED = ("generation.started", {"generation": "g1", "attempt": 1, "model": "demo/lorem"})
AGAIN = ("generation.started", {"generation": "g1", "attempt": 2, "model": "demo/lorem"})
DONE = ("generation.completed", {"generation": "g1", "finish_reason": "stop"})


def test_a_turn_becomes_two_messages() -> None:
    """What the user said, and what was answered, with its state, reason and usage."""
    usage = ("usage", {"input_tokens": 3, "output_tokens": 4, "reasoning_tokens": 0, "cached_tokens": 0})
    user, answer = fold(log_of(ASKED, STARTED, said("a"), said("b"), usage, DONE)).messages
    assert (user.role, user.content, user.generation) == ("user", "hi", "g1")
    assert (answer.role, answer.content, answer.state, answer.finish_reason) == ("assistant", "ab", "completed", "stop")
    assert answer.usage is not None
    assert answer.usage.output_tokens == 4


def test_a_second_attempt_discards_what_the_first_said() -> None:
    """Its worker was lost: text, reasoning, status, everything."""
    status = ("status", {"text": "Searching", "step": "s", "state": "running"})
    _, answer = fold(log_of(ASKED, STARTED, said("lost"), status, AGAIN, said("kept"), DONE)).messages
    assert (answer.content, answer.attempt, answer.status) == ("kept", 2, [])


def test_what_was_said_before_a_stop_stays() -> None:
    """Cut off as it was, and marked as cancelled."""
    end = ("generation.cancelled", {"generation": "g1", "by": "user", "confirmed": True})
    _, answer = fold(log_of(ASKED, STARTED, said("half"), end)).messages
    assert (answer.content, answer.state) == ("half", "cancelled")


def test_a_failure_says_why() -> None:
    """Code, message and whether trying again may help."""
    end = ("generation.failed", {"generation": "g1", "code": "overloaded", "message": "m", "retryable": True})
    _, answer = fold(log_of(ASKED, STARTED, end)).messages
    assert answer.error is not None
    assert (answer.error.code, answer.error.retryable, answer.state) == ("overloaded", True, "failed")


def test_a_cancelled_queue_has_an_answer_too() -> None:
    """A generation that never started still has its end."""
    end = ("generation.cancelled", {"generation": "g1", "by": "user", "confirmed": True})
    _, answer = fold(log_of(ASKED, end)).messages
    assert (answer.generation, answer.state, answer.content) == ("g1", "cancelled", "")


def test_steps_tools_sources_and_questions() -> None:
    """The same step again replaces its line; a result finds its call; an answered question is no longer open."""
    _, answer = fold(
        log_of(
            ASKED,
            STARTED,
            ("status", {"text": "Searching…", "step": "search", "state": "running"}),
            ("status", {"text": "Found 5", "step": "search", "state": "done", "progress": 1.0}),
            ("tool.call", {"id": "c1", "name": "add", "arguments": {"a": []}}),
            ("tool.result", {"id": "c1", "output": 3}),
            ("source", {"title": "Kelp", "url": "https://example.com"}),
            ("data", {"name": "chart", "value": [1]}),
            ("question", {"id": "q1", "text": "Sure?", "choices": ["yes"], "expires_at": 1}),
        )
    ).messages
    assert [(s.text, s.state) for s in answer.status] == [("Found 5", "done")]
    assert [(t.name, t.arguments, t.output) for t in answer.tools] == [("add", {"a": []}, 3)]
    assert [(s.title, s.url) for s in answer.sources] == [("Kelp", "https://example.com")]
    assert [(d.name, d.value) for d in answer.data] == [("chart", [1])]
    assert answer.question is not None
    assert (answer.question.id, answer.state) == ("q1", "running")
    answered = log_of(ASKED, STARTED, ("question", {"id": "q", "text": "?"}), ("answer", {"id": "q", "text": "yes"}))
    assert fold(answered).messages[-1].question is None


def test_a_trimmed_head_is_tolerated() -> None:
    """The rest of an answer whose beginning is gone is still an answer."""
    (answer,) = fold(log_of(said("rest"), DONE)).messages
    assert (answer.content, answer.state, answer.generation) == ("rest", "completed", "g1")


entries = st.lists(
    st.sampled_from([ASKED, STARTED, AGAIN, DONE, said("x"), said("yz"), ("reasoning.delta", {"text": "hm"})]),
    max_size=25,
)


@given(entries)
def test_merged_and_plain_logs_fold_alike(log: list[tuple[str, dict[str, Any]]]) -> None:
    """A client that was sent merged deltas knows the same as one that was sent each."""
    assert fold(log_of(*log)) == fold(merged(log_of(*log)))
