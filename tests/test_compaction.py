"""Compaction as pure functions: what is joined splits into exactly what it was, wherever a reader stands."""

import itertools
from collections.abc import Iterable
from dataclasses import astuple
from unittest import mock

from hypothesis import example, given
from hypothesis import strategies as st

from shared import compaction
from shared.compaction import Entry, Joiner, Run, after, count, event_of, split, upto
from shared.events import Event, chained, encode, merged
from shared.ids import START, EventId
from shared.reader import _judge_page
from shared.transcript import fold

# -- logs

AWKWARD = [
    "", "a", '"', "\\", '"}', '{"text":"', "\n", "\x00\x1f\x7f", "é", "e\u0301", "\u2028", "日本", "😀",
    "👩\u200d👧", "\\u0041", " 1+2 ",
]  # fmt: skip
TEXTS = st.one_of(st.sampled_from(AWKWARD), st.text(st.characters(exclude_categories=[]), max_size=12))
FOREIGN = st.sampled_from(
    [
        b'{"text": "a"}', b'{"text":"a","list":[]}', b'{"list":[],"text":"a"}', b'{"text":"\\u00e9"}',
        b'{"text":"\\/"}', b'{"text":"\\ud83d\\ude00"}', b'{"text":"a"} ', b'{"text":"x","text":"a"}',
    ]
)  # fmt: skip
"""Data that says a text in another way, or more than a text."""
Said = list[tuple[str, bytes, dict[bytes, bytes]]]
"""Type, data, and the fields that an entry has besides."""
KINDS = st.sampled_from(["text.delta", "text.delta", "reasoning.delta"])
STRETCHES: st.SearchStrategy[Said] = st.tuples(KINDS, st.lists(TEXTS, min_size=2, max_size=12)).map(
    lambda said: [(said[0], encode({"text": text}), {}) for text in said[1]]
)
"""Deltas of one kind."""
OTHERS: st.SearchStrategy[Said] = st.one_of(
    FOREIGN.map(lambda data: [("text.delta", data, {})]),
    st.just([("text.delta", encode({"text": "a"}), {b"more": b"1"})]),
    TEXTS.map(lambda text: [("status", encode({"text": text}), {})]),
    st.just([("usage", b'{"input_tokens":1}', {})]),
)
SAID = st.lists(st.one_of(STRETCHES, OTHERS), max_size=6)


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """Entries of several epochs, the clock going either way; some of them trimmed away or missing."""
    entries: list[Entry] = []
    epoch, at, last = draw(st.integers(1, 1 << 52)), 1_700_000_000_000, START
    for said in draw(st.lists(SAID, min_size=1, max_size=3)):
        epoch += draw(st.integers(1, 1 << 20))
        start = encode({"prev": str(last), "generation": "g1", "attempt": 1, "model": "m"})
        for seq, (kind, data, more) in enumerate([("generation.started", start, {}), *itertools.chain(*said)], 1):
            at += draw(st.sampled_from([0, 0, 1, 40, 3_600_000, -5]))
            last = EventId(epoch, seq)
            entries.append((str(last).encode(), {b"type": kind.encode(), b"data": data, b"at": b"%d" % at, **more}))
    kept = entries[draw(st.integers(0, 3)) :]
    holes = draw(st.sets(st.integers(0, 60), max_size=1))
    return [entry for n, entry in enumerate(kept) if n not in holes]


LOGS = logs()
BOUNDS = st.sampled_from([(256, 4096), (256, 4096), (3, 4096), (256, 40), (2, 30)])
"""Most deltas and bytes of a run."""


def compacted(entries: list[Entry], bounds: tuple[int, int] = (256, 4096), page: int = 1000) -> list[Entry]:
    """Taken in pages of this size."""
    with mock.patch.multiple(compaction, RUN_DELTAS=bounds[0], RUN_BYTES=bounds[1]):
        joiner = Joiner()
        out = [done for n in range(0, len(entries), page) for done in joiner.take(entries[n : n + page])]
        out += joiner.done()
    assert (joiner.taken, joiner.given) == (len(entries), len(out))
    return out


def events(entries: Iterable[Entry]) -> list[Event]:
    return [event_of(*entry) for entry in entries]


def plain(read: Iterable[Event]) -> list[tuple[object, ...]]:
    return [astuple(event) for event in read]


def deltas(*texts: str) -> list[Entry]:
    return [_entry(f"7-{seq}", encode({"text": text}), 100 * seq) for seq, text in enumerate(texts, 2)]


def _entry(entry_id: str, data: bytes, at: int) -> Entry:
    return entry_id.encode(), {b"type": b"text.delta", b"data": data, b"at": b"%d" % at}


# -- what was joined comes back


