"""The list of resume cases: what a client has seen, what happens while it is away, and what it gets when it is back.

Each begins with a session that says `1-1 message hello`. Ids are places: `2-3` is the third event of the second epoch.
What is expected is said once, and each transport has its own words for it:

    end          a stream ends cleanly; a socket says `caught_up`, if it has not yet, and gets the next turn
    nothing      a stream is answered 204; a socket says `caught_up`, and gets the next turn
    refused      the status and the code, before anything else; a socket is closed with 4000 more, and that code
    cut          a stream is aborted; a socket is closed with a code that says: come back
"""

from dataclasses import dataclass, field

from tests.conformance.scene import (
    Step,
    alive,
    ask,
    call_a_tool,
    compact,
    crash,
    delete,
    expire,
    finish,
    interrupt,
    keep,
    mark,
    next_turn,
    roll_back,
    say,
    say_again,
    start,
    status,
    stopped,
    take_the_answer,
    verdict,
)  # fmt: skip
from tests.conformance.transports import ONE_CALL, Whole


class Raw(str):
    """A cursor that is no place, sent as it is, after the session where the transport puts that before it."""

    __slots__ = ()


@dataclass(frozen=True)
class Case:
    name: str
    cursor: str | None
    """A place, or what is sent in its stead (Raw, Whole); None: no cursor at all."""
    expect: tuple[str, ...]
    """What arrives: events, neighbouring deltas merged, as `place type gist`; then how it ends."""
    seen: tuple[Step, ...] = ()
    """While the client is connected for the first time, within one turn. Then it vanishes."""
    away: tuple[Step, ...] = ()
    """Before it is back."""
    back: tuple[Step, ...] = ()
    """Once it is back and caught up. Where it must wait first, so that a keep-alive comes: the first step then."""
    session: str | None = None
    """Another one to come back to."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Transports where this cannot exist, and why."""


HELLO = "1-1 message g1 hello"
STARTED = "2-1 generation.started g1/1"
ASKED_AGAIN = dict.fromkeys(
    ONE_CALL, "without a cursor this asks: a repeat with the same key is in tests/test_chat_stream.py"
)
IN_THE_PATH = dict.fromkeys(("SSE", "WS", "WS /ws/chat"), "the session is no part of the cursor")


# -- the answer is being written

DURING = [
    Case(
        "no cursor, during the answer", None,
        (HELLO, STARTED, "2-4 text.delta abc", "caught_up 2-4", "2-5 text.delta d",
         "2-6 generation.completed g1", "end"),
        seen=(start, say("a", "b")), away=(say("c"),), back=(say("d"), finish), left_out=ASKED_AGAIN,
    ),
    Case(
        "the start, during the answer", "0-0",
        (HELLO, STARTED, "2-4 text.delta abc", "caught_up 2-4", "2-5 text.delta d",
         "2-6 generation.completed g1", "end"),
        seen=(start, say("a", "b")), away=(say("c"),), back=(say("d"), finish),
    ),
    Case(
        "in the middle of what was replayed", "1-1",
        (STARTED, "2-3 text.delta ab", "caught_up 2-3", "2-4 text.delta c", "2-5 generation.completed g1", "end"),
        seen=(start, say("a", "b")), back=(say("c"), finish),
    ),
    Case(
        "in the middle of the answer", "2-2",
        ("2-4 text.delta bc", "caught_up 2-4", "2-5 text.delta d", "2-6 generation.completed g1", "end"),
        seen=(start, say("a", "b", "c")), back=(say("d"), finish),
    ),
    Case(
        "in the middle, and more was said meanwhile", "2-2",
        ("2-5 text.delta bcd", "caught_up 2-5", "2-6 text.delta e", "2-7 generation.completed g1", "end"),
        seen=(start, say("a", "b")), away=(say("c", "d"),), back=(say("e"), finish),
    ),
    Case(
        "at the last event, and nothing was said meanwhile", "2-3",
        ("caught_up 2-3", "2-4 text.delta c", "2-5 text.delta 🐙", "2-6 generation.completed g1", "end"),
        seen=(start, say("a", "b")), back=(say("c", "🐙"), finish),
    ),
    Case(
        "at the last event, and the answer ended meanwhile", "2-3",
        ("2-4 text.delta c", "2-5 generation.completed g1", "end"),
        seen=(start, say("a", "b")), away=(say("c"), finish),
    ),
    Case(
        "queued when it left, and still", "1-1",
        ("caught_up 1-1", STARTED, "2-2 text.delta a", "2-3 generation.completed g1", "end"),
        back=(start, say("a"), finish),
    ),
    Case(
        "all kinds of events, deltas merged around them", "1-1",
        (STARTED, "2-2 status Looking", "2-4 text.delta ab", "2-5 tool.call look", "2-6 text.delta c", "caught_up 2-6",
         "2-7 generation.completed g1", "end"),
        seen=(start,), away=(status, say("a", "b"), call_a_tool, say("c")), back=(finish,),
    ),
]  # fmt: skip

