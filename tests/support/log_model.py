"""What the scripts should do, in plain Python: one session, the answers to its calls, and its log."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.events import LIVE, TERMINALS, EventType
from shared.ids import EPOCH_JUMP, START, EventId
from tests.support.wire import Sent

DELETED = "deleted"
HASH_FIELDS = ("state", "token", "generation", "worker", "stop", "question")


@dataclass(frozen=True)
class Entry:
    id: EventId
    type: str
    data: str

    @property
    def value(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.data)
        return value


@dataclass
class Model:
    """One session. `clock` bounds a new epoch; which one it is only Redis knows, and tells through `opened`."""

    state: str = ""
    epoch: int = 0
    token: str = ""
    last: EventId = START
    generation: str = ""
    attempt: int = 0
    crashes: int = 0
    worker: str = ""
    stop: str = ""
    question: str = ""
    answer: str = ""
    model: str = ""
    released: str = ""
    """The token that gave the generation back last."""
    nonces: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """Nonce → generation, hash of the body, id of the turn's first event."""
    log: list[Entry] = field(default_factory=list)
    """As it is kept."""
    log_exists: bool = False
    history: list[Entry] = field(default_factory=list)
    """All that was ever appended to it, also what was trimmed away or has expired."""

    @property
    def live(self) -> bool:
        return self.state in LIVE

    @property
    def known(self) -> bool:
        return self.state not in ("", DELETED)

    def copy(self) -> "Model":
        return copy.deepcopy(self)

    def answer_to(self, sent: Sent, clock: int, opened: int) -> list[str]:
        """Do what the call should do, and give what it should answer. `opened` is the epoch Redis is in now."""
        verb: Callable[[Sequence[str], _Epoch], list[str]] = getattr(self, "_" + sent.verb)
        return verb(sent.argv, _Epoch(clock, opened))

    def trim(self, keep: int) -> None:
        self.log = self.log[-keep:] if keep else []

    def expire(self) -> None:
        self.log, self.log_exists = [], False

    # -- the verbs

    def _session_create(self, argv: Sequence[str], epoch: "_Epoch") -> list[str]:
        nonce, body, jump, count = argv[0], argv[1], argv[2], int(argv[3])
        seen = self.nonces.get(nonce)
        if self.state == DELETED and seen:
            return ["DELETED"]
        if self.known:
            if seen is None:
                return ["EXISTS"]
            return ["OK", seen[0], seen[2], "0"] if seen[1] == body else ["OTHER_BODY"]
        self.log, self.history, self.last, self.log_exists = [], [], START, True
        self.model = dict(zip(argv[4 + count :: 2], argv[5 + count :: 2], strict=True))["model"]
        self._open(epoch, jump, "", *(("message", data) for data in argv[4 : 4 + count]))
        self._turn("g1", nonce, body)
        return ["OK", "g1", str(self.last), "1"]

    def _session_message(self, argv: Sequence[str], epoch: "_Epoch") -> list[str]:
        nonce, body, jump, cancelled, count = *argv[:4], int(argv[4])
        if not self.known:
            return ["UNKNOWN"]
        if seen := self.nonces.get(nonce):
            return ["OK", seen[0], seen[2], "0", ""] if seen[1] == body else ["OTHER_BODY"]
        if self.live and not cancelled:
            return ["RUNNING", self.generation]
        if not self.live and not self.log_exists:
            return ["EXPIRED"]
        end = [("generation.cancelled", _with(cancelled, generation=self.generation))] if self.live else []
        worker = self.worker if self.live else ""
        generation = f"g{int(self.generation[1:]) + 1}"
        said = [("message", _with(data, generation=generation)) for data in argv[5 : 5 + count]]
        self._open(epoch, jump, "", *end, *said)
        self._turn(generation, nonce, body)
        return ["OK", generation, str(self.last), "1", worker]

    def _session_delete(self, argv: Sequence[str], epoch: "_Epoch") -> list[str]:
        if not self.known:
            return ["UNKNOWN"]
        worker = self.worker
        kept = {nonce: (generation, "", "") for nonce, (generation, *_) in self.nonces.items()}
        self.__dict__.update(Model(state=DELETED, epoch=self.epoch, nonces=kept).__dict__)
        return ["OK", worker]

    def _generation_claim(self, argv: Sequence[str], epoch: "_Epoch") -> list[str]:
        token, generation, worker, jump = argv
        if not self.known:
            return ["UNKNOWN"]
        if self.token == token and self.live:
            return ["OK", str(self.epoch), str(self.attempt)]
        if self.state != "queued" or self.generation != generation:
            return ["NO", self.state, self.generation]
        self.attempt += 1
        data = {"generation": generation, "attempt": self.attempt, "model": self.model}
        self._open(epoch, jump, token, ("generation.started", _json(data)))
        self.state, self.worker = "running", worker
        return ["OK", str(self.epoch), str(self.attempt)]

    def _generation_append(self, argv: Sequence[str], epoch: "_Epoch") -> list[str]:
        token, pen, first = argv[0], int(argv[1]), int(argv[2])
        batch = list(zip(argv[5::2], argv[6::2], strict=True))
        if not self.known:
            return ["GONE"]
        if not token or token != self.token or pen != self.epoch:
            return ["FENCED", str(self.epoch)]
        there = self.last.seq
        if first > there + 1:
            return ["BEHIND", str(there)]
        fresh = batch[there + 1 - first :]
        if fresh and not self.live:
            return ["ENDED", self.state]
        for type_, data in fresh:
            self._append(type_, data)
        return ["OK", str(self.last.seq), self.stop, self.answer if self.state == "waiting" else ""]

    def _generation_release(self, argv: Sequence[str], epoch: "_Epoch") -> list[str]:
        if not self.known:
            return ["GONE"]
        if self.state == "queued" and argv[0] and argv[0] == self.released:
            return ["QUEUED", str(self.epoch), self.generation]
        if not argv[0] or argv[0] != self.token:
            return ["FENCED", str(self.epoch)]
        if not self.live:
            return ["ENDED", self.state]
        if self.stop == self.generation:
            return ["STOP"]
        self.released = argv[0]
        self._requeue()
        return ["QUEUED", str(self.epoch), self.generation]

    def _generation_reap(self, argv: Sequence[str], epoch: "_Epoch") -> list[str]:
        judged, most, min_age, jump, failed, cancelled = int(argv[0]), int(argv[1]), int(argv[2]), *argv[3:6]
        if not self.known:
            return ["UNKNOWN"]
        if self.state not in ("running", "waiting") or self.epoch != judged:
            return ["NO", self.state]
        if min_age:
            return ["NO", "young"]
        if self.stop or self.crashes + 1 >= most:
            return self._decree(
                epoch, jump, *(("generation.cancelled", cancelled) if self.stop else ("generation.failed", failed))
            )
        self.crashes += 1
        self._requeue()
        return ["QUEUED", str(self.epoch), self.generation]

    def _generation_abandon(self, argv: Sequence[str], epoch: "_Epoch") -> list[str]:
        if not self.known:
            return ["UNKNOWN"]
        if self.state != "queued" or self.epoch != int(argv[0]):
            return ["NO", self.state]
        return self._decree(epoch, argv[2], "generation.failed", argv[3])

    def _generation_stop(self, argv: Sequence[str], epoch: "_Epoch") -> list[str]:
        asked, jump, data = argv[:3]
        if not self.known:
            return ["UNKNOWN"]
        if asked != self.generation:
            return ["OTHER", self.state, self.generation]
        if not self.live:
            return ["DONE", self.state, self.generation]
        if self.state == "queued":
            _, id_, generation = self._decree(epoch, jump, "generation.cancelled", data)
            return ["CANCELLED", id_, generation]
        self.stop = asked
        return ["STOPPING", self.worker, asked]

    def _question_answer(self, argv: Sequence[str], epoch: "_Epoch") -> list[str]:
        nonce, question, answer = argv
        if not self.known:
            return ["UNKNOWN"]
        stored = json.loads(self.answer) if self.answer else {}
        if (stored.get("nonce"), stored.get("question")) == (nonce, question):
            return ["OK", self.worker]
        if self.state != "waiting" or self.question != question or self.answer:
            return ["GONE"]
        self.answer = answer
        return ["OK", self.worker]

    # -- inside

    def _open(self, epoch: "_Epoch", jump: str, token: str, *batch: tuple[str, str]) -> None:
        self.epoch, self.token = epoch.after(self.epoch, int(jump)), token
        prev = self.last
        for n, (type_, data) in enumerate(batch, 1):
            self._keep(Entry(EventId(self.epoch, n), type_, _with(data, prev=str(prev)) if n == 1 else data))

    def _append(self, type_: str, data: str) -> None:
        self._keep(Entry(EventId(self.epoch, self.last.seq + 1), type_, data))
        if type_ == EventType.QUESTION:
            self.state, self.question, self.answer = "waiting", json.loads(data)["id"], ""
        elif type_ == EventType.ANSWER:
            self.state, self.question = "running", ""
        elif type_ in TERMINALS:
            self._close(type_)

    def _keep(self, entry: Entry) -> None:
        self.log.append(entry)
        self.history.append(entry)
        self.last = entry.id

    def _turn(self, generation: str, nonce: str, body: str) -> None:
        self.state, self.generation, self.attempt, self.crashes = "queued", generation, 0, 0
        self.worker = self.stop = self.question = self.answer = ""
        self.nonces[nonce] = (generation, body, str(self.last))

    def _requeue(self) -> None:
        """An answer that was accepted stays for the next attempt."""
        self.state = "queued"
        self.token = self.worker = self.question = ""

    def _close(self, type_: str) -> None:
        self.state = TERMINALS[EventType(type_)].value
        self.worker = self.question = ""

    def _decree(self, epoch: "_Epoch", jump: str, type_: str, data: str) -> list[str]:
        self._open(epoch, jump, "", (type_, _with(data, generation=self.generation)))
        self._close(type_)
        return ["ENDED", str(self.last), self.generation]


@dataclass(frozen=True)
class _Epoch:
    clock: int
    """ms of the server just after the call."""
    opened: int

    def after(self, last: int, jump: int) -> int:
        """The epoch that was opened: larger than `last`, and where the rule puts it."""
        assert 0 <= jump < EPOCH_JUMP
        assert last < self.opened
        assert self.opened - jump in range(max(last + 1, self.clock - 10_000), max(last + 1, self.clock) + 1)
        return self.opened


def _with(data: str, **first: str) -> str:
    """`data` with fields before its own, as the scripts splice them in."""
    head = ",".join(f'"{name}":"{value}"' for name, value in first.items())
    return "{" + head + "," + data[1:]


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, separators=(",", ":"))
