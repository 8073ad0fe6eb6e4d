"""What must hold when all is over: of a log, and of a reader against the log."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared.events import DELTAS, TERMINALS, Event, EventType, State
from shared.ids import START
from shared.views import SessionView
from tests.chaos.readers import Got, Reader, Way


@dataclass(frozen=True)
class Turn:
    """One generation as the log has it: its last attempt, and how it ended."""

    generation: str
    attempts: int
    text: str
    end: Event | None


def turns(events: Iterable[Event]) -> list[Turn]:
    found: dict[str, Turn] = {}
    current = ""
    for event in events:
        if event.type == EventType.MESSAGE:
            current = event.value["generation"]
            found.setdefault(current, Turn(current, 0, "", None))
        elif event.type == EventType.STARTED:
            found[current] = Turn(current, event.value["attempt"], "", None)
        elif event.type == EventType.TEXT:
            now = found[current]
            found[current] = Turn(current, now.attempts, now.text + event.value["text"], None)
        elif event.terminal:
            now = found[current]
            found[current] = Turn(current, now.attempts, now.text, event)
    return list(found.values())


def of_log(events: Sequence[Event], view: SessionView | None) -> list[str]:
    """What is wrong with a session that is over: chain, order, number of ends, and what its hash says."""
    wrong = []
    cursor, current, open_ = START, "", False
    for event in events:
        if not event.follows(cursor):
            wrong.append(f"{event.id} does not follow {cursor}")
        cursor = event.id
        if event.type == EventType.MESSAGE:
            if open_ and event.value["generation"] != current:
                wrong.append(f"{current} has no end before {event.id}")
            current, open_ = event.value["generation"], True
        elif not open_:
            wrong.append(f"{event.id} {event.type} comes after the end of {current}")
        if event.terminal:
            open_ = False
            if event.value["generation"] != current:
                wrong.append(f"{event.id} ends {event.value['generation']}, and not {current}")
    if open_:
        wrong.append(f"{current} has no end")
    if view is None:
        return [*wrong, "there is no session"]
    if view.live or view.last != cursor or (events and _state(events[-1]) is not view.state):
        wrong.append(f"the session says {view.state} at {view.last}, the log ends with {events[-1]}")
    return wrong


def _state(event: Event) -> State | None:
    return TERMINALS[EventType(event.type)] if event.terminal else None


@dataclass
class Account:
    """What one reader missed and what it had twice or otherwise than the log."""

    lost: list[str]
    doubled: list[str]


def of_reader(reader: Reader, events: Sequence[Event]) -> Account:
    """Every event of the log in its order, none twice: as it stands there, or neighbouring deltas joined under the id
    of the last."""
    account = Account([], [])
    place = {event.id: n for n, event in enumerate(events)}
    at = 0
    for got in reader.got:
        n = place.get(got.id)
        if n is None:
            account.lost.append(f"{got.id} {got.type} is not in the log")
        elif n < at:
            account.doubled.append(f"{got.id} {got.type} came again")
        elif not _same(got, events[at : n + 1], exact=reader.way is not Way.CHAT_SOCKET):
            account.lost.append(f"{events[at].id} to {got.id} came as {got.type} {str(got.data)[:200]}")
            at = n + 1
        else:
            at = n + 1
    if at < len(events):
        account.lost.append(f"{len(events) - at} events from {events[at].id} on never came")
    return account


def _same(got: Got, stored: Sequence[Event], *, exact: bool) -> bool:
    """`exact`: all data must be the same; `/ws/chat` has its own form of it."""
    if {event.type for event in stored} != {got.type}:
        return False
    if got.type in DELTAS:
        return "".join(event.value["text"] for event in stored) == str(got.data["text"])
    return len(stored) == 1 and (not exact or bool(got.data == stored[0].value))


def newest(got: Sequence[Got], kind: str) -> Got | None:
    return next((one for one in reversed(got) if one.type == kind), None)
