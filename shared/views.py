"""What a session's hash says, as one value."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.events import LIVE, State
from shared.ids import EventId

FIELDS = (
    "state", "epoch", "token", "last", "generation", "attempt", "crashes", "worker", "stop", "question",
    "answer", "since", "expire_at", "model", "pipeline", "options", "on_crash", "principal", "created",
)  # fmt: skip
"""Fields of the session hash that are read together, in the order of SessionView.of."""

TOOLS = "tools"
"""The field of the client's tools, which is read apart."""

DELETED = "deleted"


@dataclass(frozen=True)
class SessionView:
    state: State
    epoch: int
    token: str
    """Proves the pen; empty while nobody holds it. Never leaves the system."""
    last: EventId
    generation: str
    attempt: int
    crashes: int
    worker: str
    stop: str
    """The generation somebody asked to stop, or empty."""
    question: str
    answer: str
    """JSON of the answer the open question got, or empty."""
    since: int
    """ms of the last change of state."""
    expire_at: int
    """ms at which the log expires; 0 while a generation is live."""
    model: str
    pipeline: str
    options: str
    on_crash: str
    principal: str
    created: int
    log_exists: bool
    tools: str = ""
    """JSON of the client's tools, or empty. They may be large, and a claim alone reads them."""
    trace: str = ""
    """The `traceparent` of the turn, or empty. A claim alone reads it."""

    @property
    def live(self) -> bool:
        return self.state in LIVE

    @property
    def log_gone(self) -> bool:
        return not self.live and not self.log_exists

    @classmethod
    def of(cls, values: Sequence[bytes | None], log_exists: bool) -> "SessionView | None":
        """From HMGET of FIELDS; None where no session is (or it was deleted)."""
        text = dict(zip(FIELDS, ((value or b"").decode() for value in values), strict=True))
        if not text["state"] or text["state"] == DELETED:
            return None

        def number(name: str) -> int:
            return int(text[name] or 0)

        return cls(
            state=State(text["state"]),
            epoch=number("epoch"),
            token=text["token"],
            last=EventId.parse(text["last"] or "0-0"),
            generation=text["generation"],
            attempt=number("attempt"),
            crashes=number("crashes"),
            worker=text["worker"],
            stop=text["stop"],
            question=text["question"],
            answer=text["answer"],
            since=number("since"),
            expire_at=number("expire_at"),
            model=text["model"],
            pipeline=text["pipeline"],
            options=text["options"],
            on_crash=text["on_crash"],
            principal=text["principal"],
            created=number("created"),
            log_exists=log_exists,
        )