# -- the answer has ended, just now or long ago

_WHOLE = (start, say("a", "b"), finish)
_ALL = (HELLO, STARTED, "2-3 text.delta ab", "2-4 generation.completed g1", "end")


def _finished(when: str, *later: Step) -> list[Case]:
    return [
        Case(f"no cursor, {when}", None, _ALL, seen=_WHOLE, away=later, left_out=ASKED_AGAIN),
        Case(f"the start, {when}", "0-0", _ALL, seen=_WHOLE, away=later),
        Case(f"in the middle, {when}", "2-2", ("2-3 text.delta b", *_ALL[-2:]), seen=_WHOLE, away=later),
        Case(f"one before the end, {when}", "2-3", _ALL[-2:], seen=_WHOLE, away=later),
        Case(f"at the end, {when}", "2-4", ("nothing",), seen=_WHOLE, away=later),
    ]


ENDED = [
    *_finished("at the end of the answer"),
    *_finished("after the end, once the log is compacted", compact),
    Case(
        "stopped while it was away", "2-2", ("2-3 text.delta b", "2-4 generation.cancelled g1", "end"),
        seen=(start, say("a")), away=(say("b"), stopped),
    ),
    Case("at the end of a stopped one", "2-3", ("nothing",), seen=(start, say("a"), stopped)),
]  # fmt: skip

# -- later turns

_FIRST = (start, say("a"), finish)
_SECOND = ("3-1 message g2 more", "4-1 generation.started g2/1")
TURNS = [
    Case(
        "in an older turn, during the next", "2-1",
        ("2-2 text.delta a", "2-3 generation.completed g1", *_SECOND, "4-2 text.delta x", "caught_up 4-2",
         "4-3 generation.completed g2", "end"),
        seen=_FIRST, away=(next_turn, start, say("x")), back=(finish,),
    ),
    Case(
        "in an older turn, after the next", "2-1",
        ("2-2 text.delta a", "2-3 generation.completed g1", *_SECOND, "4-2 text.delta x", "4-3 generation.completed g2",
         "end"),
        seen=_FIRST, away=(next_turn, start, say("x"), finish),
    ),
    Case(
        "at the last event of a turn, and the next one is queued", "2-3",
        (_SECOND[0], "caught_up 3-1", _SECOND[1], "4-2 text.delta x", "4-3 generation.completed g2", "end"),
        seen=_FIRST, away=(next_turn,), back=(start, say("x"), finish),
    ),
    Case(
        "at the last event of a turn, and the next one is being written", "2-3",
        (*_SECOND, "4-2 text.delta x", "caught_up 4-2", "4-3 generation.completed g2", "end"),
        seen=_FIRST, away=(next_turn, start, say("x")), back=(finish,),
    ),
    Case(
        "at the last event of a turn, and the next one has ended", "2-3",
        (*_SECOND, "4-2 text.delta x", "4-3 generation.completed g2", "end"),
        seen=_FIRST, away=(next_turn, start, say("x"), finish),
    ),
    Case(
        "at the message that opened the turn", "3-1",
        (_SECOND[1], "4-2 text.delta x", "caught_up 4-2", "4-3 generation.completed g2", "end"),
        seen=_FIRST, away=(next_turn, start, say("x")), back=(finish,),
    ),
    Case(
        "interrupted by the next turn while it was away", "2-2",
        ("2-3 text.delta b", "3-1 generation.cancelled g1", "3-2 message g2 more", "caught_up 3-2", _SECOND[1],
         "4-2 text.delta x", "4-3 generation.completed g2", "end"),
        seen=(start, say("a")), away=(say("b"), interrupt), back=(start, say("x"), finish),
    ),
    Case(
        "between the end of the interrupted turn and the next", "3-1",
        ("3-2 message g2 more", _SECOND[1], "caught_up 4-1", "4-2 text.delta x", "4-3 generation.completed g2", "end"),
        seen=(start, say("a")), away=(interrupt, start), back=(say("x"), finish),
    ),
]  # fmt: skip

# -- another worker has taken over