@given(LOGS, BOUNDS, st.integers(1, 7))
def test_split_gives_what_was_joined(log: list[Entry], bounds: tuple[int, int], page: int) -> None:
    """Ids, types, the bytes of data and times are those of before, whatever was said and however it was read."""
    stored = compacted(log, bounds, page)
    assert plain(split(events(stored))) == plain(events(log))
    assert stored == compacted(log, bounds)


@given(LOGS, BOUNDS)
def test_every_cursor_finds_the_rest(log: list[Entry], bounds: tuple[int, int]) -> None:
    """What a reader is given, and whether it continues what it has, is the same at each cursor, also within a run."""
    before, stored = events(log), events(compacted(log, bounds))
    for cursor in [START, *(event.id for event in before), *(event.before for event in before if event.id.seq > 1)]:
        old = [event for event in before if event.id > cursor]
        new = after(cursor, [event for event in stored if event.id > cursor])
        assert plain(split(new)) == plain(old)
        assert len(split(chained(cursor, new))) == len(chained(cursor, old))
        if old:
            assert _judge_page(cursor, new[0]) == _judge_page(cursor, old[0])
            assert new[0].before == old[0].before


@given(LOGS, BOUNDS)
def test_every_end_cuts_at_its_place(log: list[Entry], bounds: tuple[int, int]) -> None:
    """Up to an id means with it and with nothing after it, also within a run."""
    before, stored = events(log), events(compacted(log, bounds))
    for end in [START, *(event.id for event in before), EventId(1 << 53, 1)]:
        assert plain(split(upto(end, stored))) == plain(event for event in before if event.id <= end)


@given(LOGS, BOUNDS)
def test_merging_and_folding_need_no_splitting(log: list[Entry], bounds: tuple[int, int]) -> None:
    """Joined deltas merge into the bytes that single ones do, and fold into the same transcript."""
    before, stored = events(log), events(compacted(log, bounds))
    assert [event.frame for event in merged(stored)] == [event.frame for event in merged(before)]
    assert fold(stored) == fold(before)


@given(LOGS, BOUNDS)
def test_compacting_again_changes_nothing(log: list[Entry], bounds: tuple[int, int]) -> None:
    """What is compact stays as it is."""
    once = compacted(log, bounds)
    assert compacted(once, bounds) == once


@given(LOGS, st.tuples(st.integers(2, 5), st.sampled_from([40, 60, 4096])))
def test_a_run_is_bounded(log: list[Entry], bounds: tuple[int, int]) -> None:
    """Neither more deltas nor more bytes than a run may have."""
    for event in events(compacted(log, bounds)):
        if isinstance(event, Run):
            assert 2 <= count(event) <= bounds[0]
            assert len(event.data) <= bounds[1]


# -- what is joined


@given(st.lists(TEXTS, min_size=2, max_size=20))
@example(AWKWARD)
def test_whatever_a_writer_says_is_joined(texts: list[str]) -> None:
    """Every text as `encode` writes it can be joined, with its neighbours' texts as one text."""
    (entry,) = compacted(deltas(*texts))
    told = "".join(encode({"text": text}).decode()[9:-2] for text in texts)
    assert entry[1][b"data"] == b'{"text":"%b"}' % told.encode()
    assert (entry[0], entry[1][b"at"]) == (b"7-%d" % (len(texts) + 1), b"%d" % (100 * len(texts) + 100))


def test_a_run_says_how_to_split_it() -> None:
    """One piece per delta: its bytes in the JSON, and the ms since the one before."""
    log = [_entry("7-2", encode({"text": "Kelp"}), 50), _entry("7-3", encode({"text": 'é"'}), 50)]
    ((_, fields),) = compacted([*log, _entry("7-4", encode({"text": ""}), 90), _entry("7-5", b'{"text":"!"}', 80)])
    assert fields == {
        b"type": b"text.delta",
        b"data": '{"text":"Kelpé\\"!"}'.encode(),
        b"at": b"80",
        b"run": b"4 4 0+40 1-10",
    }


def test_what_is_no_neighbour_is_not_joined() -> None:
    """Another kind, another epoch, a hole, or data that says more: each of them ends a run."""
    said = encode({"text": "a"})
    one = _entry("7-2", said, 1)
    thinking = (b"7-3", {**_entry("7-3", said, 1)[1], b"type": b"reasoning.delta"})
    more = (b"7-3", {**_entry("7-3", said, 1)[1], b"more": b"1"})
    others = [
        _entry("8-3", said, 1),
        _entry("7-4", said, 1),
        _entry("7-3", b'{"text":"a","list":[]}', 1),
        thinking,
        more,
    ]
    for other in others:
        assert compacted([one, other]) == [one, other]
