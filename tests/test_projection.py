"""The base of the dialects that tell of one answer: which events are its own, and what may count as its end."""

import pytest

from api.dialects.encoder import Ending, Unsayable, encoded
from api.dialects.projection import Projection, ProjectionEncoder
from api.outputs import CaughtUp, Cut, End, Events, Gap, KeepAlive, Nothing, Output
from shared.events import Event, EventType, encode
from shared.ids import START, EventId
from shared.transcript import Transcript


class Types(Projection):
    """Says the type of each event."""

    def project(self, event: Event) -> bytes:
        if event.type == EventType.STATUS:
            raise Unsayable(event.type)
        return event.type.encode() + b" "


def _event(seq: int, kind: EventType, **data: object) -> Event:
    return Event(EventId(1, seq), kind, encode(data))


LOG = [
    _event(1, EventType.MESSAGE, generation="g1", role="user", content="one"),
    _event(2, EventType.STARTED, generation="g1", attempt=1),
    _event(3, EventType.TEXT, text="1"),
    _event(4, EventType.COMPLETED, generation="g1"),
    _event(5, EventType.MESSAGE, generation="g2", role="user", content="two"),
    _event(6, EventType.STARTED, generation="g2", attempt=1),
    _event(7, EventType.TEXT, text="2"),
    _event(8, EventType.CANCELLED, generation="g2"),
]


@pytest.mark.parametrize(("generation", "last"), [("g1", b"generation.completed "), ("g2", b"generation.cancelled ")])
def test_a_projection_is_given_its_own_generation_alone(generation: str, last: bytes) -> None:
    """Its messages, its start, what was said, and its end; and nothing more, whatever follows."""
    projection = Types(generation)
    assert b"".join(map(projection.take, LOG)) == b"message generation.started text.delta " + last
    assert projection.over


@pytest.mark.parametrize("end", [End(), Nothing()])
def test_no_end_before_the_terminal(end: Output) -> None:
    """What ends before its generation has ended is cut; after it, the end is clean."""
    encode_ = ProjectionEncoder(Types("g1"))
    assert encoded(encode_, end) == (b"", Ending.CUT)
    assert encoded(encode_, Events(LOG[:3]))[1] is Ending.NONE
    assert encoded(encode_, end) == (b"", Ending.CUT)
    assert encoded(encode_, Events(LOG[3:])) == (b"generation.completed ", Ending.CLEAN)
    assert encoded(encode_, end) == (b"", Ending.CLEAN)


def test_a_cut_is_never_an_end() -> None:
    """Not even after the terminal: whoever cuts has a reason."""
    encode_ = ProjectionEncoder(Types("g1"))
    encoded(encode_, Events(LOG))
    assert encoded(encode_, Cut()) == (b"", Ending.CUT)


def test_what_cannot_be_said_cuts() -> None:
    """A gap, and an event that the protocol has no words for, are not passed over."""
    gap = Gap(EventId(1, 3), START, None, "trimmed", Transcript())
    assert encoded(ProjectionEncoder(Types("g1")), gap) == (b"", Ending.CUT)
    unsayable = [*LOG[:2], _event(3, EventType.STATUS, text="…")]
    assert encoded(ProjectionEncoder(Types("g1")), Events(unsayable)) == (b"", Ending.CUT)


def test_what_is_no_event_is_nothing_to_the_client() -> None:
    """Keep-alives are comments; that the replay is over is not told."""
    encode_ = ProjectionEncoder(Types("g1"))
    assert encoded(encode_, KeepAlive()) == (b": ka\n", Ending.NONE)
    assert encoded(encode_, CaughtUp(START)) == (b"", Ending.NONE)