_AGAIN = "3-1 generation.started g1/2"
TAKEOVER = [
    Case(
        "at the last event of the first attempt", "2-3",
        (_AGAIN, "3-2 text.delta A", "caught_up 3-2", "3-3 text.delta B", "3-4 generation.completed g1", "end"),
        seen=(start, say("a", "b")), away=(crash, start, say("A")), back=(say("B"), finish),
    ),
    Case(
        "in the first attempt", "2-2",
        ("2-3 text.delta b", _AGAIN, "3-2 text.delta A", "caught_up 3-2", "3-3 generation.completed g1", "end"),
        seen=(start, say("a", "b")), away=(crash, start, say("A")), back=(finish,),
    ),
    Case(
        "in the second attempt", "3-1",
        ("3-2 text.delta A", "caught_up 3-2", "3-3 generation.completed g1", "end"),
        seen=(start, say("a"), crash, start), away=(say("A"),), back=(finish,),
    ),
    Case(
        "between two attempts", "2-2",
        ("caught_up 2-2", _AGAIN, "3-2 text.delta A", "3-3 generation.completed g1", "end"),
        seen=(start, say("a")), away=(crash,), back=(start, say("A"), finish),
    ),
    Case(
        "the worker was lost, and no attempt is left", "2-2", ("3-1 generation.failed g1", "end"),
        seen=(start, say("a")), away=(verdict,),
    ),
]  # fmt: skip

# -- a question is open

QUESTIONS = [
    Case(
        "before the question", "2-1",
        ("2-2 text.delta a", "2-3 question Which?", "caught_up 2-3", "2-4 answer red",
         "2-5 generation.completed g1", "end"),
        seen=(start, say("a")), away=(ask,), back=(take_the_answer, finish),
    ),
    Case(
        "from the start, with the question open", "0-0",
        (HELLO, STARTED, "2-2 question Which?", "caught_up 2-2", "2-3 answer red",
         "2-4 generation.completed g1", "end"),
        seen=(start, ask), back=(take_the_answer, finish),
    ),
    Case(
        "at the question", "2-2", ("caught_up 2-2", "2-3 answer red", "2-4 generation.completed g1", "end"),
        seen=(start, ask), back=(take_the_answer, finish),
    ),
    Case(
        "at the question, which was answered elsewhere", "2-2",
        ("2-3 answer red", "2-4 text.delta a", "caught_up 2-4", "2-5 generation.completed g1", "end"),
        seen=(start, ask), away=(take_the_answer, say("a")), back=(finish,),
    ),
]  # fmt: skip

# -- what is kept no longer follows the cursor

GAPS = [
    Case(
        "trimmed head, no cursor", None,
        ("2-4 gap trimmed 0-0 2-4 'c'", "caught_up 2-4", "2-5 text.delta d", "2-6 generation.completed g1", "end"),
        seen=(start, say("a", "b", "c")), away=(keep(1),), back=(say("d"), finish), left_out=ASKED_AGAIN,
    ),
    Case(
        "trimmed head, the start", "0-0",
        ("2-4 gap trimmed 0-0 2-3 'bc'", "caught_up 2-4", "2-5 text.delta d", "2-6 generation.completed g1", "end"),
        seen=(start, say("a", "b", "c")), away=(keep(2),), back=(say("d"), finish),
    ),
    Case(
        "trimmed head, the cursor is gone with it", "2-2",
        ("2-5 gap trimmed 2-2 2-4 'cd'", "caught_up 2-5", "2-6 text.delta e", "2-7 generation.completed g1", "end"),
        seen=(start, say("a")), away=(say("b", "c", "d"), keep(2)), back=(say("e"), finish),
    ),
    Case(
        "trimmed head, what is kept follows the cursor", "2-2",
        ("2-4 text.delta bc", "caught_up 2-4", "2-5 generation.completed g1", "end"),
        seen=(start, say("a", "b", "c")), away=(keep(2),), back=(finish,),
    ),
    Case(
        "trimmed head, after the end", "2-1",
        ("2-4 gap trimmed 2-1 2-4 'c'", "2-5 generation.completed g1", "end"),
        seen=(start, say("a", "b", "c"), finish), away=(keep(2),),
    ),
    Case(
        "trimmed but for the end", "0-0", ("2-4 gap trimmed 0-0 2-5 ''", "2-5 generation.completed g1", "end"),
        seen=(start, say("a", "b", "c"), finish), away=(keep(1),),
    ),
    Case(
        "trimmed head, with a question open", "2-1",
        ("2-3 gap trimmed 2-1 2-3 '' asks Which?", "caught_up 2-3", "2-4 answer red",
         "2-5 generation.completed g1", "end"),
        seen=(start,), away=(say("a"), ask, keep(1)), back=(take_the_answer, finish),
    ),
    Case(
        "an id of no epoch of this log", "1+-5",
        ("2-3 gap lost ?-5 1-1 'ab'", "caught_up 2-3", "2-4 generation.completed g1", "end"),
        seen=(start, say("a", "b")), back=(finish,),
    ),
]  # fmt: skip

