"""Pages: what is decoded in bulk is what is decoded one by one."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from shared.compaction import Run, count, event_of, split
from shared.events import Event, chained, encode, merged
from shared.ids import START, EventId
from shared.pages import Burst, Page, RawEntry, aligned, decode

TEXTS = ("a", "", "é", '"', "\\", "a\nb", "\x07", "€ and 𝄞", '{"text":"x"}', "word " * 30)
PLENTY = 1 << 20


def entry(epoch: int, seq: int, type_: str, data: bytes, at: int = 0) -> RawEntry:
    return b"%d-%d" % (epoch, seq), [b"type", type_.encode(), b"data", data, b"at", b"%d" % at]


def delta(seq: int, text: str, type_: str = "text.delta", epoch: int = 7) -> RawEntry:
    return entry(epoch, seq, type_, encode({"text": text}), 1000 + seq)


def one_by_one(entries: Sequence[RawEntry]) -> list[Event]:
    return [event_of(id_, dict(zip(fields[::2], fields[1::2], strict=True))) for id_, fields in entries]


def plain(events: Sequence[Event]) -> list[tuple[Any, ...]]:
    return [(event.id, event.type, event.data, event.at) for event in events]


def random_log(dice: random.Random) -> list[RawEntry]:
    """Several epochs of everything there is, now and then with an entry missing."""
    entries, before = [], START
    for epoch in range(1, 4):
        opening = encode({"text": "x", "prev": str(before)})
        entries.append(entry(epoch, 1, dice.choice(["text.delta", "generation.started"]), opening))
        for seq in range(2, dice.randrange(3, 40)):
            type_ = dice.choice(["text.delta"] * 6 + ["reasoning.delta"] * 2 + ["status"])
            data = {"text": dice.choice(TEXTS), **({"index": 1} if dice.random() < 0.05 else {})}
            entries.append(entry(epoch, seq, type_, encode(data), dice.randrange(10**6)))
        before = EventId(epoch, seq)
    return [each for each in entries if dice.random() > 0.02]


@pytest.mark.parametrize("seed", range(40))
def test_split_again_it_is_what_was_read(seed: int) -> None:
    """Every event comes back as it stands in the log, whatever stands beside it; and merged it says the same."""
    entries = random_log(random.Random(seed))
    events, found = one_by_one(entries), decode(entries, 200)
    assert plain(split(found)) == plain(events)
    assert sum(map(count, found)) == len(events)
    assert any(isinstance(event, Burst) for event in found)
    chains = [events[0]]
    while len(chains) < len(events) and events[len(chains)].follows(chains[-1].id):
        chains.append(events[len(chains)])
    if events[0].id == EventId(1, 1):
        head = chained(START, found)
        assert plain(split(head)) == plain(chains)
        assert plain(merged(head)) == plain(merged(chains))


def test_a_hole_among_deltas_is_seen() -> None:
    """Deltas on both sides of one that is missing are not one: a reader must not take the second part for the next."""
    found = decode([delta(2, "a"), delta(3, "b"), delta(5, "c"), delta(6, "d")], PLENTY)
    assert [event.data for event in chained(EventId(7, 1), found)] == [encode({"text": "a"}), encode({"text": "b"})]


def test_what_is_decoded_as_one_is_bounded() -> None:
    """A write is made of whole ones."""
    found = decode([delta(n, "x" * 100) for n in range(2, 102)], 1000)
    assert len(found) > 5
    assert max(len(event.data) for event in found) < 1300


def test_a_stored_run_begins_after_the_cursor() -> None:
    """A page after a cursor inside of a stored run has the rest of the run."""
    run: RawEntry = (b"7-4", [b"type", b"text.delta", b"data", b'{"text":"abc"}', b"at", b"5", b"run", b"1 1 1"])
    page = Page(EventId(7, 2), [run, delta(5, "d"), delta(6, "e")], 10, PLENTY)
    assert [str(event.id) for event in split(page)] == ["7-3", "7-4", "7-5", "7-6"]
    assert (page.entries, page.full) == (3, False)


def test_a_page_says_whether_more_may_follow() -> None:
    """It counts entries of the log, however few events they were decoded as."""
    entries = [delta(2, "a"), delta(3, "b")]
    assert [Page(EventId(7, 1), entries, asked, PLENTY).full for asked in (2, 3)] == [True, False]


def test_a_burst_can_be_cut() -> None:
    """What lies after one of its own deltas."""
    (burst,) = decode([delta(2, "a"), delta(3, "b"), delta(4, "c")], PLENTY)
    assert isinstance(burst, Run)
    assert (burst.after(EventId(7, 2)).data, burst.after(EventId(7, 2)).before) == (b'{"text":"bc"}', EventId(7, 2))


@pytest.mark.parametrize("counts", [(100, 400, 1000), (3,) * 3, (1,) * 3])
def test_readers_of_different_places_soon_read_the_same_pages(counts: tuple[int, ...]) -> None:
    """From any cursor a few pages lead to the same border, and no page is larger than it may be."""
    for seq in range(5000):
        for asked in (*counts, counts[-1]):
            step = aligned(EventId(7, seq), asked)
            assert 0 < step <= asked
            assert step >= asked // 4
            seq += step
        assert seq % counts[-1] == 0
