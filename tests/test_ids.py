"""Event ids: their syntax, their order, and the rule that chains them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidEventId
from shared.ids import EPOCH_JUMP, START, EventId, chains, epoch_jump, is_session_id, new_session_id

numbers = st.integers(0, 10**16 - 1)


@given(numbers, numbers)
def test_an_id_reads_as_it_is_written(epoch: int, seq: int) -> None:
    """`<epoch>-<seq>`, both without leading zeros, up to 16 digits each."""
    assert EventId.parse(f"{epoch}-{seq}") == EventId(epoch, seq)
    assert str(EventId(epoch, seq)) == f"{epoch}-{seq}"


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "-1", "1", "1-", "-1-1", "01-1", "1-01", "1-1-1", " 1-1", "1-1\n", "1-١", "$", "+", "1.0-1", "a-b"),
        "1-12345678901234567",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """Never read as something near it: a cursor that was guessed would replay or skip."""
    with pytest.raises(InvalidEventId):
        EventId.parse(text)


def test_ids_are_ordered_as_numbers() -> None:
    """`9` comes before `10`."""
    assert EventId.parse("9-9") < EventId.parse("9-10") < EventId.parse("10-1")


def test_the_next_of_an_epoch_chains() -> None:
    """Only the very next one does."""
    assert chains(EventId(5, 2), EventId(5, 3), None)
    assert not chains(EventId(5, 2), EventId(5, 4), None)
    assert not chains(EventId(5, 2), EventId(5, 2), None)


def test_a_new_epoch_chains_to_what_it_names() -> None:
    """Its first event names the id before it; any other event of it chains to nothing outside."""
    assert chains(EventId(5, 2), EventId(9, 1), EventId(5, 2))
    assert not chains(EventId(5, 2), EventId(9, 1), EventId(5, 1))
    assert not chains(EventId(5, 2), EventId(9, 2), None)
    assert chains(START, EventId(9, 1), START)


def test_made_up_ids_are_valid() -> None:
    """Session ids of our own making obey the rule for everybody's; jumps stay below their bound."""
    assert is_session_id(new_session_id())
    assert all(0 <= epoch_jump() < EPOCH_JUMP for _ in range(100))
    assert not is_session_id("a b")
    assert not is_session_id("x" * 65)