# -- the log has lost what the client has seen

_LOST = (start, say("a", "b"), mark, say("c", "d"))
AHEAD = [
    Case(
        "ahead of the log of a worker that is gone", "2-5",
        ("2-3 gap ahead 2-5 1-1 'ab'", "caught_up 2-3", _AGAIN, "3-2 text.delta A",
         "3-3 generation.completed g1", "end"),
        seen=_LOST, away=(roll_back,), back=(crash, start, say("A"), finish),
    ),
    Case(
        "ahead of the log of a worker that lives, and says it again", "2-5",
        ("2-6 text.delta e", "caught_up 2-6", "2-7 generation.completed g1", "end"),
        seen=_LOST, away=(alive, roll_back), back=(say_again("c", "d", "e"), finish),
    ),
    Case(
        "ahead of the log of a worker that lives, and has said it again before the client is back", "2-5",
        ("2-6 text.delta e", "2-7 generation.completed g1", "end"),
        seen=_LOST, away=(alive, roll_back, say_again("c", "d", "e"), finish),
    ),
    Case(
        "ahead of a log that has ended", "2-9", ("2-3 gap ahead 2-9 1-1 'ab'", "2-4 generation.completed g1", "end"),
        seen=_WHOLE,
    ),
    Case(
        "in an epoch to come, of a worker that lives", "9-1",
        ("2-3 gap ahead ?-1 1-1 'ab'", "caught_up 2-3", "2-4 generation.completed g1", "end"),
        seen=(start, say("a", "b")), away=(alive,), back=(finish,),
    ),
    Case(
        "in an epoch to come, after the end", "9-1",
        ("2-3 gap ahead ?-1 1-1 'ab'", "2-4 generation.completed g1", "end"),
        seen=_WHOLE,
    ),
]  # fmt: skip

# -- there is nothing to come back to

_EXPIRED = ("refused 410 session_expired",)
_UNKNOWN = ("refused 404 session_not_found",)
REFUSED = [
    Case("expired, no cursor", None, _EXPIRED, seen=_WHOLE, away=(expire,), left_out=ASKED_AGAIN),
    Case("expired, the start", "0-0", _EXPIRED, seen=_WHOLE, away=(expire,)),
    Case("expired, in the middle", "2-2", _EXPIRED, seen=_WHOLE, away=(expire,)),
    Case("expired, one before the end", "2-3", _EXPIRED, seen=_WHOLE, away=(expire,)),
    Case("expired, ahead", "9-1", _EXPIRED, seen=_WHOLE, away=(expire,)),
    Case("expired, at the end: nothing is missing", "2-4", ("nothing",), seen=_WHOLE, away=(expire,)),
    Case("deleted, no cursor", None, _UNKNOWN, seen=_WHOLE, away=(delete,), left_out=ASKED_AGAIN),
    Case("deleted during the answer", "2-2", _UNKNOWN, seen=(start, say("a")), away=(delete,)),
    Case("deleted, at the end", "2-4", _UNKNOWN, seen=_WHOLE, away=(delete,)),
    Case("deleted while it reads", "2-2", ("caught_up 2-2", "cut"), seen=(start, say("a")), back=(delete,)),
    Case("unknown session, no cursor", None, _UNKNOWN, session="nobody", left_out=ASKED_AGAIN),
    Case("unknown session, the start", "0-0", _UNKNOWN, session="nobody"),
    Case("unknown session, a cursor of another one", "1-1", _UNKNOWN, session="nobody"),
]

_MALFORMED = ("refused 400 invalid_last_event_id",)
MALFORMED = [
    *[
        Case(f"malformed: {text!r}", Raw(text), _MALFORMED, seen=(start, say("a")))
        for text in (
            "", "-1", "$", ">", "+", "0", "1", "abc", "1-", "-", "1-01", "01-1", "+1-1", "1-1-1", "1.0-1", "1-1,2-1",
            "12345678901234567-1", "1-12345678901234567", "0x1-1", "null", "undefined",
        )
    ],
    *[
        Case(f"malformed, with the session: {text!r}", Whole(text), _MALFORMED, seen=(start,), left_out=IN_THE_PATH)
        for text in ("1-1", "/1-1", "no session/1-1", "a/b/1-1", "{sid}", "{sid}/", "{sid}/1-1/", "{sid}:1-1", "/", "")
    ],
]  # fmt: skip

CASES = [*DURING, *ENDED, *TURNS, *TAKEOVER, *QUESTIONS, *GAPS, *AHEAD, *REFUSED, *MALFORMED]
