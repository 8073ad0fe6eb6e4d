"""What turns the outputs of one delivery into the bytes of one stream, and says how that ends."""

from enum import Enum
from typing import Protocol

from api.outputs import Cut, End, Nothing, Output, Refused
from shared.telemetry import get_logger

_log = get_logger(__name__)


class Unsayable(Exception):
    """The dialect has no words for this output: the stream is cut, and its client comes back for all of it."""


class Encoder(Protocol):
    @property
    def dialect(self) -> str:
        """Its name, for the counts."""

    @property
    def plain(self) -> bool:
        """Events are sent as they were published: the stream may join the audience of a feed."""

    @property
    def over(self) -> bool:
        """What was encoded last is the end of the stream, whatever the delivery has still to give."""

    @property
    def partial(self) -> bool:
        """To end now would look like success, and be none."""

    def __call__(self, output: Output) -> bytes:
        """Nothing, where an output is nothing to the client. Raises Unsayable."""


class Ending(Enum):
    NONE = "none"
    CLEAN = "clean"
    """Everything was said."""
    CUT = "cut"
    """Without the end of the response, so that nobody takes it for one."""


def encoded(encode: Encoder, output: Output) -> tuple[bytes, Ending]:
    """What to send for an output, and whether the stream ends with it."""
    match output:
        case End() | Nothing():
            return b"", Ending.CUT if encode.partial else Ending.CLEAN
        case Cut() | Refused():
            return b"", Ending.CUT
    try:
        data = encode(output)
    except Unsayable as what:
        _log.info("a stream is cut: its dialect cannot say what came", what=str(what))
        return b"", Ending.CUT
    return data, Ending.CLEAN if encode.over else Ending.NONE
