"""Events as values: frames, merging, chains."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.events import Event, chained, encode, merged, next_delta, published
from shared.ids import EventId

kinds = st.sampled_from(["text.delta", "reasoning.delta", "status", "generation.completed"])
texts = st.text(st.characters(exclude_categories=["Cs"]))


def log_of(entries: list[tuple[str, str]]) -> list[Event]:
    return [Event(EventId(7, n + 2), kind, encode({"text": text})) for n, (kind, text) in enumerate(entries)]


@given(st.lists(st.tuples(kinds, texts), max_size=20))
def test_what_is_published_reads_back_as_it_was(entries: list[tuple[str, str]]) -> None:
    """A batch of frames splits into the same events, whatever the text."""
    events = log_of(entries)
    back = published(b"".join(event.frame for event in events))
    assert [(e.id, e.type, e.data, e.frame) for e in back] == [(e.id, e.type, e.data, e.frame) for e in events]


FRAME = b"event: status\ndata: {}\nid: 7-2\n\n"


@pytest.mark.parametrize(
    "said",
    [
        b"hello", FRAME[:-1], FRAME + b"\n", FRAME + FRAME[:-2], FRAME + b"id", b"\n" + FRAME, b" " + FRAME,
        FRAME.replace(b"7-2", b"7-02"), FRAME.replace(b"7-2", b"+7-2"), FRAME.replace(b"7-2", b"7-2_0"),
        FRAME.replace(b"7-2", b"7 -2"), FRAME.replace(b"7-2", b"7"), FRAME.replace(b"7-2", b"7-2-3"),
        FRAME.replace(b"7-2", b"7-12345678901234567"), FRAME.replace(b"7-2", "7-\u0662".encode()),
        FRAME.replace(b"status", b""), FRAME.replace(b"status", b"\xff"), FRAME.replace(b"data", b"date"),
        FRAME.replace(b"{}", b""), FRAME.replace(b"{}", b"{}\ndata: {}"), FRAME.replace(b"{}", b"{}\nretry: 1"),
        FRAME.replace(b"\n", b"\r\n"),
    ],
)  # fmt: skip
def test_what_scripts_do_not_publish_is_refused(said: bytes) -> None:
    """Nothing is read as something near it: who hears this looks at the log."""
    assert len(published(FRAME + FRAME)) == 2
    with pytest.raises(ValueError):  # noqa: PT011 - of any kind
        published(said)


@pytest.mark.parametrize("data", [b"{}", b"[]", b"1", b"{", b'{"prev":1}', b'{"prev":null}', b'{"prev":"x"}', b"\xff"])
def test_a_first_event_that_names_no_id_before_it_chains_to_nothing(data: bytes) -> None:
    """Whoever hears of it looks at the log, and does not fall over it."""
    event = Event(EventId(7, 1), "message", data)
    assert event.prev is None
    assert not event.follows(EventId(6, 9))


@given(st.lists(st.tuples(kinds, texts), max_size=30))
def test_merging_keeps_the_text_and_the_ids_of_ends(entries: list[tuple[str, str]]) -> None:
    """Neighbouring deltas of one kind become one with the last id; nothing else changes; no two are left together."""
    events, out = log_of(entries), merged(log_of(entries))
    for kind in ("text.delta", "reasoning.delta"):
        said = ["".join(e.value["text"] for e in some if e.type == kind) for some in (events, out)]
        assert said[0] == said[1]
    assert {e.id for e in out} <= {e.id for e in events}
    assert [e.id for e in events[-1:]] == [e.id for e in out[-1:]]
    assert [e.id for e in events if not e.type.endswith("delta")] == [e.id for e in out if not e.type.endswith("delta")]
    assert not any(a.type == b.type and a.type.endswith("delta") for a, b in pairwise(out))


def test_chained_stops_at_the_first_hole() -> None:
    """What lies behind a hole is not handed out, even if it chains among itself."""
    events = log_of([("status", "")] * 5)
    assert chained(EventId(7, 1), events) == events
    assert chained(EventId(7, 1), events[:2] + events[3:]) == events[:2]
    assert chained(EventId(7, 2), events) == []


def test_a_lone_surrogate_is_replaced_and_a_pair_is_joined() -> None:
    """Half a character has no UTF-8; two halves are the character."""
    assert encode({"text": "\ud83d\ude00 \ud83d"}) == '{"text":"😀 \ufffd"}'.encode()


_CURSOR = EventId(1795337152950, 41)
_NEXT = b'event: text.delta\ndata: {"text":" kelp"}\nid: 1795337152950-42\n\n'


def test_the_next_delta_is_what_was_published() -> None:
    """Found by the short way or by the long one, it is the same event, with the same bytes."""
    (long,), short = published(_NEXT), next_delta(_NEXT, _CURSOR)
    assert short is not None
    assert (short.id, short.type, short.data, short.frame) == (long.id, long.type, long.data, long.frame)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        _NEXT[:-1],
        _NEXT + b"\n",
        _NEXT + b"x",
        _NEXT * 2,
        _NEXT.replace(b"-42", b"-43"),
        _NEXT.replace(b"-42", b"-042"),
        _NEXT.replace(b"1795337152950", b"1795337152951"),
        _NEXT.replace(b"text.delta", b"reasoning.delta"),
        _NEXT.replace(b" kelp", b"a\nb"),
        _NEXT.replace(b'{"text":" kelp"}', b""),
        b" " + _NEXT,
        b"event: text.delta\ndata: \nid: 1795337152950-42\n",
        b"event: text.delta\ndata: \nid: 1795337152950-42\n\n",
        b"event: text.delta\nid: 1795337152950-42\n\n",
        b"event: text.delta\ndata:\nid: 1795337152950-42\n\n",
    ],
)
def test_what_is_not_the_next_delta_alone_is_left_to_the_long_way(payload: bytes) -> None:
    """Another event, more than one, or what is none of ours."""
    assert next_delta(payload, _CURSOR) is None
